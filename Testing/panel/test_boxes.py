"""Boxes in the panel: moving, drawing, resetting, saving and loading them, segmenting again."""

from __future__ import annotations

import numpy as np
import pytest

from MaskSAMCore import read_boxes
from Testing import host
from Testing.helpers.threshold_model import threshold_segmenter, two_blobs
from Testing.panel.helpers import (
    blobs_volume,
    box_node,
    clone,
    drag,
    edges_of,
    move_box,
    segmentations,
    show_slice_through,
)
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_transform,
    add_volume,
    add_warp,
    matrix,
    segment_names,
    segment_voxels,
    turn,
)


def segmentation(scene):
    return scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")


def segmented(user, grid="LPS"):
    """Segment a volume, show its boxes, and return the volume."""
    import slicer

    volume = blobs_volume(GRIDS[grid])
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    return volume


def expected(volume_node, *boxes, overwrite=False):
    """Return the labelmap that the engine gives for the boxes of ROI nodes."""
    from MaskSAMSlicerLib.mrml.volumes import volume_from_node

    volume = volume_from_node(volume_node)
    edges = [edges_of(node, volume_node) for node in boxes]
    return threshold_segmenter().segment(volume, boxes=edges, overwrite=overwrite).labelmap


def test_boxes_are_shown_named_and_colored_like_their_segments(user, scene):
    volume = segmented(user, "oblique")
    node = segmentation(scene)
    array = expected(volume)
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        box = box_node(name)
        assert box.GetName() == name
        segment = node.GetSegmentation().GetSegment(
            node.GetSegmentation().GetSegmentIdBySegmentName(name)
        )
        np.testing.assert_allclose(box.GetDisplayNode().GetSelectedColor(), segment.GetColor())
        found = np.argwhere(array == value)[:, ::-1]
        edges = edges_of(box, volume)
        np.testing.assert_allclose(edges.lower, found.min(0), atol=1e-6)
        np.testing.assert_allclose(edges.upper, found.max(0) + 1, atol=1e-6)
    assert user.box_states == {"Anterior": "automatic", "Posterior": "automatic"}
    assert not user.ui.updateButton.enabled
    user.click(user.ui.showBoxesButton)
    assert not box_node("Anterior").GetDisplayVisibility()


