"""Random DICOM stacks, and DICOM files with random damage: the right volume, or one line."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume
from Testing.helpers.dicom import (
    oblique_matrix,
    position,
    stored_values,
    write_enhanced,
    write_slices,
)

EXAMPLES = 25
MATRIX = oblique_matrix()

angles = st.floats(-180, 180)
sizes = st.integers(1, 6)
steps = st.floats(0.3, 6).map(lambda value: round(value, 3))


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Return IJK-to-RAS matrices of slices in order along the normal."""
    matrix = np.eye(4)
    rotation = Rotation.from_euler("xyz", [draw(angles) for _ in range(3)], degrees=True)
    matrix[:3, :3] = rotation.as_matrix() @ np.diag([draw(steps) for _ in range(3)])
    matrix[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return matrix


def read_in_one_line(path: Path) -> Volume | None:
    """Return the volume, or None if it is refused in one line; no warning may be shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read_volume(path)
        except MaskSAMError as error:
            message = str(error)
    assert str(path.name) in message
    assert "\n" not in message
    return None


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.tuples(st.integers(2, 7), sizes, sizes),
    matrices(),
    st.randoms(use_true_random=False),
    st.sampled_from([(1.0, 0.0), (1.0, -1024.0), (0.25, 3.0), (2.0, 0.5)]),
    st.booleans(),
)
def test_a_stack_in_any_order_and_place_is_read_as_it_is(
    shape: tuple[int, int, int],
    matrix: np.ndarray,
    rng: object,
    scale: tuple[float, float],
    multi_frame: bool,
) -> None:
    stored = stored_values(shape)
    order = list(range(shape[0]))
    rng.shuffle(order)  # type: ignore[attr-defined]
    slopes = [scale[0] * (1 + k % 2) for k in range(shape[0])]
    expected = stored * np.array(slopes)[:, None, None] + scale[1]

    def change(header: Dataset, k: int) -> None:
        header.RescaleSlope, header.RescaleIntercept = slopes[k], scale[1]

    def change_frame(group: Dataset, number: int) -> None:
        values = Dataset()
        change(values, order[number])
        group.PixelValueTransformationSequence = [values]

    with tempfile.TemporaryDirectory() as folder:
        if multi_frame:
            write_enhanced(Path(folder) / "a.dcm", stored[order], matrix, order, change_frame)
        else:
            paths = write_slices(Path(folder), stored, matrix, change)
            for k, path in zip(order, paths, strict=True):
                path.rename(path.with_name(f"{k}.dcm"))
        volume = read_volume(Path(folder))
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
    np.testing.assert_allclose(volume.ijk_to_ras, matrix, atol=1e-4)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(3, 6),
    st.sampled_from(["moved along", "moved aside", "removed", "repeated", "changed copy"]),
    st.integers(0, 100),
    st.booleans(),
)
def test_a_stack_with_a_wrong_slice_is_refused(
    slices: int, fault: str, number: int, multi_frame: bool
) -> None:
    wrong = 1 + number % (slices - 2)
    stored = stored_values((slices, 3, 4))
    matrix = MATRIX.copy()
    aside = matrix[:3, 0] if fault == "moved aside" else 0.4 * matrix[:3, 2]
    places = list(range(slices))
    if fault == "removed":
        del places[wrong]
        stored = np.delete(stored, wrong, axis=0)
    elif fault in ("repeated", "changed copy"):
        places.insert(wrong, wrong)
        stored = np.insert(stored, wrong, stored[wrong], axis=0)
        stored[wrong + 1] += fault == "changed copy"

    def move(header: Dataset, k: int) -> None:
        place = position(matrix, places[k])
        if fault.startswith("moved") and k == wrong:
            place = [a + b for a, b in zip(place, aside * (-1, -1, 1), strict=True)]
        header.ImagePositionPatient = place

    with tempfile.TemporaryDirectory() as folder:
        if multi_frame:
            write_enhanced(
                Path(folder) / "a.dcm",
                stored,
                matrix,
                places,
                lambda group, k: move(group.PlanePositionSequence[0], k),
            )
        else:
            write_slices(Path(folder), stored, matrix, move)
        volume = read_in_one_line(Path(folder))
    if fault == "repeated":
        assert volume is not None
        assert volume.array.shape[0] == slices
        assert len(volume.notes) == 1
    elif fault == "removed" and len(places) == 2:
        assert volume is not None  # two slices are evenly spaced wherever they lie
    else:
        assert volume is None


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=3),
    st.floats(0, 1),
)
def test_a_file_with_random_damage_is_read_or_refused_in_one_line(
    multi_frame: bool, changes: list[tuple[float, bytes]], kept: float
) -> None:
    stored = stored_values((3, 3, 4))
    with tempfile.TemporaryDirectory() as folder:
        if multi_frame:
            path = Path(folder) / "a.dcm"
            write_enhanced(path, stored, MATRIX)
        else:
            path = write_slices(Path(folder), stored, MATRIX)[1]
        data = bytearray(path.read_bytes())
        for place, replacement in changes:
            start = int(place * len(data))
            data[start : start + len(replacement)] = replacement
        if kept > 0.5:
            data = data[: int((kept - 0.5) * 2 * len(data))]
        path.write_bytes(data)
        volume = read_in_one_line(Path(folder))
        if volume is not None:
            assert volume.array.ndim == 3
        read_in_one_line(path)
