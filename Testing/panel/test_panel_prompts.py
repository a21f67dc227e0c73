"""Models that segment what boxes are drawn around, at the real panel: SAM, small."""

from __future__ import annotations

import numpy as np

from MaskSAMCore import Box
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from Testing import host
from Testing.helpers.sam_reference import photograph, small_sam
from Testing.slicer.module_tools import GRIDS, add_volume, segment_names, segment_voxels


def picture_volume():
    import slicer

    planes = np.stack([photograph(26, 32, seed) for seed in range(9)]).astype(np.int16)
    volume = add_volume(planes * 3 + 40, GRIDS["oblique"], "bräin")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume


def engine(volume, nodes):
    from MaskSAMSlicerLib.mrml.box_nodes import class_of
    from MaskSAMSlicerLib.mrml.volumes import box_from_roi, volume_from_node

    image = volume_from_node(volume)
    boxes = [box_from_roi(node, image, class_of(node)) for node in nodes]
    return SamSegmenter(small_sam(), device="cpu").segment(image, boxes=boxes)


def draw(person, name, lower, upper, volume):
    """Name a box, press Draw, and put it where two clicks would."""
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import boxes_of, class_of, place_box

    person.ui.boxName.setText(name)
    person.click(person.ui.drawBoxButton)
    node = [one for one in boxes_of(volume) if class_of(one) == name][-1]
    place_box(node, Box(name, lower, upper), volume)
    slicer.app.applicationLogic().GetInteractionNode().SwitchToViewTransformMode()
    return node


def test_a_model_without_classes_asks_for_boxes_and_gives_a_segment_a_name(person, scene):
    volume = picture_volume()
    person.choose_volume(volume)
    person.choose_model("anything")
    assert not person.ui.segmentButton.enabled
    assert "draw it" in person.ui.segmentButton.toolTip
    assert person.ui.boxesButton.isVisibleTo(person.ui.boxesButton.parent())
    assert not person.ui.drawBoxButton.enabled
    nodes = [
        draw(person, "Wirbel", (4, 5, 1), (20, 19, 6), volume),
        draw(person, "Niere", (18, 3, 3), (29, 14, 8), volume),
    ]
    person.click(person.ui.segmentButton)
    person.wait()
    result = engine(volume, nodes)
    node = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert segment_names(node) == ["Niere", "Wirbel"]
    for label in result.labels:
        assert np.array_equal(
            segment_voxels(node, label.name, volume), result.labelmap == label.value
        )
    # Moved, one is decoded again; the other's voxels may change only where they overlapped.
    from MaskSAMSlicerLib.mrml.box_nodes import place_box

    place_box(nodes[0], Box("Wirbel", (2, 4, 1), (14, 17, 5)), volume)
    person.click(person.ui.updateButton)
    person.wait()
    result = engine(volume, nodes)
    for label in result.labels:
        assert np.array_equal(
            segment_voxels(node, label.name, volume), result.labelmap == label.value
        )
    person.click(person.ui.undoButton)
    assert not np.array_equal(segment_voxels(node, "Wirbel", volume), result.labelmap == 2)
    assert not host.messages.texts("error")


def test_a_box_is_removed_and_its_segment_emptied_by_the_next_update(person, scene):
    volume = picture_volume()
    person.choose_volume(volume)
    person.choose_model("anything")
    nodes = [
        draw(person, "one", (4, 5, 1), (16, 19, 6), volume),
        draw(person, "two", (18, 3, 3), (29, 14, 8), volume),
    ]
    person.click(person.ui.segmentButton)
    person.wait()
    node = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert segment_voxels(node, "one", volume).any()
    person.ui.boxesTable.selectRow(0)
    assert person.ui.resetBoxButton.text == "Remove"
    person.click(person.ui.resetBoxButton)
    person.click(person.ui.updateButton)
    person.wait()
    assert not segment_voxels(node, "one", volume).any()
    kept = engine(volume, nodes[1:]).labelmap == 1
    assert np.array_equal(segment_voxels(node, "two", volume), kept)


def test_a_script_gives_boxes_to_a_model_without_classes(known):
    import pytest

    from Testing.slicer.module_tools import add_roi

    volume = picture_volume()
    with pytest.raises(ValueError, match="draw a box"):
        known.segment(volume, model="anything")
    roi = add_roi((4, 5, 1), (20, 19, 6), GRIDS["oblique"], "Wirbel")
    node = known.segment(volume, model="anything", boxNodes=[roi])
    assert np.array_equal(
        segment_voxels(node, "Wirbel", volume), engine(volume, [roi]).labelmap == 1
    )
