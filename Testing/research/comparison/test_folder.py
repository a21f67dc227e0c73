"""The folder of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.research.comparison.folder import Folder


def test_a_comparison_continues_under_its_own_terms_only(tmp_path: Path):
    folder = Folder(tmp_path / "out")
    terms = {"dataset": "Generated", "cases": ["a"], "max_minutes": 1.0}
    folder.begin(terms)
    folder.begin(terms)
    with pytest.raises(MaskSAMError, match="another max_minutes: choose another folder"):
        folder.begin({**terms, "max_minutes": 2.0})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(MaskSAMError, match="is not empty"):
        Folder(tmp_path / "full").begin(terms)
