"""The segmentation that Slicer's Segment Editor shows next."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import slicer

from MaskSAMSlicerLib.mrml.run_record import volumes_of

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

# Class and singleton tag of the node in which the Segment Editor keeps its choices.
_CLASS, _TAG = "vtkMRMLSegmentEditorNode", "SegmentEditor"


def edit(node: vtkMRMLSegmentationNode, segment_id: str = "") -> None:
    """Make the Segment Editor edit a segmentation on the volume that it was made from.

    Args:
        node: the segmentation.
        segment_id: segment to select; empty for none.
    """
    scene = slicer.mrmlScene
    editor = scene.GetSingletonNode(_TAG, _CLASS)
    if editor is None:
        editor = scene.CreateNodeByClass(_CLASS)
        editor.UnRegister(None)
        editor.SetSingletonTag(_TAG)
        editor = scene.AddNode(editor)
    editor.SetAndObserveSegmentationNode(node)
    # If the volume is no longer in the scene, the user chooses another one in the editor.
    with contextlib.suppress(ValueError):
        editor.SetAndObserveSourceVolumeNode(volumes_of(node)[0])
    if segment_id and node.GetSegmentation().GetSegment(segment_id) is not None:
        editor.SetSelectedSegmentID(segment_id)