def test_boxes_are_no_regions_to_choose_from(user, scene, tmp_path):
    import slicer

    segmented(user)
    roi = add_roi((2, 2, 2), (9, 9, 9), GRIDS["LPS"])
    selector = user.ui.roiSelector
    assert [selector.nodeFromIndex(n) for n in range(selector.nodeCount())] == [roi]
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert len(slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")) == 3
    assert selector.nodeCount() == 1


def test_a_region_is_offered_though_a_box_of_an_earlier_scene_had_its_id(user, scene):
    segmented(user)
    box_id = box_node("Anterior").GetID()
    scene.Clear(0)
    volume = blobs_volume()
    rois = [add_roi((2, 2, 2), (9, 9, 9), GRIDS["LPS"]) for _ in range(2)]
    assert box_id in [roi.GetID() for roi in rois]
    user.choose_volume(volume)
    assert user.ui.roiSelector.nodeCount() == len(rois)


def test_boxes_are_in_a_folder_of_their_own_beside_the_volume(user, scene):
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    volume = blobs_volume()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    user.segment(volume)
    before = children(hierarchy, study)
    user.click(user.ui.showBoxesButton)
    (folder,) = set(children(hierarchy, study)) - set(before)
    assert hierarchy.GetItemName(folder) == f"{segmentation(scene).GetName()} boxes"
    assert not hierarchy.GetItemExpanded(folder)
    boxes = [box_node(name) for name in ("Anterior", "Posterior")]
    items = [hierarchy.GetItemByDataNode(box) for box in boxes]
    assert sorted(children(hierarchy, folder)) == sorted(items)


def test_boxes_go_with_their_segmentation_and_an_undo_brings_both_back(user, scene):
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import boxes_of

    volume = segmented(user, "oblique")
    add_roi((2, 2, 2), (9, 9, 9), GRIDS["oblique"])
    before = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    user.segment(volume)  # into a second segmentation
    user.click(user.ui.showBoxesButton)
    node = segmentations(scene)[-1]
    added = [
        box for box in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") if box not in before
    ]
    assert len(added) == 2
    move_box(added[0], (3, 3, 2), (9, 9, 5), volume)
    for removed in (node, *added):
        removed.SetUndoEnabled(True)
    scene.SetUndoOn()
    try:
        scene.SaveStateForUndo()
        scene.RemoveNode(node)
        slicer.app.processEvents()
        assert slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == before
        assert not has_folder_of_boxes(node)
        scene.Undo()
    finally:
        scene.ClearUndoStack()
        scene.SetUndoOff()
    user.ui.outputSelector.setCurrentNode(segmentations(scene)[-1])
    assert user.box_states == {"Anterior": "changed", "Posterior": "automatic"}
    assert user.ui.roiSelector.nodeCount() == 1
    (box,) = [box for box in boxes_of(segmentations(scene)[-1]) if box.GetName() == "Anterior"]
    user.segment_again()
    segments = segment_voxels(segmentations(scene)[-1], "Anterior", volume)
    assert np.array_equal(segments, expected(volume, box) == 1)


def has_folder_of_boxes(node) -> bool:
    """Return whether the subject hierarchy has a folder of a segmentation's boxes."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    return bool(hierarchy.GetItemByName(f"{node.GetName()} boxes"))


def children(hierarchy, item) -> list[int]:
    import vtk

    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, found)
    return [found.GetId(index) for index in range(found.GetNumberOfIds())]


def test_a_dragged_box_changes_its_segment_alone_and_can_be_undone_and_reset(user, scene, views):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    before = {name: segment_voxels(node, name, volume) for name in ("Anterior", "Posterior")}
    drag(views, box, 50, -40)
    assert user.box_states["Anterior"] == "changed"
    user.segment_again()
    assert user.status.endswith("changed: Anterior.")
    after = segment_voxels(node, "Anterior", volume)
    assert np.array_equal(after, expected(volume, box) == 1)
    assert after.any() and not np.array_equal(after, before["Anterior"])
    assert np.array_equal(segment_voxels(node, "Posterior", volume), before["Posterior"])
    user.click(user.ui.undoButton)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), before["Anterior"])
    user.click(user.ui.redoButton)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), after)
    user.choose_box("Anterior")
    user.click(user.ui.resetBoxButton)
    user.wait()
    assert user.box_states["Anterior"] == "automatic"
    assert np.array_equal(segment_voxels(node, "Anterior", volume), before["Anterior"])
    assert not host.messages.texts("error")


def test_a_cloned_box_is_another_box_of_its_class(user, scene, views):
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import boxes_of

    volume = segmented(user)
    user.ui.liveCheckBox.click()
    node, box = segmentation(scene), box_node("Anterior")
    copy = clone(box)
    slicer.app.processEvents()
    other = add_roi((2, 2, 2), (9, 9, 9), GRIDS["LPS"])
    scene.RemoveNode(other)
    slicer.app.processEvents()
    assert boxes_of(node) == [box, box_node("Posterior"), copy]
    assert user.box_states["Anterior"] == "automatic"
    box.SetDisplayVisibility(False)
    drag(views, copy, 50, -40)
    assert user.busy
    user.wait()
    assert user.box_states == {"Anterior": "changed", "Posterior": "automatic"}
    voxels = segment_voxels(node, "Anterior", volume)
    assert np.array_equal(voxels, expected(volume, box, copy) == 1)
    assert not np.array_equal(voxels, expected(volume, copy) == 1)
    user.choose_box("Anterior")
    user.click(user.ui.resetBoxButton)
    user.wait()
    assert boxes_of(node) == [box, box_node("Posterior")]
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)
    clone(box)
    slicer.app.processEvents()
    scene.RemoveNode(node)
    slicer.app.processEvents()
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == []


@pytest.mark.parametrize("noticed", [True, False], ids=["observed", "unobserved"])
def test_a_box_moved_in_another_module_is_followed_but_starts_no_run(user, scene, noticed):
    import slicer

    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    user.ui.liveCheckBox.click()
    if not noticed:  # the boxes of another model are not observed
        user.choose_model("small")
    host.select_module(None)
    box.SetSize(*(0.7 * size for size in box.GetSize()))
    box.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    assert not user.busy
    host.select_module("MaskSAMSlicer")
    if not noticed:
        user.choose_model("threshold")
    assert user.box_states == {"Anterior": "changed", "Posterior": "automatic"}
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)


def test_a_segment_is_written_again_after_an_undo(user, scene, views):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    drag(views, box, 50, 0)
    for _ in range(2):
        user.segment_again()
        assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)
        user.click(user.ui.undoButton)
        assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)


def test_a_segment_can_be_made_automatic_after_its_reset_was_undone(user, scene):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    move_box(box, (0, 0, 0), (9, 9, 9), volume)
    user.segment_again()
    user.choose_box("Anterior")
    user.click(user.ui.resetBoxButton)
    user.wait()
    assert not user.ui.updateButton.enabled
    user.click(user.ui.undoButton)
    assert not np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)


def test_a_reset_restores_the_segment_after_a_redo(user, scene):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    move_box(box, (0, 0, 0), (9, 9, 9), volume)
    user.segment_again()
    user.click(user.ui.undoButton)
    user.click(user.ui.showBoxesButton)
    user.click(user.ui.redoButton)
    user.choose_box("Anterior")
    user.click(user.ui.resetBoxButton)
    user.wait()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)


def test_several_updates_are_undone_one_by_one(user, scene, views):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    seen = [segment_voxels(node, "Anterior", volume)]
    for step in (45, 30):
        drag(views, box, step, 0)
        user.segment_again()
        seen.append(segment_voxels(node, "Anterior", volume))
    for earlier in (1, 0):
        user.click(user.ui.undoButton)
        assert np.array_equal(segment_voxels(node, "Anterior", volume), seen[earlier])
    user.click(user.ui.undoButton)  # this undoes the first run
    assert segment_names(node) == []


def test_segment_after_each_drag_runs_when_a_drag_ends(user, scene, views):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    user.ui.liveCheckBox.click()
    view, (x, y) = show_slice_through(views, "Red", box)
    view.event("MouseMoveEvent", x, y)
    view.event("LeftButtonPressEvent", x, y)
    view.event("MouseMoveEvent", x + 45, y)
    assert not user.busy
    view.event("LeftButtonReleaseEvent", x + 45, y)
    assert user.busy
    view.drag((x + 45, y), (x + 60, y + 25))  # the first run has not ended yet
    user.wait()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)
    assert not host.messages.texts("error")


def test_a_class_that_was_not_found_is_segmented_in_a_box_drawn_with_two_clicks(user, scene, views):
    import slicer

    # Voxels of value 2 are removed, because resampling would blur them into voxels of value 1.
    array = (two_blobs() == 1).astype(np.float32)
    volume = add_volume(array, GRIDS["oblique"], "MR")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    user.segment(volume)
    assert user.box_states == {"Anterior": "automatic", "Posterior": "none"}
    user.choose_box("Posterior")
    user.click(user.ui.drawBoxButton)
    assert "click two opposite corners" in user.status
    view = views["Red"]
    view.window.Render()
    view.click(170, 130)
    view.click(225, 165)
    box = box_node("Posterior")
    assert user.box_states["Posterior"] == "drawn"
    user.segment_again()
    labels = expected(volume, box)
    node = segmentation(scene)
    assert (labels == 2).any()
    assert np.array_equal(segment_voxels(node, "Posterior", volume), labels == 2)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)
    assert user.found == ["Anterior", "Posterior"]
    user.choose_box("Posterior")
    user.click(user.ui.resetBoxButton)
    user.wait()
    assert not segment_voxels(node, "Posterior", volume).any()
    assert user.box_states["Posterior"] == "none"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_box_takes_voxels_of_other_classes_only_if_the_user_allows_it(user, scene, overwrite):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    move_box(box, (0, 0, 0), (23, 17, 11), volume)
    if overwrite:
        user.ui.overwriteCheckBox.click()
    user.segment_again()
    labels = expected(volume, box, overwrite=overwrite)
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert np.array_equal(segment_voxels(node, name, volume), labels == value)
    if not overwrite:
        assert np.array_equal(segment_voxels(node, "Posterior", volume), expected(volume) == 2)


def overwritten(user, scene, lower, upper):
    """Let the box of Anterior overwrite Posterior; return volume, segmentation and box."""
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    user.ui.overwriteCheckBox.click()
    move_box(box, lower, upper, volume)
    user.segment_again()
    return volume, node, box


@pytest.mark.parametrize("then", ["segment again", "reset"])
def test_classes_get_back_what_was_taken_once_the_user_forbids_to_overwrite(user, scene, then):
    volume, node, box = overwritten(user, scene, (0, 0, 0), (23, 17, 11))
    automatic = expected(volume)
    assert segment_voxels(node, "Posterior", volume).sum() < (automatic == 2).sum()
    user.ui.overwriteCheckBox.click()
    if then == "segment again":
        user.segment_again()
        labels = expected(volume, box)
    else:
        user.choose_box("Anterior")
        user.click(user.ui.resetBoxButton)
        user.wait()
        labels = automatic
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert np.array_equal(segment_voxels(node, name, volume), labels == value), name


def test_what_was_taken_is_given_back_after_an_undo_too(user, scene):
    volume, node, _box = overwritten(user, scene, (0, 0, 0), (23, 17, 11))
    taken = segment_voxels(node, "Posterior", volume)
    user.ui.overwriteCheckBox.click()
    for _ in range(2):
        user.segment_again()
        assert np.array_equal(segment_voxels(node, "Posterior", volume), expected(volume) == 2)
        user.click(user.ui.undoButton)
        assert np.array_equal(segment_voxels(node, "Posterior", volume), taken)


def test_painted_voxels_stay_when_a_class_gets_back_what_was_taken(user, scene):
    import slicer

    volume, node, _box = overwritten(user, scene, (0, 0, 3), (12, 17, 9))
    left = segment_voxels(node, "Posterior", volume)
    taken = segment_voxels(node, "Anterior", volume)
    assert left.any() and (taken & (expected(volume) == 2)).any()
    painted = left.astype(np.uint8)
    painted[0, :4, 18:] = 1
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Posterior")
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, segment_id, volume)
    user.ui.overwriteCheckBox.click()
    user.segment_again()
    restored = np.where(taken, expected(volume) == 2, painted > 0)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), restored)


def test_a_segment_that_the_user_has_removed_comes_back_only_with_a_box(user, scene):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    segments = node.GetSegmentation()
    segments.RemoveSegment(segments.GetSegmentIdBySegmentName("Posterior"))
    user.ui.overwriteCheckBox.click()
    for upper in ((23, 17, 11), (9, 9, 5)):  # the first box would take voxels of the other class
        move_box(box, (3, 3, 2), upper, volume)
        user.segment_again()
        assert segment_names(node) == ["Anterior"]
    other = box_node("Posterior")
    move_box(other, (5, 6, 5), (15, 13, 10), volume)
    user.segment_again()
    assert segment_names(node) == ["Anterior", "Posterior"]
    labels = expected(volume, box, other, overwrite=True)
    assert (labels == 2).any()
    assert np.array_equal(segment_voxels(node, "Posterior", volume), labels == 2)


@pytest.mark.parametrize("grid", ["oblique", "sagittal"])
def test_another_segment_loses_only_what_a_class_with_a_box_takes(user, scene, grid):
    import slicer

    # The network is less sure of Posterior (score 0.6) than of Anterior in its box (score 1).
    array = np.where(two_blobs() == 2, np.float32(1.6), two_blobs())
    volume = add_volume(array, GRIDS[grid], "head")
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    node = segmentation(scene)
    before = segment_voxels(node, "Anterior", volume)
    painted = segment_voxels(node, "Posterior", volume).astype(np.uint8)
    painted[7:, 11:, 13:] = 0
    painted[0, :4, 18:] = 1
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Posterior")
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, segment_id, volume)
    user.ui.overwriteCheckBox.click()
    move_box(box_node("Anterior"), (3, 4, 2), (11, 9, 7), volume)
    user.segment_again()
    taken = segment_voxels(node, "Anterior", volume)
    assert (taken & (painted > 0)).any()
    labels = expected(volume, box_node("Anterior"), overwrite=True)
    assert np.array_equal(taken, labels == 1)
    left = np.where(before | taken, labels == 2, painted > 0)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), left)
    user.choose_box("Anterior")
    user.click(user.ui.resetBoxButton)
    user.wait()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), before)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), painted > 0)
    user.click(user.ui.undoButton)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), left)


def test_boxes_may_overwrite_at_first_where_the_classes_fill_the_skull(user, scene):
    ui, volume = user.ui, blobs_volume()
    for model, allowed in (("threshold", False), ("head", True), ("threshold", False)):
        user.segment(volume, model)
        assert ui.overwriteCheckBox.checked == allowed
    user.segment(volume, "head")
    ui.overwriteCheckBox.click()
    user.click(ui.showBoxesButton)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    user.segment_again()
    user.segment(volume, "head")
    assert not ui.overwriteCheckBox.checked  # the choice of the user stays


def test_voxels_painted_into_another_segment_stay(user, scene):
    import slicer

    volume = segmented(user)
    node = segmentation(scene)
    painted = np.zeros(two_blobs().shape, np.uint8)
    painted[1:3, 1:3, 1:3] = 1
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Posterior")
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, segment_id, volume)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Posterior", volume), painted > 0)
    user.click(user.ui.undoButton)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), painted > 0)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)


def test_boxes_and_their_states_are_restored_with_the_scene(user, scene, tmp_path):
    import slicer

    volume = segmented(user, "oblique")
    moved = matrix(turn((5, 9, -14)), (1, 1, 1))
    transform = add_transform(moved, volume, segmentation(scene))
    for name in ("Anterior", "Posterior"):
        box_node(name).SetAndObserveTransformNodeID(transform.GetID())
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    host.close_scene()
    slicer.util.loadScene(path)
    slicer.app.processEvents()
    assert user.box_states == {"Anterior": "changed", "Posterior": "automatic"}
    volume = scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    node, box = segmentation(scene), box_node("Anterior")
    np.testing.assert_allclose(edges_of(box, volume).lower, (3, 3, 2), atol=1e-4)
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), expected(volume) == 2)
    assert not host.messages.texts("error")


def test_the_whole_run_is_repeated_and_noted_after_the_worker_has_ended(user, scene):
    volume = segmented(user)
    process = user.worker
    process.kill()
    process.wait(30)
    box = box_node("Anterior")
    move_box(box, (3, 3, 2), (9, 9, 5), volume)
    user.segment_again()
    assert "whole run was repeated" in user.ui.resultsInfo.text
    node = segmentation(scene)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)


def test_a_box_outside_the_volume_is_refused(user, scene):
    volume = segmented(user)
    move_box(box_node("Anterior"), (90, 90, 90), (95, 95, 95), volume)
    user.click(user.ui.updateButton)
    (message,) = host.messages.texts("status")  # shown even if the panel is scrolled
    assert "outside the volume" in message
    assert user.ui.warningLabel.text == message
    assert not host.messages.texts("error")
    assert not user.busy


def test_a_box_outside_the_region_of_the_run_is_refused_without_a_dialog(user, scene):
    """Only the worker knows that the network decodes nothing outside the region."""
    volume = blobs_volume()
    user.choose_volume(volume)
    user.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (9, 9, 9), GRIDS["LPS"]))
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    move_box(box_node("Anterior"), (12, 10, 2), (20, 16, 9), volume)
    user.click(user.ui.updateButton)
    user.wait()
    assert "lies outside the ROI" in user.ui.warningLabel.text
    assert user.status.startswith("Failed") and not host.messages.texts("error")


@pytest.mark.parametrize("cancelled", [False, True], ids=["failed", "cancelled"])
def test_a_drag_during_a_run_that_fails_is_followed_unless_the_user_cancels(user, scene, cancelled):
    volume = blobs_volume()
    user.choose_volume(volume)
    user.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (12, 12, 9), GRIDS["LPS"]))
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    user.ui.liveCheckBox.click()
    node, box = segmentation(scene), box_node("Anterior")
    before = segment_voxels(node, "Anterior", volume)
    # Only the worker knows that this box lies outside the region.
    drag_to(box, (14, 13, 2), (20, 16, 9), volume)
    assert user.busy
    drag_to(box, (3, 3, 2), (9, 9, 5), volume)
    if cancelled:
        user.click(user.ui.segmentButton)  # its text is Cancel during a run
    user.wait()
    followed = not np.array_equal(segment_voxels(node, "Anterior", volume), before)
    assert followed == (not cancelled)


@pytest.mark.parametrize("rule", ["replace", "new"])
def test_a_drag_during_a_first_run_is_followed_if_its_box_is_still_used(user, scene, rule: str):
    volume = segmented(user)
    user.ui.liveCheckBox.click()
    node, box = segmentation(scene), box_node("Anterior")
    user.choose_rule(rule)
    user.click(user.ui.segmentButton)
    drag_to(box, (3, 3, 2), (9, 9, 5), volume)
    user.wait()
    labelmap = expected(volume, *([box] if rule == "replace" else []), overwrite=True)
    np.testing.assert_array_equal(segment_voxels(node, "Anterior", volume), labelmap == 1)
    followed = user.status.startswith("Segmented again")
    assert followed == (rule == "replace")
    assert len(segmentations(scene)) == (1 if rule == "replace" else 2)


def test_a_failed_run_after_a_drag_is_not_repeated(user, scene):
    volume = blobs_volume()
    user.choose_volume(volume)
    user.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (12, 12, 9), GRIDS["LPS"]))
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    user.ui.liveCheckBox.click()
    box = box_node("Anterior")
    for lower in ((14, 13, 2), (15, 13, 2), (16, 13, 2)):
        drag_to(box, lower, (20, 16, 9), volume)
    user.wait()
    assert not user.busy and user.status.startswith("Failed")
    assert user.ui.logText.toPlainText().count("Failed") == 2


def drag_to(box, lower, upper, volume) -> None:
    """Move a box to voxel edges, and end the drag."""
    import slicer

    move_box(box, lower, upper, volume)
    box.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)


def test_boxes_are_saved_and_loaded(user, scene, tmp_path):
    volume = segmented(user, "oblique")
    node, box = segmentation(scene), box_node("Anterior")
    assert not user.ui.saveBoxesButton.enabled
    move_box(box, (3, 3, 2), (9, 9, 5), volume)
    user.segment_again()
    wanted = segment_voxels(node, "Anterior", volume)
    host.messages.answers.append(str(tmp_path / "mine"))
    user.click(user.ui.saveBoxesButton)
    (saved,) = read_boxes(tmp_path / "mine.mrk.json")
    assert saved.class_name == "Anterior"
    user.choose_box("Anterior")
    user.click(user.ui.resetBoxButton)
    user.wait()
    assert not np.array_equal(segment_voxels(node, "Anterior", volume), wanted)
    host.messages.answers.append(str(tmp_path / "mine.mrk.json"))
    user.click(user.ui.loadBoxesButton)
    assert user.box_states["Anterior"] == "changed"
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), wanted)
    assert not host.messages.texts("error")
    text = (tmp_path / "mine.mrk.json").read_text()
    (tmp_path / "mine.mrk.json").write_text("{}")
    host.messages.answers.append(str(tmp_path / "mine.mrk.json"))
    user.click(user.ui.loadBoxesButton)
    (message,) = host.messages.texts("error")
    assert "not a Slicer markup file" in message
    # A file with boxes of another model is a wrong choice: a warning is shown, but no error.
    host.messages.clear()
    (tmp_path / "other.mrk.json").write_text(text.replace("Anterior", "liver"))
    host.messages.answers.append(str(tmp_path / "other.mrk.json"))
    user.click(user.ui.loadBoxesButton)
    assert "'liver' in the file is not named like a class" in user.ui.warningLabel.text
    assert host.messages.texts("error") == []


def test_a_changed_box_is_drawn_anew(user, scene, views):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    drag(views, box, 50, -40)
    user.choose_box("Anterior")
    user.click(user.ui.drawBoxButton)
    assert user.box_states["Anterior"] == "automatic"
    views["Red"].window.Render()
    views["Red"].click(120, 120)
    views["Red"].click(225, 185)
    assert user.box_states["Anterior"] == "changed"
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)


def test_a_box_that_was_not_drawn_to_the_end_is_shown_again(user, scene, application):
    volume = segmented(user)
    before = edges_of(box_node("Anterior"), volume)
    user.choose_box("Anterior")
    user.click(user.ui.drawBoxButton)
    application.applicationLogic().GetInteractionNode().SwitchToViewTransformMode()
    for _ in range(2):
        user.click(user.ui.showBoxesButton)
    assert edges_of(box_node("Anterior"), volume) == before


@pytest.mark.parametrize("of", ["another volume", "the same volume"])
def test_the_boxes_are_those_of_the_segmentation_chosen_as_the_output(user, scene, of):
    from MaskSAMSlicerLib.mrml.box_nodes import boxes_of

    first = blobs_volume(name="first")
    user.segment(first)
    user.segment(blobs_volume(name="second") if of == "another volume" else first)
    node, other = segmentations(scene)
    user.choose_volume(first)
    user.ui.outputSelector.setCurrentNode(node)
    user.click(user.ui.showBoxesButton)
    assert len(boxes_of(node)) == 2 and not boxes_of(other)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), first)
    user.segment_again()
    changed = expected(first, box_node("Anterior")) == 1
    assert np.array_equal(segment_voxels(node, "Anterior", first), changed)
    assert not np.array_equal(segment_voxels(other, "Anterior", first), changed)


def test_boxes_follow_the_volume_to_a_transform(user, scene):
    volume = segmented(user)
    node, box = segmentation(scene), box_node("Anterior")
    move_box(box, (3, 3, 2), (9, 9, 5), volume)
    host.select_module(None)
    add_transform(matrix(turn((5, 9, -14)), (1, 1, 1)), volume, node)
    host.select_module("MaskSAMSlicer")
    assert user.box_states == {"Anterior": "changed", "Posterior": "automatic"}
    np.testing.assert_allclose(edges_of(box, volume).lower, (3, 3, 2), atol=1e-6)
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)


def leave_transform(nodes, hardened):
    """Harden the transform of nodes, or detach the nodes from it."""
    for node in nodes:
        if hardened:
            node.HardenTransform()
        else:
            node.SetAndObserveTransformNodeID(None)


@pytest.mark.parametrize("hardened", [False, True], ids=["taken out", "hardened"])
def test_automatic_boxes_stay_so_when_the_volume_leaves_its_transform(user, scene, hardened):
    volume = blobs_volume()
    add_transform(matrix(turn((5, 9, -14)), (1, 1, 1)), volume)
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    node = segmentation(scene)
    host.select_module(None)
    leave_transform((volume, node), hardened)
    host.select_module("MaskSAMSlicer")
    assert user.box_states == {"Anterior": "automatic", "Posterior": "automatic"}
    found = np.argwhere(expected(volume) == 1)[:, ::-1]
    edges = edges_of(box_node("Anterior"), volume)
    np.testing.assert_allclose(edges.lower, found.min(0), atol=1e-4)


@pytest.mark.parametrize("saved", [False, True], ids=["", "saved scene"])
@pytest.mark.parametrize("hardened", [False, True], ids=["taken out", "hardened"])
def test_changed_boxes_keep_their_voxels_when_the_volume_leaves_its_transform(
    user, scene, tmp_path, hardened, saved
):
    import slicer

    volume = blobs_volume()
    add_transform(matrix(turn((5, 9, -14)), (1, 1, 1)), volume)
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    host.select_module(None)
    if saved:
        name, node_name = volume.GetName(), segmentation(scene).GetName()
        assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
        scene.Clear(0)
        slicer.util.loadScene(str(tmp_path / "scene.mrb"))
        volume, node = slicer.util.getNode(name), slicer.util.getNode(node_name)
    else:
        node = segmentation(scene)
    leave_transform((volume, node), hardened)
    host.select_module("MaskSAMSlicer")
    assert user.box_states == {"Anterior": "changed", "Posterior": "automatic"}
    box = box_node("Anterior")
    np.testing.assert_allclose(edges_of(box, volume).lower, (3, 3, 2), atol=1e-4)
    user.segment_again()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)


def test_a_volume_under_a_deformation_changes_no_box(user, scene):
    volume = segmented(user)
    host.select_module(None)
    warp = add_warp(volume, segmentation(scene))
    host.select_module("MaskSAMSlicer")
    assert "under the deformation" in user.ui.warningLabel.text
    user.ui.resultsTable.cellClicked.emit(0, 0)
    host.select_module(None)
    for node in (volume, segmentation(scene)):
        node.SetAndObserveTransformNodeID(None)
    scene.RemoveNode(warp)
    host.select_module("MaskSAMSlicer")
    assert user.box_states == {"Anterior": "automatic", "Posterior": "automatic"}


def test_a_box_under_a_deformation_is_refused(user, scene):
    volume = segmented(user)
    box = box_node("Anterior")
    move_box(box, (3, 3, 2), (9, 9, 5), volume)
    add_warp(box)
    user.ui.boxesTable.cellClicked.emit(0, 0)
    user.click(user.ui.updateButton)
    assert "'Anterior' is under the deformation" in user.ui.warningLabel.text


def test_boxes_of_another_model_go_when_a_run_writes_to_their_segmentation(user, scene):
    volume = segmented(user)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    user.segment_again()
    user.choose_rule("replace")
    user.segment(volume, "sided")
    assert not user.ui.updateButton.enabled
    user.click(user.ui.showBoxesButton)
    assert user.box_states == {"left blob": "automatic", "right blob": "automatic"}
    move_box(box_node("left blob"), (3, 3, 2), (9, 9, 5), volume)
    user.segment_again()
    assert user.status.endswith("changed: left blob.")
    assert set(segment_names(segmentation(scene))) > {"left blob", "right blob"}


def test_a_result_that_was_made_a_surface_is_not_segmented_again(user, scene):
    import slicer

    volume = segmented(user)
    node = segmentation(scene)
    surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName(surface)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    user.click(user.ui.updateButton)
    assert "made of surfaces" in user.ui.warningLabel.text
    segments = [node.GetSegmentation().GetNthSegment(n) for n in range(2)]
    assert all(segment.GetRepresentation(surface) is not None for segment in segments)
