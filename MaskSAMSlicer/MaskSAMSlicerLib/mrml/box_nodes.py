"""Boxes of classes as ROI nodes: creating, placing, finding and drawing them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.geometry import Box, RasBox, Volume, box_in_space
from MaskSAMSlicerLib.mrml.volumes import (
    box_from_roi,
    ijk_to_node,
    is_orthogonal,
    roi_to_world,
    transform_to_world,
    volume_from_node,
)

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode, vtkMRMLNode, vtkMRMLScalarVolumeNode

# Attributes of a box node: its class, and "1" if the user moved or drew it.
_CLASS, _EDITED = "MaskSAM.Box", "MaskSAM.BoxEdited"
# Attribute with the IJK-to-RAS matrix, without transforms, of the volume that the box belongs to.
_MATRIX = "MaskSAM.BoxMatrix"
# Node reference to the box's owner: its segmentation, or its volume for models without classes.
_OWNER = "MaskSAM.BoxOf"
# Attribute of the subject hierarchy's folder that holds the boxes of one owner.
_FOLDER = "MaskSAM.Boxes"
# Edges that differ by up to this many voxels are equal: saving and loading a scene rounds them.
_EDGE_TOLERANCE = 1e-2


def class_of(node: vtkMRMLMarkupsROINode) -> str:
    """Return the class name of a box: the one that the panel noted, else the node's name."""
    return node.GetAttribute(_CLASS) or node.GetName()


def set_class(node: vtkMRMLMarkupsROINode, name: str) -> None:
    """Note the class name of a box."""
    node.SetAttribute(_CLASS, name)


def is_edited(node: vtkMRMLMarkupsROINode) -> bool:
    """Return whether the user moved or drew the box."""
    return node.GetAttribute(_EDITED) == "1"


def set_edited(node: vtkMRMLMarkupsROINode, edited: bool) -> None:
    """Note whether the user moved or drew the box."""
    if is_edited(node) != edited:
        node.SetAttribute(_EDITED, "1" if edited else "0")


def boxes_of(owner: vtkMRMLNode | None) -> list[vtkMRMLMarkupsROINode]:
    """Return all boxes of a segmentation or of a volume, in the order of the scene."""
    if owner is None:
        return []
    return [node for node in all_boxes() if node.GetNodeReferenceID(_OWNER) == owner.GetID()]


def all_boxes() -> list[vtkMRMLMarkupsROINode]:
    """Return the boxes of all owners, in the order of the scene."""
    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    return [node for node in nodes if node.GetAttribute(_CLASS)]


def has_size(node: vtkMRMLMarkupsROINode) -> bool:
    """Return whether the box has been drawn."""
    return node.GetNumberOfDefinedControlPoints() > 0 and min(node.GetSize()) > 0


def add_box(
    owner: vtkMRMLNode,
    volume_node: vtkMRMLScalarVolumeNode,
    name: str,
    color: tuple[float, float, float],
) -> vtkMRMLMarkupsROINode:
    """Add a box under the transform of a volume, without placing it.

    All boxes of an owner are in one folder of the subject hierarchy, beside the volume.

    Args:
        owner: segmentation of the box, or the volume for models without classes.
        volume_node: volume of the box.
        name: class name.
        color: RGB, 0 to 1.
    """
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    set_class(node, name)
    node.SetNodeReferenceID(_OWNER, owner.GetID())
    follow(node, volume_node)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*color)
    display.SetSelectedColor(*color)
    display.SetActiveColor(*(0.5 + 0.5 * value for value in color))
    # A filled box would hide the image and the segment.
    display.SetFillVisibility(False)
    display.SetHandlesInteractive(True)
    display.SetTranslationHandleVisibility(True)
    display.SetScaleHandleVisibility(True)
    display.SetRotationHandleVisibility(False)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, _folder_of(owner, volume_node))
    return node


def remove_box(node: vtkMRMLMarkupsROINode) -> None:
    """Remove a box, and its folder if the folder is then empty."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    slicer.mrmlScene.RemoveNode(node)
    if hierarchy.HasItemAttribute(folder, _FOLDER) and not hierarchy.GetNumberOfItemChildren(
        folder
    ):
        hierarchy.RemoveItem(folder)


def adopt_clones() -> None:
    """Give boxes that the user has cloned the owner of the other boxes in their folder.

    A clone has the attributes of its node, but not its references.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    owners, clones = {}, []
    for node in all_boxes():
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        owner = node.GetNodeReference(_OWNER)
        if owner is None:
            clones.append((node, folder))
        elif hierarchy.HasItemAttribute(folder, _FOLDER):
            owners[folder] = owner
    for node, folder in clones:
        if folder in owners:
            node.SetNodeReferenceID(_OWNER, owners[folder].GetID())


def remove_orphans() -> None:
    """Remove the boxes whose segmentation, or volume for models without classes, was removed."""
    for node in all_boxes():
        if node.GetNodeReference(_OWNER) is None:
            remove_box(node)


