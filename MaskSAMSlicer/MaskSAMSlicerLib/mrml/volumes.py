"""From MRML volumes and ROIs to arrays, matrices and voxel boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box, RasBox, Volume, box_on_grid

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLTransformableNode


def volume_from_node(node: vtkMRMLScalarVolumeNode | None) -> Volume:
    """A volume node's voxels and where they are in the world.

    The array is a view of the node's own voxels, not a copy. A linear parent transform is part of
    the matrix: what the person sees is what the model gets.

    Raises:
        ValueError: it is no 3D scalar image, or its parent transform is not linear.
    """
    if node is None:
        raise ValueError(_("Choose a volume first: load one with the Add Data dialog."))
    if not hasattr(node, "IsA") or not node.IsA("vtkMRMLScalarVolumeNode"):
        raise ValueError(_("{what!r} is no volume node: choose one.").format(what=node))
    image = node.GetImageData()
    if image is None or image.GetPointData() is None or image.GetPointData().GetScalars() is None:
        raise ValueError(_("The volume '{name}' has no voxels.").format(name=node.GetName()))
    if image.GetNumberOfScalarComponents() != 1:
        raise ValueError(
            _(
                "The volume '{name}' has several values a voxel (color or vectors): choose a scalar"
                " volume, or convert it with the Vector to Scalar Volume module."
            ).format(name=node.GetName())
        )
    if min(image.GetDimensions()) < 2:
        raise ValueError(
            _("The volume '{name}' is a single slice: MaskSAM needs a 3D image.").format(
                name=node.GetName()
            )
        )
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    ijk_to_world = transform_to_world(node) @ slicer.util.arrayFromVTKMatrix(matrix)
    return Volume(slicer.util.arrayFromVolume(node), ijk_to_world, node.GetName())


def transform_to_world(node: vtkMRMLTransformableNode) -> np.ndarray:
    """4 x 4 matrix of all parent transforms of a node.

    Raises:
        ValueError: they are not linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise ValueError(
            _(
                "'{name}' is under the deformation '{transform}': harden it (right-click the"
                " transform in the Data module, Harden transform) and try again."
            ).format(name=node.GetName(), transform=parent.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def box_from_roi(roi: vtkMRMLMarkupsROINode, volume: Volume, label: str = "") -> Box:
    """The smallest box in voxel edges of ``volume`` around all eight corners of an ROI.

    Raises:
        ValueError: the ROI has no size yet, or lies wholly outside the volume.
    """
    if not hasattr(roi, "IsA") or not roi.IsA("vtkMRMLMarkupsROINode"):
        raise ValueError(_("{what!r} is no ROI node: choose one.").format(what=roi))
    size = np.array(roi.GetSize(), dtype=float)
    if roi.GetNumberOfDefinedControlPoints() < 1 or (size <= 0).any():
        raise ValueError(
            _("The ROI '{name}' has no size: draw it in a slice view.").format(name=roi.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(roi.GetObjectToWorldMatrix())
    to_world = slicer.util.arrayFromVTKMatrix(matrix)
    center = tuple(float(value) for value in to_world[:3, 3])
    box = box_on_grid(RasBox(label, center, to_world[:3, :3], tuple(size.tolist())), volume)
    inside = box.clipped(volume.shape)
    if inside.empty:
        raise ValueError(
            _("The ROI '{roi}' lies outside the volume '{volume}': move it over it.").format(
                roi=roi.GetName(), volume=volume.name
            )
        )
    return inside
