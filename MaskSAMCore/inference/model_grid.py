"""Geometry between the input's voxels and the plan's grid: crop, orientation and spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.data import Plan, check_voxel_size
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume, apply_axes, axis_mapping, crop
from MaskSAMCore.inference.sliding_window import Region, Shape
from MaskSAMCore.intensities import check_intensities


@dataclass(frozen=True)
class ModelGrid:
    """Grid that a model works on, and its place in a volume.

    The grid and the processed region of the volume cover the same box of space, so that voxel edges
    map linearly, end to end.

    Attributes:
        volume_shape: [K, J, I] of the volume.
        region: processed part of the volume, in whole IJK voxel edges.
        axes: array axis of [K, J, I] that depth, rows and columns of the grid run along.
        flips: for each of depth, rows and columns, True if it runs against its array axis.
        shape: (depth, rows, columns) of the grid.
    """

    volume_shape: Shape
    region: Box
    axes: Shape
    flips: tuple[bool, bool, bool]
    shape: Shape

    @classmethod
    def of(cls, volume: Volume, roi: Box | None, orientation: str) -> ModelGrid:
        """Build the grid of a volume with the volume's own spacing.

        Args:
            volume: the input.
            roi: region to process, in IJK voxel edges; None for the whole volume.
            orientation: directions of depth, rows and columns, three letters of RLAPSI.

        Raises:
            MaskSAMError: the ROI is empty or outside the volume.
        """
        region = _touched_voxels(volume, roi)
        axes, flips = axis_mapping(volume.ijk_to_ras, orientation)
        extent = [part.stop - part.start for part in region.slices()]
        depth, rows, columns = (extent[axis] for axis in axes)
        return cls(volume.shape, region, axes, flips, (depth, rows, columns))

    def resampled_to(self, shape: Sequence[int]) -> ModelGrid:
        """Return the grid of the same box of space with another number of voxels."""
        depth, rows, columns = shape
        return replace(self, shape=(depth, rows, columns))

    @property
    def slice_thickness(self) -> float:
        """Thickness of the volume's slices along the depth of the grid, in slices of the grid."""
        part = self.region.slices()[self.axes[0]]
        return self.shape[0] / (part.stop - part.start)

    def spacing_of(self, volume: Volume) -> tuple[float, float, float]:
        """Return the voxel size of the grid along depth, rows and columns, in mm.

        Args:
            volume: the volume that the grid was made for.
        """
        parts = self.region.slices()
        depth, rows, columns = (
            (parts[axis].stop - parts[axis].start) * volume.spacing[2 - axis] / n
            for axis, n in zip(self.axes, self.shape, strict=True)
        )
        return depth, rows, columns

    def crop(self, volume: Volume) -> Volume:
        """Return the region of a volume, with its geometry."""
        return crop(volume, self.region)

    def to_plan_axes(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view (depth, rows, columns) of the region of an array [K, J, I]."""
        return apply_axes(array[self.region.slices()], self.axes, self.flips)

    def check_volume(
        self, volume: Volume, plan: Plan | None = None, limits: tuple[float, float] | None = None
    ) -> None:
        """Check that a model can compute with the region of a volume, before memory is needed.

        Args:
            volume: the input.
            plan: plan of the network; None for a network that takes any grid.
            limits: lowest and highest intensity that the network distinguishes; None for no limits.

        Raises:
            MaskSAMError: the voxel size cannot be in mm, a voxel is no finite number, or there is
                no contrast.
        """
        part = self.crop(volume)
        subject = f"the volume '{volume.name}'" if volume.name else "the volume"
        check_voxel_size(part, subject, plan)
        if part.shape != volume.shape:
            subject = f"the ROI in {subject}"
        check_intensities(part.array, subject, limits)

    def clipped(self, box: Box) -> Box:
        """Return the part of a box of the user that lies in the region.

        Raises:
            MaskSAMError: the box is empty, or outside the volume or the region.
        """
        name = box.class_name
        _check_box(box, f"the box '{name}'")
        if box.empty:
            raise MaskSAMError(f"the box '{name}' is empty: give it a size along each axis")
        if box.clipped(self.volume_shape).empty:
            raise MaskSAMError(f"the box '{name}' lies outside the volume: move it inside")
        i0, j0, k0 = map(max, box.lower, self.region.lower)
        i1, j1, k1 = map(min, box.upper, self.region.upper)
        inside = replace(box, lower=(i0, j0, k0), upper=(i1, j1, k1))
        if inside.empty:
            raise MaskSAMError(f"the box '{name}' lies outside the ROI: move or enlarge one")
        return inside

    def to_plan(self, box: Box) -> NDArray[np.float64]:
        """Return the lower and upper edges (2, 3) of a box, as (depth, row, column) of the grid.

        Args:
            box: in IJK voxel edges of the volume.
        """
        low, high = np.array(self.region.lower), np.array(self.region.upper)
        fractions = (np.array([box.lower, box.upper]) - low) / (high - low)
        mapped = fractions[:, ::-1][:, list(self.axes)]
        mapped = np.where(self.flips, 1 - mapped[::-1], mapped)
        return mapped * np.array(self.shape)

    def from_plan(self, edges: NDArray[np.float64], class_name: str = "") -> Box:
        """Return the box of edges on the grid, the inverse of :meth:`to_plan`.

        Args:
            edges: (2, 3), lower and upper edges as (depth, row, column) of the grid.
            class_name: class of the box.
        """
        mapped = np.asarray(edges, dtype=np.float64) / np.array(self.shape)
        mapped = np.where(self.flips, 1 - mapped[::-1], mapped)
        fractions = np.empty((2, 3))
        fractions[:, list(self.axes)] = mapped
        low, high = np.array(self.region.lower), np.array(self.region.upper)
        i, j, k = (low + fractions[:, ::-1] * (high - low)).T.tolist()
        return Box(class_name, (i[0], j[0], k[0]), (i[1], j[1], k[1]))

    def place_from_plan(self, place: NDArray[np.float64]) -> tuple[float, float, float] | None:
        """Return a place on the grid as edges (i, j, k) of the volume; None if it has NaN.

        Args:
            place: (depth, row, column) in voxel edges of the grid.
        """
        if np.isnan(place).any():
            return None
        return self.from_plan(np.stack([place, place])).lower

    def box_of_part(self, box: Box, part: Region, shape: Shape) -> Box:
        """Return a bounding box in part of a labelmap as a box of the volume, in whole voxels.

        Args:
            box: edges (column, row, depth), counted from the start of the part.
            part: index of the part in the result of :meth:`to_plan_axes`.
            shape: (depth, rows, columns) of the result of :meth:`to_plan_axes`.
        """
        first = np.array([axis.start for axis in part])
        edges = np.array([box.lower[::-1], box.upper[::-1]]) + first
        found = self.resampled_to(shape).from_plan(edges, box.class_name)
        i0, j0, k0 = (float(round(edge)) for edge in found.lower)
        i1, j1, k1 = (float(round(edge)) for edge in found.upper)
        return replace(found, lower=(i0, j0, k0), upper=(i1, j1, k1))


def _check_box(box: Box, subject: str) -> None:
    """Check that a box of the user has two corners of three finite numbers.

    Raises:
        MaskSAMError: it has not, or something else is given, such as a box in space.
    """
    if not isinstance(box, Box):
        raise MaskSAMError(
            f"{subject} must be a Box on the grid of the volume, not {type(box).__name__}: place a"
            " box of read_boxes there with box_on_grid(box, volume)"
        )
    try:
        corners = np.array([box.lower, box.upper], dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.shape != (2, 3) or not np.isfinite(corners).all():
        raise MaskSAMError(f"{subject} has corners that are not numbers: give three for each")


def _touched_voxels(volume: Volume, roi: Box | None) -> Box:
    """Return the box of the voxels that an ROI touches, clipped to the volume."""
    if roi is None:
        i, j, k = (float(size) for size in volume.shape[::-1])
        return Box("", (0.0, 0.0, 0.0), (i, j, k))
    _check_box(roi, "the ROI")
    if roi.empty:
        raise MaskSAMError("the ROI is empty: give it a size along each axis")
    region = roi.clipped(volume.shape)
    if region.empty:
        raise MaskSAMError("the ROI lies outside the volume: move it over the image")
    return region.rounded()