def _folder_of(owner: vtkMRMLNode, volume_node: vtkMRMLScalarVolumeNode) -> int:
    """Return the subject hierarchy's folder of an owner's boxes; create it if needed."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    for node in boxes_of(owner):
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        if hierarchy.HasItemAttribute(folder, _FOLDER):
            return folder
    volume_item = hierarchy.GetItemByDataNode(volume_node)
    parent = hierarchy.GetItemParent(volume_item) if volume_item else hierarchy.GetSceneItemID()
    name = _("{segmentation} boxes").format(segmentation=owner.GetName())
    folder = hierarchy.CreateFolderItem(parent, name)
    hierarchy.SetItemAttribute(folder, _FOLDER, "1")
    hierarchy.SetItemExpanded(folder, False)
    return folder


def follows(node: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Return whether a box is under the transform of its volume."""
    return bool(node.GetTransformNodeID() == volume_node.GetTransformNodeID())


def follow(node: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Put a box under the transform of its volume, and note the volume's own matrix."""
    if not follows(node, volume_node):
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    matrix = json.dumps(ijk_to_node(volume_node).tolist())
    if node.GetAttribute(_MATRIX) != matrix:
        node.SetAttribute(_MATRIX, matrix)


def has_matrix_of(node: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Return whether the volume's own matrix is still the one noted in a box.

    False after a transform of the volume was hardened, and for boxes of earlier versions.
    """
    text = node.GetAttribute(_MATRIX)
    if not text:
        return False
    array = slicer.util.arrayFromVolume(volume_node)
    return Volume(array, np.array(json.loads(text))).same_grid(
        Volume(array, ijk_to_node(volume_node))
    )


def place_box(node: vtkMRMLMarkupsROINode, box: Box, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Place a node around voxel edges (i, j, k) of a volume, along the volume's axes."""
    follow(node, volume_node)
    # Both nodes now have the same transform, so the volume's own coordinates are the box's too.
    grid = Volume(slicer.util.arrayFromVolume(volume_node), ijk_to_node(volume_node))
    _place_in_node(node, box_in_space(box, grid))


def place_in_world(node: vtkMRMLMarkupsROINode, box: RasBox) -> None:
    """Place a node around a box in the world, whatever the node's transform.

    Raises:
        ValueError: the transform is not linear, or would shear the box.
    """
    from_world = np.linalg.inv(transform_to_world(node))[:3]
    axes = from_world[:, :3] @ np.asarray(box.axes)
    center = from_world @ [*box.center, 1]
    if not is_orthogonal(axes):
        raise ValueError(
            _("The transform of '{name}' would shear the box: harden it first.").format(
                name=node.GetName()
            )
        )
    lengths = np.linalg.norm(axes, axis=0)
    size = np.asarray(box.size) * lengths
    _place_in_node(
        node,
        RasBox(box.class_name, tuple(center.tolist()), axes / lengths, tuple(size.tolist())),
    )


def _place_in_node(node: vtkMRMLMarkupsROINode, box: RasBox) -> None:
    """Place a node around a box in the coordinates of the node's own transform."""
    axes = np.asarray(box.axes, dtype=float)
    if np.linalg.det(axes) < 0:  # an ROI cannot be mirrored; flipping an axis gives the same box
        axes = axes * [1, 1, -1]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, box.center
    was_modifying = node.StartModify()
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.SetSize(*box.size)
    node.SetCenter(*box.center)
    node.EndModify(was_modifying)


def box_in_world(node: vtkMRMLMarkupsROINode) -> RasBox:
    """Return the box of a node in the world, named like its class."""
    to_world = roi_to_world(node)
    lengths = np.linalg.norm(to_world[:3, :3], axis=0)
    size = np.array(node.GetSize()) * lengths
    center: Any = tuple(to_world[:3, 3].tolist())
    return RasBox(class_of(node), center, to_world[:3, :3] / lengths, tuple(size.tolist()))


def differs(node: vtkMRMLMarkupsROINode, box: Box, volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Return whether a node's box differs from voxel edges (i, j, k) of a volume."""
    volume = volume_from_node(volume_node)
    try:
        found = box_from_roi(node, volume)
    except ValueError:
        return True
    wanted = box.clipped(volume.shape)
    edges = np.array([*found.lower, *found.upper]) - [*wanted.lower, *wanted.upper]
    return bool(np.abs(edges).max() > _EDGE_TOLERANCE)


def draw(node: vtkMRMLMarkupsROINode) -> None:
    """Start drawing a box: the user clicks two opposite corners in a slice view."""
    node.RemoveAllControlPoints()
    # The logic of Markups is not used because its place mode places points, whatever the node is.
    application_logic = slicer.app.applicationLogic()
    selection = application_logic.GetSelectionNode()
    selection.SetReferenceActivePlaceNodeClassName(node.GetClassName())
    selection.SetActivePlaceNodeID(node.GetID())
    application_logic.GetInteractionNode().SwitchToSinglePlaceMode()
