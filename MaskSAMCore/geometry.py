"""Volumes and boxes in space.

Arrays are [K, J, I]. The matrix of a volume maps voxel indices (i, j, k), integers at voxel
centres, to RAS mm. Boxes are given by voxel edges: edge 0 is the outer face of the first voxel, so
that an integer box covers ``array[k0:k1, j0:j1, i0:i1]`` and the centre of voxel n lies at n + 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError

# Tolerance in voxels: corners read from files are off by about 1e-6, which must not add a voxel.
EDGE_TOLERANCE = 1e-3
# Three unit vectors count as coplanar if their parallelepiped has less volume than this.
_FLAT = 1e-6

# Matrix from the LPS axes of DICOM and ITK to the RAS axes of volumes.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Index of the RAS axis of each direction, and the sign along it.
_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}

# Grids whose corners differ by less than this in mm are the same: files round their matrices.
SAME_GRID_MM = 0.05


@dataclass(frozen=True)
class NiftiOrientation:
    """The qform and sform of a NIfTI file, which a labelmap on the same grid copies.

    Attributes:
        qform: float64 (4, 4), from voxel indices to RAS mm, as a rotation and spacings.
        qform_code: kind of space of ``qform``; 0 if the file does not give it.
        sform: float64 (4, 4), from voxel indices to RAS mm, as any affine matrix.
        sform_code: kind of space of ``sform``; 0 if the file does not give it.
    """

    qform: NDArray[np.float64]
    qform_code: int
    sform: NDArray[np.float64]
    sform_code: int


@dataclass(frozen=True)
class Volume:
    """A 3D image with its place in space.

    Attributes:
        array: voxels [K, J, I].
        ijk_to_ras: float64 (4, 4), from voxel indices (i, j, k, 1) to RAS mm.
        name: name shown to the user.
        notes: warnings for the user about the file that the volume was read from.
        modality: DICOM's term for the modality, such as "MR" or "CT"; empty if unknown.
        orientation: orientations of the NIfTI file that the volume was read from, else None.

    Raises:
        MaskSAMError: the array is masked, is not a NumPy array or does not have 3 axes, or the
            matrix is not finite and invertible with the last row 0 0 0 1.
    """

    array: NDArray[Any]
    ijk_to_ras: NDArray[np.float64]
    name: str = ""
    notes: tuple[str, ...] = ()
    modality: str = ""
    orientation: NiftiOrientation | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.array, np.ndarray):
            raise MaskSAMError(
                f"the voxels of a volume must be a NumPy array, not {type(self.array).__name__}"
            )
        if isinstance(self.array, np.ma.MaskedArray):
            raise MaskSAMError("the array of a volume is masked: fill it, such as by filled(0)")
        if self.array.ndim != 3:
            raise MaskSAMError(f"a volume must have 3 axes, this array has {self.array.ndim}")
        try:
            matrix = np.asarray(self.ijk_to_ras, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise MaskSAMError("ijk_to_ras must be a 4 x 4 matrix of numbers") from error
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or _is_flat(matrix[:3, :3]):
            raise MaskSAMError("ijk_to_ras must be an invertible 4 x 4 matrix of finite numbers")
        if not np.allclose(matrix[3], [0, 0, 0, 1]):
            raise MaskSAMError("the last row of ijk_to_ras must be 0 0 0 1")
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along K, J, I."""
        k, j, i = self.array.shape
        return k, j, i

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along I, J, K in mm."""
        i, j, k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return abs(float(np.linalg.det(self.ijk_to_ras[:3, :3]))) / 1000

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """RAS unit vectors of I, J, K as columns, float64 (3, 3)."""
        directions: NDArray[np.float64] = self.ijk_to_ras[:3, :3] / np.asarray(self.spacing)
        return directions

    def same_grid(self, other: Volume, tolerance_mm: float = 1e-3) -> bool:
        """Return whether both shapes are equal and all corners lie within ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        corners = _corners(np.zeros(3), np.array(self.shape[::-1], dtype=float))
        corners = corners - 0.5
        difference = _transform(self.ijk_to_ras, corners) - _transform(other.ijk_to_ras, corners)
        return bool(np.abs(difference).max() <= tolerance_mm)


