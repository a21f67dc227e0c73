"""NRRD and MetaImage files with generated headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.io import read_volume, write_volume
from Testing.io.helpers import matrices, read_or_refused
from Testing.io.nrrd_cases import UNORIENTED, meta_content, nrrd_content

SPACES = {
    "right-anterior-superior": np.diag([1, 1, 1, 1]),
    "left-anterior-superior": np.diag([-1, 1, 1, 1]),
    "left-posterior-superior": np.diag([-1, -1, 1, 1]),
    "LPS": np.diag([-1, -1, 1, 1]),
    "RAS": np.diag([1, 1, 1, 1]),
}
UNITS = {"mm": 1, "um": 1e-3, "\u00b5m": 1e-3, "cm": 10, "meters": 1e3, "": 1}


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes, np.ndarray, np.ndarray]:
    """Return name, content, voxels and matrix of a NRRD or MetaImage file."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    array = np.random.default_rng(draw(st.integers(0, 9))).normal(size=shape).astype(np.float32)
    matrix = draw(matrices())
    if draw(st.booleans()):
        unit, factor = draw(st.sampled_from(sorted(UNITS.items())))
        in_unit = np.diag([1 / factor] * 3 + [1]) @ matrix
        unit_line = [f'DistanceUnits = "{unit}"'] if unit else []
        return "a.mha", meta_content(array, in_unit, *unit_line), array, matrix
    units = draw(st.lists(st.sampled_from(sorted(UNITS)), min_size=3, max_size=3))
    space = draw(st.sampled_from(sorted(SPACES)))
    to_file = np.diag([*(1 / UNITS[unit] for unit in units), 1]) @ SPACES[space]
    fields: dict[str, Any] = {"space": space, "encoding": draw(st.sampled_from(["raw", "gzip"]))}
    if draw(st.booleans()):
        fields["space_units"] = " ".join(f'"{unit}"' for unit in units)
    else:
        to_file = SPACES[space]
    return "a.nrrd", nrrd_content(array, to_file @ matrix, **fields), array, matrix


def test_a_space_without_axes_does_not_say_the_orientation(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(nrrd_content(matrix=None, space="right-anterior-superior"))
    notes = read_volume(path).notes
    assert [note for note in notes if UNORIENTED in note]


@settings(max_examples=30, deadline=None)
@given(file=files(), kept=st.sampled_from([1.0, 1.0, 1.0, 0.8, 0.4]))
def test_any_place_and_unit_is_read_and_cut_files_are_refused(
    tmp_path_factory: pytest.TempPathFactory,
    file: tuple[str, bytes, np.ndarray, np.ndarray],
    kept: float,
) -> None:
    name, content, array, matrix = file
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[: int(len(content) * kept)])
    volume = read_or_refused(path)
    if isinstance(volume, str):
        assert kept < 1
        assert str(path) in volume
        return
    assert kept == 1
    assert np.array_equal(volume.array, array)
    np.testing.assert_allclose(volume.ijk_to_ras, matrix, atol=1e-5)
    assert volume.notes == ()
    for suffix in (".nrrd", ".mha", ".nii"):
        write_volume(volume, path.with_name(f"again{suffix}"), overwrite=True)
        again = read_or_refused(path.with_name(f"again{suffix}"))
        assert not isinstance(again, str)
        assert again.same_grid(volume)
        assert np.array_equal(again.array, array)
        assert again.notes == ()


@settings(max_examples=30, deadline=None)
@given(
    meta_image=st.booleans(),
    position=st.integers(8, 400),
    replacement=st.sampled_from(
        ["nan", "-1", "0", "9" * 20, "(", ")", "\n", " ", ":", "=", "none"]
    ),
)
def test_a_damaged_header_makes_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, meta_image: bool, position: int, replacement: str
) -> None:
    content = bytearray(meta_content() if meta_image else nrrd_content())
    content[position : position + len(replacement)] = replacement.encode()
    path = tmp_path_factory.getbasetemp() / ("damaged.mha" if meta_image else "damaged.nrrd")
    path.write_bytes(content)
    read_or_refused(path)
