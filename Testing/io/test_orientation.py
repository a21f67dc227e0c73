"""Choice of a volume's matrix from the orientations in its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import NiftiOrientation
from MaskSAMCore.io.orientation import check_voxel_size, nifti_matrix, rectangular_matrix, shear
from Testing.io.nifti_cases import MATRIX, SPACING, sheared, shifted

SHAPE = (4, 5, 6)
PATH = Path("head.nii")


def test_slightly_sheared_axes_become_rectangular_and_others_are_refused() -> None:
    matrix, _ = rectangular_matrix(sheared(0.004), SHAPE, PATH)
    assert shear(matrix) < 1e-6
    np.testing.assert_allclose(np.linalg.norm(matrix[:3, :3], axis=0), SPACING)
    middle = [*((np.array(SHAPE[::-1]) - 1) / 2), 1]
    np.testing.assert_allclose(matrix @ middle, sheared(0.004) @ middle)
    with pytest.raises(MaskSAMError, match="sheared axes"):
        rectangular_matrix(sheared(0.007), SHAPE, PATH)


@pytest.mark.parametrize(("voxels", "noted"), [(0.08, False), (0.13, True)])
def test_forms_are_said_to_differ_from_a_tenth_of_a_voxel_on(voxels: float, noted: bool) -> None:
    sform = shifted(voxels * min(SPACING))
    matrix, notes = nifti_matrix(NiftiOrientation(MATRIX, 1, sform, 2), SHAPE, PATH)
    assert np.array_equal(matrix, MATRIX)
    assert bool(notes) is noted


@pytest.mark.parametrize(("mm", "used"), [(5e-5, "sform"), (5e-3, "qform")])
def test_an_sform_that_is_not_the_scanners_is_used_if_it_is_equal_to_the_qform(
    mm: float, used: str
) -> None:
    forms = {"qform": MATRIX, "sform": shifted(mm)}
    matrix, _ = nifti_matrix(NiftiOrientation(MATRIX, 1, forms["sform"], 2), SHAPE, PATH)
    np.testing.assert_allclose(matrix, forms[used], rtol=0, atol=1e-9)


def test_a_sheared_sform_is_not_used_beside_a_qform() -> None:
    matrix, notes = nifti_matrix(NiftiOrientation(MATRIX, 1, sheared(0.05), 1), SHAPE, PATH)
    assert np.array_equal(matrix, MATRIX) and "its qform (code 1) is used" in notes[0]


@pytest.mark.parametrize(("mm", "refused"), [(5e-5, True), (1e-3, False), (45, False), (60, True)])
def test_voxels_have_a_size_that_a_scan_can_have(mm: float, refused: bool) -> None:
    matrix = np.diag([1.0, mm, 1.0, 1.0])
    if refused:
        with pytest.raises(MaskSAMError, match="correct their size or unit"):
            check_voxel_size(matrix, PATH)
    else:
        check_voxel_size(matrix, PATH)