@dataclass(frozen=True)
class Box:
    """A bounding box of a class, or a region of interest, on the grid of a volume.

    Attributes:
        class_name: name of the class; empty for a region of interest.
        lower: lower edges (i, j, k) in voxels, possibly fractional.
        upper: upper edges (i, j, k) in voxels, possibly fractional.
    """

    class_name: str
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]

    def clipped(self, shape: tuple[int, int, int]) -> Box:
        """Return the part inside a volume of ``shape`` (K, J, I), which may be empty."""
        size = np.array(shape[::-1], dtype=float)
        lower = np.clip(self.lower, 0, size)
        upper = np.clip(self.upper, lower, size)
        return replace(self, lower=_triple(lower), upper=_triple(upper))

    def rounded(self) -> Box:
        """Return the box rounded outward to whole voxels, with ``EDGE_TOLERANCE``."""
        lower = np.floor(np.asarray(self.lower) + EDGE_TOLERANCE)
        upper = np.ceil(np.asarray(self.upper) - EDGE_TOLERANCE)
        return replace(self, lower=_triple(lower), upper=_triple(upper))

    @property
    def empty(self) -> bool:
        """True if the box has no extent along an axis."""
        sizes = np.asarray(self.upper) - np.asarray(self.lower)
        return bool((sizes <= EDGE_TOLERANCE).any())

    def slices(self) -> tuple[slice, slice, slice]:
        """Return the index of the box in an array [K, J, I], rounded outward."""
        box = self.rounded()
        i, j, k = (slice(int(a), int(b)) for a, b in zip(box.lower, box.upper, strict=True))
        return k, j, i


@dataclass(frozen=True)
class RasBox:
    """A box in space with its own axes, as the user draws it.

    Attributes:
        class_name: name of the class; may be empty.
        center: centre in RAS mm.
        axes: RAS unit vectors of the box's axes as columns, (3, 3).
        size: lengths along the box's axes in mm.
    """

    class_name: str
    center: tuple[float, float, float]
    axes: NDArray[np.float64]
    size: tuple[float, float, float]


def box_on_grid(box: RasBox, volume: Volume) -> Box:
    """Return the bounding box, on the grid of ``volume``, of the eight corners of ``box``."""
    half = np.array(box.size, dtype=np.float64) / 2
    offsets = _corners(-half, half) @ np.asarray(box.axes, dtype=np.float64).T
    corners: NDArray[np.float64] = np.array(box.center, dtype=np.float64) + offsets
    edges = _transform(np.linalg.inv(volume.ijk_to_ras), corners) + 0.5
    return Box(box.class_name, _triple(edges.min(0)), _triple(edges.max(0)))


def box_in_space(box: Box, volume: Volume) -> RasBox:
    """Return ``box``, which lies on the grid of ``volume``, as a box in space."""
    lower, upper = np.asarray(box.lower), np.asarray(box.upper)
    center = _transform(volume.ijk_to_ras, (lower + upper)[None] / 2 - 0.5)[0]
    size = (upper - lower) * np.asarray(volume.spacing)
    return RasBox(box.class_name, _triple(center), volume.directions, _triple(size))


def crop(volume: Volume, box: Box) -> Volume:
    """Return the part of a volume inside ``box``, rounded outward, at its place in space.

    Raises:
        MaskSAMError: the box lies outside the volume.
    """
    inside = box.clipped(volume.shape)
    if inside.empty:
        raise MaskSAMError("the region of interest lies outside the volume: move it inside")
    k, j, i = inside.slices()
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, 3] = _transform(matrix, np.array([[i.start, j.start, k.start]], dtype=float))[0]
    return replace(volume, array=volume.array[k, j, i], ijk_to_ras=matrix, orientation=None)


