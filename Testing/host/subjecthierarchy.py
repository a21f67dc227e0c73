"""Synchronization of the subject hierarchy with the scene, as the application's plugins do it.

The hierarchy node is real. The application's Qt part is replaced: every node that a plugin would
claim gets an item unless it is hidden from editors; a removed node loses its item; an import adds
items that the file's hierarchy lacks; a closed scene gets a new hierarchy. Items for single
segments and actions of plugins are not supported.
"""

from __future__ import annotations

import slicer
import vtk

_CLAIMED = {
    "vtkMRMLLabelMapVolumeNode": "LabelMaps",
    "vtkMRMLVolumeNode": "Volumes",
    "vtkMRMLSegmentationNode": "Segmentations",
    "vtkMRMLMarkupsNode": "Markups",
    "vtkMRMLTransformNode": "Transforms",
    "vtkMRMLModelNode": "Models",
    "vtkMRMLTableNode": "Tables",
    "vtkMRMLTextNode": "Texts",
    "vtkMRMLSequenceNode": "Sequences",
}
_HIERARCHY = slicer.vtkMRMLSubjectHierarchyNode


def plugin_for(node) -> str | None:
    """Return the name of the plugin that would claim the node, or None."""
    if node is None or node.GetHideFromEditors():
        return None
    # Slice planes are models that belong to the views.
    if node.IsA("vtkMRMLModelNode") and slicer.vtkMRMLSliceLogic.IsSliceModelNode(node):
        return None
    return next((plugin for kind, plugin in _CLAIMED.items() if node.IsA(kind)), None)


def keep(scene) -> None:
    """Observe the scene and update its subject hierarchy."""
    events = slicer.vtkMRMLScene

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_added(scene, event, node):
        if node.IsA("vtkMRMLSubjectHierarchyNode"):
            _HIERARCHY.ResolveSubjectHierarchy(scene)
        elif not scene.IsImporting():
            _claim(scene, node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_about_to_be_removed(scene, event, node):
        if scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        hierarchy = _HIERARCHY.GetSubjectHierarchyNode(scene)
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.RemoveItem(item, False, False)

    def on_imported(scene, event):
        _HIERARCHY.ResolveSubjectHierarchy(scene)
        nodes = scene.GetNodes()
        for index in range(nodes.GetNumberOfItems()):
            _claim(scene, nodes.GetItemAsObject(index))

    def on_closed(scene, event):
        _HIERARCHY.ResolveSubjectHierarchy(scene)

    scene.AddObserver(events.NodeAddedEvent, on_added)
    scene.AddObserver(events.NodeAboutToBeRemovedEvent, on_about_to_be_removed)
    scene.AddObserver(events.EndImportEvent, on_imported, 10.0)
    scene.AddObserver(events.EndCloseEvent, on_closed)
    _HIERARCHY.ResolveSubjectHierarchy(scene)


def _claim(scene, node) -> None:
    plugin = plugin_for(node)
    if plugin is None:
        return
    hierarchy = _HIERARCHY.GetSubjectHierarchyNode(scene)
    if not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node, plugin)
