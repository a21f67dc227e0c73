"""Arrays, matrices and voxel boxes of MRML volumes and ROIs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, RasBox, Volume, box_on_grid

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLMarkupsROINode,
        vtkMRMLNode,
        vtkMRMLScalarVolumeNode,
        vtkMRMLTransformableNode,
    )

# Largest cosine of the angle between two axes that count as orthogonal.
_ORTHOGONALITY_TOLERANCE = 1e-4


def is_node(candidate: object, class_name: str) -> bool:
    """Return whether an object is an MRML node of a class or of its subclasses."""
    return hasattr(candidate, "IsA") and bool(candidate.IsA(class_name))


def is_image(node: vtkMRMLNode | None) -> bool:
    """Return whether a node is a scalar volume; labelmap volumes, a subclass, do not count."""
    return node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode"


def default_volume() -> vtkMRMLScalarVolumeNode | None:
    """Return the image that slice views show, else the scene's first; None if there is none."""
    scene = slicer.mrmlScene
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    shown = [scene.GetNodeByID(view.GetBackgroundVolumeID() or "") for view in views]
    loaded = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    images = [node for node in shown + loaded if is_image(node) and not node.GetHideFromEditors()]
    return images[0] if images else None


def check_volume(what: object) -> None:
    """Check that an object is the node of an image.

    Raises:
        ValueError: the object is something else, such as a labelmap.
    """
    if what is None:
        raise ValueError(_("Choose a volume first: load one with the Add Data dialog."))
    if not is_node(what, "vtkMRMLScalarVolumeNode"):
        raise ValueError(_("{what!r} is not a volume node: choose one.").format(what=what))
    if what.IsA("vtkMRMLLabelMapVolumeNode"):
        raise ValueError(
            _("'{name}' is a labelmap: choose the image that it belongs to.").format(
                name=what.GetName()
            )
        )


def volume_from_node(
    node: vtkMRMLScalarVolumeNode | None, frame: vtkMRMLScalarVolumeNode | None = None
) -> Volume:
    """Return the voxels of a volume node and their place in the world.

    The array is a view of the node's voxels, not a copy. The matrix includes linear parent
    transforms, so that the model gets the volume as the user sees it.

    Args:
        node: the volume.
        frame: volume of a sequence whose voxels are returned instead of the node's; the parent
            transform, name and DICOM attributes are still the node's.

    Raises:
        ValueError: the node is not a 3D scalar image, or is a labelmap, a parent transform is not
            linear, or the matrix is not invertible.
    """
    check_volume(node)
    stored = node if frame is None else frame
    image = stored.GetImageData()
    if image is None or image.GetPointData() is None or image.GetPointData().GetScalars() is None:
        raise ValueError(_("The volume '{name}' has no voxels.").format(name=node.GetName()))
    if image.GetNumberOfScalarComponents() != 1:
        raise ValueError(
            _(
                "The volume '{name}' has several values per voxel (colors or vectors): choose a"
                " scalar volume, or convert it with the Vector to Scalar Volume module."
            ).format(name=node.GetName())
        )
    if min(image.GetDimensions()) < 2:
        raise ValueError(
            _("The volume '{name}' is a single slice: MaskSAM needs a 3D image.").format(
                name=node.GetName()
            )
        )
    ijk_to_world = transform_to_world(node) @ ijk_to_node(stored)
    array = slicer.util.arrayFromVolume(stored)
    try:
        return Volume(array, ijk_to_world, node.GetName(), modality=_modality(node))
    except MaskSAMError as error:
        raise ValueError(
            _(
                "The volume '{name}' has no usable place in space ({reason}): check its spacing and"
                " directions, and the transforms above it, in the Volumes and Transforms modules."
            ).format(name=node.GetName(), reason=error)
        ) from error


def _modality(node: vtkMRMLScalarVolumeNode) -> str:
    """Return the modality that DICOM states for a volume; empty if it was not read from DICOM."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    return str(hierarchy.GetItemAttribute(item, "DICOM.Modality")) if item else ""


def ijk_to_node(node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """Return the 4 x 4 matrix from voxel indices (i, j, k) to the volume's own RAS coordinates,
    without parent transforms."""
    return _filled_matrix(node.GetIJKToRASMatrix)


def transform_to_world(node: vtkMRMLTransformableNode) -> np.ndarray:
    """Return the 4 x 4 matrix of all parent transforms of a node.

    Raises:
        ValueError: a parent transform is not linear.
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
    return _filled_matrix(parent.GetMatrixTransformToWorld)


def roi_to_world(roi: vtkMRMLMarkupsROINode) -> np.ndarray:
    """Return the 4 x 4 matrix from an ROI's object coordinates to the world.

    Raises:
        ValueError: a parent transform is not linear.
    """
    return transform_to_world(roi) @ slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())


def box_from_roi(roi: vtkMRMLMarkupsROINode, volume: Volume, class_name: str = "") -> Box:
    """Return the smallest box in voxel edges of a volume around all eight corners of an ROI.

    Raises:
        ValueError: the ROI has no size yet, lies outside the volume, or is under a deformation.
    """
    if not is_node(roi, "vtkMRMLMarkupsROINode"):
        raise ValueError(_("{what!r} is not an ROI node: choose one.").format(what=roi))
    size = np.array(roi.GetSize(), dtype=float)
    if roi.GetNumberOfDefinedControlPoints() < 1 or (size <= 0).any():
        raise ValueError(
            _("The ROI '{name}' has no size: draw it in a slice view.").format(name=roi.GetName())
        )
    to_world = roi_to_world(roi)
    center = tuple(float(value) for value in to_world[:3, 3])
    box = box_on_grid(RasBox(class_name, center, to_world[:3, :3], tuple(size.tolist())), volume)
    inside = box.clipped(volume.shape)
    if inside.empty:
        raise ValueError(
            _(
                "The ROI '{roi}' lies outside the volume '{volume}': move it over the volume."
            ).format(roi=roi.GetName(), volume=volume.name)
        )
    return inside


def place_in_world(node: vtkMRMLScalarVolumeNode, edges: Sequence[float]) -> list[float]:
    """Return the position in the world, in RAS mm, of a point in voxel edges (i, j, k) of a volume.

    Raises:
        ValueError: a parent transform is not linear.
    """
    indices = np.append(np.asarray(edges, dtype=float) - 0.5, 1.0)
    place: list[float] = (transform_to_world(node) @ ijk_to_node(node) @ indices)[:3].tolist()
    return place


def is_orthogonal(axes: np.ndarray) -> bool:
    """Return whether the columns of a 3 x 3 matrix are at right angles."""
    unit = axes / np.linalg.norm(axes, axis=0)
    return bool(np.abs(unit.T @ unit - np.eye(3)).max() <= _ORTHOGONALITY_TOLERANCE)


def _filled_matrix(fill: Callable[[vtk.vtkMatrix4x4], object]) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    fill(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
