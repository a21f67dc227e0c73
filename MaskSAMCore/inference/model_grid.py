"""From the input's voxels to the plan's grid and back: the crop, the orientation, the spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume, apply_axes, axis_mapping, crop
from MaskSAMCore.inference.sliding_window import Shape


@dataclass(frozen=True)
class PlanGrid:
    """How the part of a volume that is processed lies on the plan's grid.

    Both cover the same box of space, so voxel edges map linearly, end to end.

    Attributes:
        volume_shape: [K, J, I] of the input.
        region: the part processed, in whole IJK voxel edges of the input.
        axes: for depth, rows and columns of the plan, the input's array axis (of [K, J, I]).
        flips: for the same, whether it runs against the input's axis.
        shape: (depth, rows, columns) of the plan's grid; of the region before it is resampled.
    """

    volume_shape: Shape
    region: Box
    axes: Shape
    flips: tuple[bool, bool, bool]
    shape: Shape

    @classmethod
    def of(cls, volume: Volume, roi: Box | None, orientation: str) -> PlanGrid:
        """The grid of a volume, before any resampling.

        Args:
            volume: the input.
            roi: the part to process, in IJK voxel edges; None for all.
            orientation: the plan's, three letters of LRAPSI.

        Raises:
            MaskSAMError: the ROI is empty or outside the volume.
        """
        region = _whole_voxels(volume, roi)
        axes, flips = axis_mapping(volume.ijk_to_ras, orientation)
        extent = [part.stop - part.start for part in region.slices()]
        depth, rows, columns = (extent[axis] for axis in axes)
        return cls(volume.shape, region, axes, flips, (depth, rows, columns))

    def resampled_to(self, shape: Sequence[int]) -> PlanGrid:
        """The same box of space with another number of voxels."""
        depth, rows, columns = shape
        return replace(self, shape=(depth, rows, columns))

    @property
    def slice_thickness(self) -> float:
        """Of the input's slices along the plan's depth, in slices of the plan's grid."""
        part = self.region.slices()[self.axes[0]]
        return self.shape[0] / (part.stop - part.start)

    def crop(self, volume: Volume) -> Volume:
        """The region of a volume, with its geometry."""
        return crop(volume, self.region)

    def upright(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of the region of [K, J, I] as (depth, rows, columns) of the plan."""
        return apply_axes(array[self.region.slices()], self.axes, self.flips)

    def clipped(self, box: Box) -> Box:
        """The part of a person's box that lies in the region.

        Raises:
            MaskSAMError: the box is empty, or outside the volume or the region.
        """
        name = box.class_name
        if not np.isfinite([*box.lower, *box.upper]).all():
            raise MaskSAMError(f"the box '{name}' has corners that are not numbers")
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
        """(2, 3): lower and upper edges (depth, row, column) on the plan's grid, exact."""
        low, high = np.array(self.region.lower), np.array(self.region.upper)
        edges = (np.array([box.lower, box.upper]) - low) / (high - low)
        turned = edges[:, ::-1][:, list(self.axes)]
        turned = np.where(self.flips, 1 - turned[::-1], turned)
        return turned * np.array(self.shape)

    def from_plan(self, edges: NDArray[np.float64], label: str = "") -> Box:
        """Inverse of :meth:`to_plan`: the box in IJK voxel edges of the input."""
        turned = np.asarray(edges, dtype=np.float64) / np.array(self.shape)
        turned = np.where(self.flips, 1 - turned[::-1], turned)
        kji = np.empty((2, 3))
        kji[:, list(self.axes)] = turned
        low, high = np.array(self.region.lower), np.array(self.region.upper)
        i, j, k = (low + kji[:, ::-1] * (high - low)).T.tolist()
        return Box(label, (i[0], j[0], k[0]), (i[1], j[1], k[1]))

    def box_of_part(self, box: Box, part: Sequence[slice], shape: Sequence[int]) -> Box:
        """A box of whole voxels found in a part of :meth:`upright`, in IJK edges of the input.

        Args:
            box: its edges are (column, row, depth), counted from where the part begins.
            part: of the upright array, whose shape is `shape`.
        """
        first = np.array([axis.start for axis in part])
        edges = np.array([box.lower[::-1], box.upper[::-1]]) + first
        found = self.resampled_to(shape).from_plan(edges, box.class_name)
        i0, j0, k0 = (float(round(edge)) for edge in found.lower)
        i1, j1, k1 = (float(round(edge)) for edge in found.upper)
        return replace(found, lower=(i0, j0, k0), upper=(i1, j1, k1))


def _whole_voxels(volume: Volume, roi: Box | None) -> Box:
    """The voxels that an ROI touches, within the volume."""
    if roi is None:
        i, j, k = (float(size) for size in volume.shape[::-1])
        return Box("", (0.0, 0.0, 0.0), (i, j, k))
    if not np.isfinite([*roi.lower, *roi.upper]).all() or roi.empty:
        raise MaskSAMError("the ROI is empty: give it a size along each axis")
    region = roi.clipped(volume.shape)
    if region.empty:
        raise MaskSAMError("the ROI lies outside the volume: move it over the image")
    return region.rounded()