def image_digest(channels: Sequence[Volume]) -> str:
    """Return the SHA-256 of the voxels of an image's channels, regardless of their place in space.

    Copies of an image have the same digest, whatever their names.
    """
    digest = hashlib.sha256()
    for channel in channels:
        digest.update(f"{channel.array.dtype.str} {channel.shape}".encode())
        for part in channel.array:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def axis_mapping(
    ijk_to_ras: NDArray[np.float64], code: str
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return the permutation and flips that orient an array [K, J, I] to ``code``.

    Args:
        ijk_to_ras: (4, 4); in an oblique volume each direction gets the nearest axis.
        code: three letters of RLAPSI, the direction of each axis of the reoriented array.

    Returns:
        The axis of [K, J, I] for each axis of the reoriented array, and a second tuple that is True
        for each axis that is flipped.

    Raises:
        MaskSAMError: the code does not name each direction once.
    """
    if sorted(_DIRECTIONS[c][0] if c in _DIRECTIONS else -1 for c in code) != [0, 1, 2]:
        raise MaskSAMError(f"orientation '{code}' must name one of R/L, one of A/P and one of S/I")
    matrix = np.asarray(ijk_to_ras, dtype=float)[:3, :3]
    matrix = matrix / np.linalg.norm(matrix, axis=0)
    wanted = [_DIRECTIONS[c] for c in code]

    def agreement(columns: tuple[int, ...]) -> float:
        pairs = zip(wanted, columns, strict=True)
        return float(sum(abs(matrix[world, column]) for (world, _), column in pairs))

    columns = max(permutations(range(3)), key=agreement)
    flips = [
        bool(matrix[world, column] * sign < 0)
        for (world, sign), column in zip(wanted, columns, strict=True)
    ]
    axes = [2 - column for column in columns]
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])


def apply_axes(array: NDArray[Any], axes: tuple[int, ...], flips: tuple[bool, ...]) -> NDArray[Any]:
    """Return a view of an array, permuted and flipped as :func:`axis_mapping` returned."""
    permuted = array.transpose(axes)
    return permuted[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def invert_axes(
    array: NDArray[Any], axes: tuple[int, ...], flips: tuple[bool, ...]
) -> NDArray[Any]:
    """Return a view of an array with :func:`apply_axes` undone."""
    unflipped = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return unflipped.transpose(tuple(int(a) for a in np.argsort(axes)))


def reorient(volume: Volume, code: str) -> Volume:
    """Return the volume with its array axes oriented to ``code``; no voxel moves in space."""
    axes, flips = axis_mapping(volume.ijk_to_ras, code)
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        step[2 - old, 2 - new] = -1 if flip else 1
        step[2 - old, 3] = volume.array.shape[old] - 1 if flip else 0
    return replace(
        volume,
        array=apply_axes(volume.array, axes, flips),
        ijk_to_ras=volume.ijk_to_ras @ step,
        orientation=None,
    )


def _is_flat(axes: NDArray[np.float64]) -> bool:
    """Return whether the columns of a (3, 3) matrix lie in a plane, whatever their lengths."""
    lengths = np.linalg.norm(axes, axis=0)
    if not (lengths > 1e-100).all() or not np.isfinite(lengths).all():
        return True
    return abs(float(np.linalg.det(axes / lengths))) < _FLAT


def _corners(lower: NDArray[Any], upper: NDArray[Any]) -> NDArray[np.float64]:
    """Return the eight corners of a box, (8, 3)."""
    return np.array([[(lower, upper)[(n >> a) & 1][a] for a in range(3)] for n in range(8)])


def _transform(matrix: NDArray[Any], points: NDArray[Any]) -> NDArray[np.float64]:
    """Apply a (4, 4) matrix to points (M, 3)."""
    moved: NDArray[np.float64] = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
