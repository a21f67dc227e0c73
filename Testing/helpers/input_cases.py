"""Input files of many kinds, with the outcome of reading each.

The cases are tested, and listed in ``Docs/inputs.md``: a test fails if the tables there differ from
those of :func:`table`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume

Outcome = Literal["read", "read with a note", "refused"]


@dataclass(frozen=True)
class Expected:
    """Input of a case and the expected result of reading it.

    Attributes:
        path: file or folder to read.
        array: voxels [K, J, I] to expect; None if the file must be refused.
        ijk_to_ras: matrix (4, 4) to expect; None if the file must be refused.
    """

    path: Path
    array: NDArray[Any] | None = None
    ijk_to_ras: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class InputCase:
    """A kind of input file.

    Attributes:
        title: short description of the input for the table.
        write: function that writes the input into an empty folder.
        outcome: result of reading the input.
        message: regular expression for the note or the error; empty if there is neither.
        reason: explanation for the table: what is read and why, or why the input is refused.
    """

    title: str
    write: Callable[[Path], Expected]
    outcome: Outcome
    message: str = ""
    reason: str = ""


def table(cases: Sequence[InputCase]) -> str:
    """Return a Markdown table of cases."""
    rows = [f"| {case.title} | {case.outcome} | {case.reason} |" for case in cases]
    return "\n".join(["| Input | Outcome | |", "|---|---|---|", *rows])


def check(case: InputCase, folder: Path, read: Callable[[Path], Volume]) -> None:
    """Write the input of a case, read it and check the outcome.

    Args:
        case: case to check.
        folder: empty folder.
        read: reader, such as ``read_volume``.
    """
    expected = case.write(folder)
    if case.outcome == "refused":
        with pytest.raises(MaskSAMError, match=case.message) as error:
            read(expected.path)
        assert "\n" not in str(error.value)
        return
    volume = read(expected.path)
    assert expected.array is not None
    assert expected.ijk_to_ras is not None
    np.testing.assert_allclose(volume.array, expected.array, rtol=1e-6)
    np.testing.assert_allclose(volume.ijk_to_ras, expected.ijk_to_ras, atol=1e-4)
    if case.outcome == "read":
        assert volume.notes == ()
    else:
        assert len(volume.notes) == 1
        assert re.search(case.message, volume.notes[0]), volume.notes[0]
