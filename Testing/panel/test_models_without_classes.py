"""Models that need boxes, in the panel; the tests use a small SAM."""

from __future__ import annotations

import numpy as np
import pytest

from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from Testing import host
from Testing.helpers.sam_reference import small_sam, synthetic_slice
from Testing.panel.helpers import move_box
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_volume,
    assert_segments,
    segment_names,
    segment_voxels,
)


@pytest.fixture
def volume(scene):
    import slicer

    planes = np.stack([synthetic_slice(26, 32, seed) for seed in range(9)]).astype(np.int16)
    volume = add_volume(planes * 3 + 40, GRIDS["oblique"], "bräin")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume


def expected(volume, nodes):
    """Return the result of the engine for the boxes of ROI nodes."""
    from MaskSAMSlicerLib.mrml.box_nodes import class_of
    from MaskSAMSlicerLib.mrml.volumes import box_from_roi, volume_from_node

    image = volume_from_node(volume)
    boxes = [box_from_roi(node, image, class_of(node)) for node in nodes]
    return SamSegmenter(small_sam(), device="cpu").segment(image, boxes=boxes)


def draw(user, name, lower, upper, volume):
    """Name a box, click Draw, and place the box as two clicks would."""
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import boxes_of, class_of

    user.ui.boxName.setText(name)
    user.click(user.ui.drawBoxButton)
    node = [one for one in boxes_of(volume) if class_of(one) == name][-1]
    move_box(node, lower, upper, volume)
    slicer.app.applicationLogic().GetInteractionNode().SwitchToViewTransformMode()
    return node


def test_a_segment_is_made_for_each_name_and_changes_with_its_boxes(user, scene, volume):
    user.choose_volume(volume)
    user.choose_model("anything")
    assert not user.ui.segmentButton.enabled
    assert "draw it" in user.ui.segmentButton.toolTip
    assert user.ui.boxesButton.isVisibleTo(user.ui.boxesButton.parent())
    assert not user.ui.drawBoxButton.enabled
    nodes = [
        draw(user, "Wirbel", (4, 5, 1), (20, 19, 6), volume),
        draw(user, "Niere", (18, 3, 3), (29, 14, 8), volume),
    ]
    user.click(user.ui.segmentButton)
    user.wait()
    node = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert segment_names(node) == ["Niere", "Wirbel"]
    result = expected(volume, nodes)
    assert_segments(node, volume, result.labelmap, result.labels)
    move_box(nodes[0], (2, 4, 1), (14, 17, 5), volume)
    user.segment_again()
    moved = expected(volume, nodes)
    assert_segments(node, volume, moved.labelmap, moved.labels)
    user.click(user.ui.undoButton)
    assert not np.array_equal(segment_voxels(node, "Wirbel", volume), moved.labelmap == 2)
    assert not host.messages.texts("error")


def test_the_segment_of_a_removed_box_is_emptied(user, scene, volume):
    user.choose_volume(volume)
    user.choose_model("anything")
    nodes = [
        draw(user, "one", (4, 5, 1), (16, 19, 6), volume),
        draw(user, "two", (18, 3, 3), (29, 14, 8), volume),
    ]
    user.click(user.ui.segmentButton)
    user.wait()
    node = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert segment_voxels(node, "one", volume).any()
    user.ui.boxesTable.selectRow(0)
    assert user.ui.resetBoxButton.text == "Rem&ove"
    user.click(user.ui.resetBoxButton)
    user.segment_again()
    assert not segment_voxels(node, "one", volume).any()
    kept = expected(volume, nodes[1:]).labelmap == 1
    assert np.array_equal(segment_voxels(node, "two", volume), kept)


def test_the_last_box_is_needed_to_segment_again(user, scene, volume):
    user.choose_volume(volume)
    user.choose_model("anything")
    draw(user, "one", (4, 5, 1), (16, 19, 6), volume)
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.ui.updateButton.enabled
    user.ui.boxesTable.selectRow(0)
    user.click(user.ui.resetBoxButton)
    assert not user.ui.updateButton.enabled


def test_the_folder_of_the_boxes_is_removed_with_the_last_one(user, scene, volume):
    import slicer

    user.choose_volume(volume)
    user.choose_model("anything")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    before = hierarchy.GetNumberOfItems()
    box = draw(user, "one", (4, 5, 1), (16, 19, 6), volume)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(box))
    assert hierarchy.GetItemName(folder) == f"{volume.GetName()} boxes"
    user.ui.boxesTable.selectRow(0)
    user.click(user.ui.resetBoxButton)
    assert hierarchy.GetNumberOfItems() == before


def test_a_script_passes_boxes(known, volume):
    with pytest.raises(ValueError, match="draw a box"):
        known.segment(volume, model="anything")
    roi = add_roi((4, 5, 1), (20, 19, 6), GRIDS["oblique"], "Wirbel")
    node = known.segment(volume, model="anything", boxNodes=[roi])
    result = expected(volume, [roi])
    assert_segments(node, volume, result.labelmap, result.labels)
