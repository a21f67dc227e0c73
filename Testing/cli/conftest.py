"""A small model and a small image for the tests of the shell command."""

from __future__ import annotations

from pathlib import Path

import pytest

from Testing.helpers.generated import generated_case, write_image
from Testing.helpers.small_bundle import small_bundle


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_bundle(tmp_path_factory.mktemp("models") / "small"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "bräin.nii.gz"
    write_image(generated_case(0, (8, 18, 22))[0], path)
    return path
