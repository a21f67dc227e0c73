"""Voxel-to-RAS matrices of volumes from the headers of files: one rule for all formats.

NIfTI files may hold two orientations, the qform and the sform. The rule is that of ITK, and so of
3D Slicer: the sform is used if it is the scanner's own or nearly equal to the qform, or if there is
no qform; otherwise the qform. Voxel sizes are those of the qform. (Where the sform mirrors or
turns the qform about the same origin, ITK's comparison depends on rounding; here the qform is
used.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import NiftiOrientation, axis_mapping

# Largest cosine between two axes that rounding explains; the axes are used unchanged.
RIGHT_ANGLE_TOLERANCE = 1e-4
# Largest cosine between two axes of a volume that is read. Registration and rounding of headers
# leave up to 0.002, which moves the corners of a head by 0.1 mm; gantry tilts are far larger.
LARGEST_SHEAR = 5e-3
# Displacement, as a fraction of the smallest voxel size, above which the user gets a note.
NOTED_DISPLACEMENT = 0.1
# Numbers above this limit, and lengths below its reciprocal, are damage: products would overflow.
LARGEST_NUMBER = 1e15
# Range of voxel sizes of scans in mm; sizes outside come from headers in other units.
SMALLEST_VOXEL = 1e-4
LARGEST_VOXEL = 50.0
# Differences in mm up to which ITK takes qform and sform for equal.
_EQUAL_FORMS = 1e-4
_SCANNER = 1


def is_size(lengths: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each number whether it is a length above 0, in any unit."""
    return (lengths > 1 / LARGEST_NUMBER) & (lengths < LARGEST_NUMBER)


def is_invertible(matrix: NDArray[np.float64]) -> bool:
    """Return whether a (4, 4) matrix is finite and its axes have three independent directions."""
    linear = matrix[:3, :3]
    if not (np.abs(matrix) < LARGEST_NUMBER).all():  # NaN included
        return False
    lengths = np.linalg.norm(linear, axis=0)
    return bool(is_size(lengths).all() and abs(np.linalg.det(linear / lengths)) > 1e-3)


def shear(matrix: NDArray[np.float64]) -> float:
    """Return the largest cosine between two axes of a (4, 4) matrix."""
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def size_text(spacing: NDArray[np.float64]) -> str:
    """Return voxel sizes as text, such as "1 x 1 x 2.5"."""
    return " x ".join(f"{size:.4g}" for size in spacing)


def check_voxel_size(matrix: NDArray[np.float64], path: Path) -> None:
    """Check that the voxel size of a file is plausible for a scan.

    Raises:
        MaskSAMError: voxels are too small or too large; the unit of the file is probably not mm.
    """
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if spacing.min() < SMALLEST_VOXEL or spacing.max() > LARGEST_VOXEL:
        raise MaskSAMError(
            f"{path} has voxels of {size_text(spacing)} mm: correct their size or unit in its"
            " header"
        )


