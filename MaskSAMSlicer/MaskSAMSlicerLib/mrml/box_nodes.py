"""Boxes of classes as ROI nodes: one made, put in its place, found again, drawn by a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box, RasBox, Volume, box_in_space
from MaskSAMSlicerLib.mrml.volumes import box_from_roi, transform_to_world, volume_from_node

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode, vtkMRMLNode, vtkMRMLScalarVolumeNode

# The class, and whether a person moved or drew the box: saved with the scene.
_CLASS, _EDITED = "MaskSAM.Box", "MaskSAM.BoxEdited"
# Of what the box is: a segmentation, or for models without classes the volume.
_OWNER = "MaskSAM.BoxOf"
# Edges that differ by less, in voxels, are the same: a box comes back from a file a bit off.
_SAME_VOXELS = 1e-2


def class_of(node: vtkMRMLMarkupsROINode) -> str:
    """The class that a box is for: what the panel noted, or the node's name."""
    return node.GetAttribute(_CLASS) or node.GetName()


def set_class(node: vtkMRMLMarkupsROINode, name: str) -> None:
    """Note the class that a box is for."""
    node.SetAttribute(_CLASS, name)


def is_edited(node: vtkMRMLMarkupsROINode) -> bool:
    """Whether a person moved or drew the box."""
    return node.GetAttribute(_EDITED) == "1"


def set_edited(node: vtkMRMLMarkupsROINode, edited: bool) -> None:
    """Note whether a person moved or drew the box."""
    if is_edited(node) != edited:
        node.SetAttribute(_EDITED, "1" if edited else "0")


def boxes_of(owner: vtkMRMLNode | None) -> list[vtkMRMLMarkupsROINode]:
    """All boxes of a segmentation or of a volume, in the order of the scene."""
    if owner is None:
        return []
    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    return [
        node
        for node in nodes
        if node.GetAttribute(_CLASS) and node.GetNodeReferenceID(_OWNER) == owner.GetID()
    ]


def has_size(node: vtkMRMLMarkupsROINode) -> bool:
    """Whether it is drawn, and not only about to be."""
    return node.GetNumberOfDefinedControlPoints() > 0 and min(node.GetSize()) > 0


def add_box(
    owner: vtkMRMLNode,
    volume_node: vtkMRMLScalarVolumeNode,
    name: str,
    color: tuple[float, float, float],
) -> vtkMRMLMarkupsROINode:
    """A box without a place yet, in the folder and under the transform of the volume."""
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    set_class(node, name)
    node.SetNodeReferenceID(_OWNER, owner.GetID())
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*color)
    display.SetSelectedColor(*color)
    display.SetActiveColor(*(0.5 + 0.5 * value for value in color))
    # The image and the segment below it are what a person looks at.
    display.SetFillVisibility(False)
    display.SetHandlesInteractive(True)
    display.SetTranslationHandleVisibility(True)
    display.SetScaleHandleVisibility(True)
    display.SetRotationHandleVisibility(False)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    volume_item, item = (hierarchy.GetItemByDataNode(one) for one in (volume_node, node))
    if volume_item and item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(volume_item))
    return node


def place_box(node: vtkMRMLMarkupsROINode, box: Box, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Put a node around voxel edges (i, j, k) of a volume, along the volume's axes."""
    # In the volume's own coordinates, which the box shares as long as it has its transform.
    to_ras = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(to_ras)
    ijk_to_ras = slicer.util.arrayFromVTKMatrix(to_ras)
    if node.GetTransformNodeID() != volume_node.GetTransformNodeID():
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    put(node, box_in_space(box, Volume(slicer.util.arrayFromVolume(volume_node), ijk_to_ras)))


def put(node: vtkMRMLMarkupsROINode, box: RasBox) -> None:
    """Put a node around a box in the coordinates of its own transform."""
    axes = np.asarray(box.axes, dtype=float)
    if np.linalg.det(axes) < 0:  # an ROI turns, it does not mirror; the box is the same
        axes = axes * [1, 1, -1]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, box.center
    was_modifying = node.StartModify()
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.SetSize(*box.size)
    node.SetCenter(*box.center)
    node.EndModify(was_modifying)


def put_in_world(node: vtkMRMLMarkupsROINode, box: RasBox) -> None:
    """Put a node around a box in the world, whatever its transform.

    Raises:
        ValueError: the transform is not linear, or would shear the box.
    """
    from_world = np.linalg.inv(transform_to_world(node))[:3]
    axes = from_world[:, :3] @ np.asarray(box.axes)
    center = from_world @ [*box.center, 1]
    lengths = np.linalg.norm(axes, axis=0)
    axes = axes / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4:
        raise ValueError(
            _("The transform of '{name}' would shear the box: harden it first.").format(
                name=node.GetName()
            )
        )
    size = np.asarray(box.size) * lengths
    put(node, RasBox(box.class_name, tuple(center.tolist()), axes, tuple(size.tolist())))


def in_world(node: vtkMRMLMarkupsROINode) -> RasBox:
    """The box in the world, named like its class: what is saved in files."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(node.GetObjectToWorldMatrix())
    to_world = slicer.util.arrayFromVTKMatrix(matrix)
    lengths = np.linalg.norm(to_world[:3, :3], axis=0)
    size = np.array(node.GetSize()) * lengths
    center: Any = tuple(to_world[:3, 3].tolist())
    return RasBox(class_of(node), center, to_world[:3, :3] / lengths, tuple(size.tolist()))


def differs(node: vtkMRMLMarkupsROINode, box: Box, volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Whether a box lies elsewhere than voxel edges of a volume."""
    volume = volume_from_node(volume_node)
    try:
        found = box_from_roi(node, volume)
    except ValueError:
        return True
    wanted = box.clipped(volume.shape)
    edges = np.array([*found.lower, *found.upper]) - [*wanted.lower, *wanted.upper]
    return bool(np.abs(edges).max() > _SAME_VOXELS)


def draw(node: vtkMRMLMarkupsROINode) -> None:
    """Let the person draw a box: two clicks in a slice view."""
    node.RemoveAllControlPoints()
    # Not through the logic of markups, whose place mode is one of points whatever the node is.
    application_logic = slicer.app.applicationLogic()
    selection = application_logic.GetSelectionNode()
    selection.SetReferenceActivePlaceNodeClassName(node.GetClassName())
    selection.SetActivePlaceNodeID(node.GetID())
    application_logic.GetInteractionNode().SwitchToSinglePlaceMode()