def rectangular_matrix(
    matrix: NDArray[np.float64], shape: tuple[int, int, int], path: Path
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the matrix with axes at right angles that is nearest to a given one.

    Args:
        matrix: (4, 4), from voxel indices to RAS mm; finite and invertible.
        shape: voxels along K, J, I. The centre of the volume keeps its place.
        path: file that the matrix is from, for messages.

    Returns:
        The matrix, unchanged if its axes are at right angles except for rounding; and a note if the
        corners of the volume move noticeably.

    Raises:
        MaskSAMError: the axes are sheared by more than ``LARGEST_SHEAR``.
    """
    if shear(matrix) <= RIGHT_ANGLE_TOLERANCE:
        return matrix, ()
    if shear(matrix) > LARGEST_SHEAR:
        raise MaskSAMError(f"{path} has sheared axes: resample it to a rectangular grid")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(matrix[:3, :3] / lengths)
    nearest = matrix.copy()
    nearest[:3, :3] = (left @ right) * lengths
    center = (np.array(shape[::-1]) - 1) / 2
    nearest[:3, 3] += matrix[:3, :3] @ center - nearest[:3, :3] @ center
    moved = _displacement(matrix, nearest, shape)
    if moved <= NOTED_DISPLACEMENT * lengths.min():
        return nearest, ()
    return nearest, (
        f"{path.name} has slightly sheared axes: it is read on the nearest rectangular grid,"
        f" up to {moved:.2g} mm away",
    )


def nifti_matrix(
    orientation: NiftiOrientation, shape: tuple[int, int, int], path: Path
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the matrix of a NIfTI file, and notes about doubts in its orientation.

    Args:
        orientation: qform and sform. A form with a code above 0 is finite and invertible, and the
            lengths of the qform's columns are the voxel sizes even if its code is 0.
        shape: voxels along K, J, I.
        path: file that the orientation is from, for messages.

    Returns:
        The matrix, (4, 4) from voxel indices to RAS mm, with axes at right angles; and notes if
        the file has no orientation or contradicts itself.

    Raises:
        MaskSAMError: only the sform is given, and it is sheared.
    """
    qform, sform = orientation.qform, orientation.sform
    if not orientation.qform_code and not orientation.sform_code:
        return _unoriented_matrix(orientation, shape), (
            f"{path.name} does not say its orientation: left and right are a guess"
            " (its axes are taken to point left, anterior and superior)",
        )
    spacing = np.linalg.norm(qform[:3, :3], axis=0)
    noted = NOTED_DISPLACEMENT * spacing.min()
    if not orientation.qform_code:
        rectangular, notes = rectangular_matrix(sform, shape, path)
        matrix = _with_spacing(rectangular, spacing)
        if not notes and _displacement(matrix, sform, shape) > noted:
            sizes = size_text(np.linalg.norm(sform[:3, :3], axis=0))
            notes = (
                f"{path.name} has voxels of {size_text(spacing)} mm by its pixdim, but of {sizes}"
                " mm by its sform: pixdim is used, as in 3D Slicer",
            )
        return matrix, notes
    if not orientation.sform_code:
        return qform, ()
    sform_used = shear(sform) <= RIGHT_ANGLE_TOLERANCE and (
        orientation.sform_code == _SCANNER or np.abs(sform - qform).max() <= _EQUAL_FORMS
    )
    matrix = _with_spacing(sform, spacing) if sform_used else qform
    difference = _displacement(qform, sform, shape)
    if difference <= noted:
        return matrix, ()
    q, s = f"qform (code {orientation.qform_code})", f"sform (code {orientation.sform_code})"
    used, other = (s, q) if sform_used else (q, s)
    swapped = " and swap left and right" if _sides_differ(qform, sform) else ""
    return matrix, (
        f"{path.name} has two orientations, which differ by up to {difference:.3g} mm{swapped}:"
        f" its {used} is used, not its {other}",
    )


def _unoriented_matrix(
    orientation: NiftiOrientation, shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Return nibabel's matrix of a file without orientation, with the centre at the origin."""
    spacing = np.linalg.norm(orientation.qform[:3, :3], axis=0)
    matrix = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    return matrix


def _with_spacing(matrix: NDArray[np.float64], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = matrix.copy()
    scaled[:3, :3] *= spacing / np.linalg.norm(matrix[:3, :3], axis=0)
    return scaled


def _displacement(
    a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, int, int]
) -> float:
    """Return the largest distance in mm between the corners of a volume under two matrices."""
    ends = np.array(shape[::-1]) - 0.5
    corners = np.array(
        [[i, j, k, 1] for i in (-0.5, ends[0]) for j in (-0.5, ends[1]) for k in (-0.5, ends[2])]
    )
    return float(np.linalg.norm(corners @ (a - b)[:3].T, axis=1).max())


def _sides_differ(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Return whether the axis that points right under one matrix points left under the other."""
    (axis_a, *_), (flip_a, *_) = axis_mapping(a, "RAS")
    (axis_b, *_), (flip_b, *_) = axis_mapping(b, "RAS")
    return axis_a == axis_b and flip_a != flip_b
