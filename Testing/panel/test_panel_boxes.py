"""A person moves, draws, resets, saves and loads boxes at the real panel."""

from __future__ import annotations

import numpy as np
import pytest

from Testing import host
from Testing.helpers.threshold_model import threshold_segmenter, two_blobs
from Testing.panel.fixtures import blobs_volume
from Testing.slicer.module_tools import GRIDS, add_transform, matrix, segment_voxels, turn


@pytest.fixture
def views(person, scene):
    views = host.open_views()
    yield views
    host.close_views()


def box_node(name: str):
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import class_of

    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    (found,) = [node for node in nodes if class_of(node) == name]
    return found


def segmentation(scene):
    return scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")


def choose(person, name: str) -> None:
    table = person.ui.boxesTable
    for row in range(table.rowCount):
        if table.item(row, 0).text() == name:
            table.selectRow(row)
            return
    raise AssertionError(f"no row '{name}'")


def states(person) -> dict[str, str]:
    table = person.ui.boxesTable
    return {table.item(r, 0).text(): table.item(r, 1).text() for r in range(table.rowCount)}


def segmented(person, grid="LPS"):
    """A run whose boxes are shown."""
    import slicer

    volume = blobs_volume(GRIDS[grid])
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    person.segment(volume)
    person.click(person.ui.showBoxesButton)
    return volume


def edges_of(volume_node, node):
    from MaskSAMSlicerLib.mrml.volumes import box_from_roi, volume_from_node

    return box_from_roi(node, volume_from_node(volume_node), "Anterior")


def expected(volume_node, *boxes, overwrite=False):
    """What the engine itself gives for the boxes of ROI nodes."""
    from MaskSAMSlicerLib.mrml.box_nodes import class_of
    from MaskSAMSlicerLib.mrml.volumes import box_from_roi, volume_from_node

    volume = volume_from_node(volume_node)
    edges = [box_from_roi(node, volume, class_of(node)) for node in boxes]
    return threshold_segmenter().segment(volume, boxes=edges, overwrite=overwrite).labelmap


def show_slice_through(views, name, node):
    """Bring the middle of a box into a slice view, and give its pixel."""
    import slicer

    view, center = views[name], [0.0, 0.0, 0.0]
    node.GetCenterWorld(center)
    mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, mode)
    slicer.app.processEvents()
    view.window.Render()
    to_pixel = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS()))
    return view, tuple(int(v) for v in (to_pixel @ [*center, 1])[:2].round())


def test_boxes_are_shown_named_and_colored_like_their_segments(person, scene):
    import slicer

    volume = segmented(person, "oblique")
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
        edges = edges_of(volume, box)
        np.testing.assert_allclose(edges.lower, found.min(0), atol=1e-6)
        np.testing.assert_allclose(edges.upper, found.max(0) + 1, atol=1e-6)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        places = [hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)) for n in (box, volume)]
        assert places[0] == places[1]
    assert states(person) == {"Anterior": "automatic", "Posterior": "automatic"}
    assert not person.ui.updateButton.enabled
    person.click(person.ui.showBoxesButton)
    assert not box_node("Anterior").GetDisplayVisibility()


def test_a_dragged_box_changes_its_segment_alone_and_can_be_undone_and_reset(person, scene, views):
    volume = segmented(person)
    node, box = segmentation(scene), box_node("Anterior")
    before = {name: segment_voxels(node, name, volume) for name in ("Anterior", "Posterior")}
    view, (x, y) = show_slice_through(views, "Red", box)
    view.drag((x, y), (x + 50, y - 40))
    assert states(person)["Anterior"] == "changed"
    person.click(person.ui.updateButton)
    person.wait()
    assert person.status.startswith("Updated: Anterior")
    after = segment_voxels(node, "Anterior", volume)
    assert np.array_equal(after, expected(volume, box) == 1)
    assert after.any() and not np.array_equal(after, before["Anterior"])
    assert np.array_equal(segment_voxels(node, "Posterior", volume), before["Posterior"])
    person.click(person.ui.undoButton)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), before["Anterior"])
    person.click(person.ui.redoButton)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), after)
    choose(person, "Anterior")
    person.click(person.ui.resetBoxButton)
    person.wait()
    assert states(person)["Anterior"] == "automatic"
    assert np.array_equal(segment_voxels(node, "Anterior", volume), before["Anterior"])
    assert not host.messages.texts("error")


def test_after_an_undo_an_update_writes_again(person, scene, views):
    volume = segmented(person)
    node, box = segmentation(scene), box_node("Anterior")
    view, (x, y) = show_slice_through(views, "Red", box)
    view.drag((x, y), (x + 50, y))
    for _ in range(2):
        person.click(person.ui.updateButton)
        person.wait()
        assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)
        person.click(person.ui.undoButton)
        assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)


def test_several_updates_are_taken_back_one_by_one(person, scene, views):
    volume = segmented(person)
    node, box = segmentation(scene), box_node("Anterior")
    seen = [segment_voxels(node, "Anterior", volume)]
    for step in (45, 30):
        view, (x, y) = show_slice_through(views, "Red", box)
        view.drag((x, y), (x + step, y))
        person.click(person.ui.updateButton)
        person.wait()
        seen.append(segment_voxels(node, "Anterior", volume))
    for earlier in (1, 0):
        person.click(person.ui.undoButton)
        assert np.array_equal(segment_voxels(node, "Anterior", volume), seen[earlier])
    person.click(person.ui.undoButton)  # the run itself
    assert not segment_voxels_or_none(node, "Anterior", volume)


def segment_voxels_or_none(node, name, volume) -> bool:
    return bool(node.GetSegmentation().GetSegmentIdBySegmentName(name))


def test_live_updates_come_when_the_drag_ends(person, scene, views):
    volume = segmented(person)
    node, box = segmentation(scene), box_node("Anterior")
    person.ui.liveCheckBox.click()
    view, (x, y) = show_slice_through(views, "Red", box)
    view.event("MouseMoveEvent", x, y)
    view.event("LeftButtonPressEvent", x, y)
    view.event("MouseMoveEvent", x + 45, y)
    assert not person.widget.panel.busy
    view.event("LeftButtonReleaseEvent", x + 45, y)
    assert person.widget.panel.busy
    view.drag((x + 45, y), (x + 60, y + 25))  # while the first is under way
    person.wait()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)
    assert not host.messages.texts("error")


def test_a_box_drawn_with_two_clicks_for_a_class_that_was_not_found_ends_in_the_right_voxels(
    person, scene, views
):
    import slicer

    from Testing.slicer.module_tools import add_volume

    array = (two_blobs() == 1).astype(np.float32)  # 2 would be seen as 1 where it is blurred
    volume = add_volume(array, GRIDS["oblique"], "MR")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    person.segment(volume)
    assert states(person) == {"Anterior": "automatic", "Posterior": "none"}
    choose(person, "Posterior")
    person.click(person.ui.drawBoxButton)
    assert "click two opposite corners" in person.status
    view = views["Red"]
    view.window.Render()
    view.click(170, 130)
    view.click(225, 165)
    box = box_node("Posterior")
    assert states(person)["Posterior"] == "drawn"
    person.click(person.ui.updateButton)
    person.wait()
    labels = expected(volume, box)
    node = segmentation(scene)
    assert (labels == 2).any()
    assert np.array_equal(segment_voxels(node, "Posterior", volume), labels == 2)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)
    assert [row[0] for row in person.table] == ["Anterior", "Posterior"], host.errors
    choose(person, "Posterior")
    person.click(person.ui.resetBoxButton)
    person.wait()
    assert not segment_voxels(node, "Posterior", volume).any()
    assert states(person)["Posterior"] == "none"


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_overwrite_rule_is_the_person_s_choice(person, scene, overwrite):
    from MaskSAMCore import Box
    from MaskSAMSlicerLib.mrml.box_nodes import place_box

    volume = segmented(person)
    node, box = segmentation(scene), box_node("Anterior")
    place_box(box, Box("Anterior", (0, 0, 0), (23, 17, 11)), volume)
    if overwrite:
        person.ui.overwriteCheckBox.click()
    person.click(person.ui.updateButton)
    person.wait()
    labels = expected(volume, box, overwrite=overwrite)
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert np.array_equal(segment_voxels(node, name, volume), labels == value)
    if not overwrite:
        assert np.array_equal(segment_voxels(node, "Posterior", volume), expected(volume) == 2)


def test_what_was_painted_into_another_segment_stays(person, scene):
    import slicer

    from MaskSAMCore import Box
    from MaskSAMSlicerLib.mrml.box_nodes import place_box

    volume = segmented(person)
    node = segmentation(scene)
    painted = np.zeros(two_blobs().shape, np.uint8)
    painted[1:3, 1:3, 1:3] = 1
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Posterior")
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, segment_id, volume)
    place_box(box_node("Anterior"), Box("Anterior", (3, 3, 2), (9, 9, 5)), volume)
    person.click(person.ui.updateButton)
    person.wait()
    assert np.array_equal(segment_voxels(node, "Posterior", volume), painted > 0)
    person.click(person.ui.undoButton)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), painted > 0)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume) == 1)


def test_boxes_and_what_was_changed_come_back_with_the_scene(person, scene, tmp_path):
    import slicer

    from MaskSAMCore import Box
    from MaskSAMSlicerLib.mrml.box_nodes import place_box

    volume = segmented(person, "oblique")
    moved = matrix(turn((5, 9, -14)), (1, 1, 1))
    transform = add_transform(moved, volume, segmentation(scene))
    for name in ("Anterior", "Posterior"):
        box_node(name).SetAndObserveTransformNodeID(transform.GetID())
    place_box(box_node("Anterior"), Box("Anterior", (3, 3, 2), (9, 9, 5)), volume)
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    host.close_scene()
    slicer.util.loadScene(path)
    slicer.app.processEvents()
    assert states(person) == {"Anterior": "changed", "Posterior": "automatic"}
    volume = scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    node, box = segmentation(scene), box_node("Anterior")
    np.testing.assert_allclose(edges_of(volume, box).lower, (3, 3, 2), atol=1e-4)
    person.click(person.ui.updateButton)
    person.wait()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)
    assert np.array_equal(segment_voxels(node, "Posterior", volume), expected(volume) == 2)
    assert not host.messages.texts("error")


def test_a_lost_worker_means_a_whole_run_and_is_said(person, scene):
    import psutil

    from MaskSAMCore import Box
    from MaskSAMSlicerLib.mrml.box_nodes import place_box

    volume = segmented(person)
    process = psutil.Process(person.widget.logic.segmentation.client.pid)
    process.kill()
    process.wait(30)
    box = box_node("Anterior")
    place_box(box, Box("Anterior", (3, 3, 2), (9, 9, 5)), volume)
    person.click(person.ui.updateButton)
    person.wait()
    assert "whole run was done again" in person.ui.resultsInfo.text
    node = segmentation(scene)
    assert np.array_equal(segment_voxels(node, "Anterior", volume), expected(volume, box) == 1)


def test_a_box_beside_the_volume_is_refused_in_words(person, scene):
    from MaskSAMCore import Box
    from MaskSAMSlicerLib.mrml.box_nodes import place_box

    volume = segmented(person)
    place_box(box_node("Anterior"), Box("Anterior", (90, 90, 90), (95, 95, 95)), volume)
    person.click(person.ui.updateButton)
    (message,) = host.messages.texts("error")
    assert "outside the volume" in message
    assert not person.widget.panel.busy


def test_boxes_are_saved_loaded_and_used_again(person, scene, tmp_path):
    from MaskSAMCore import Box, read_boxes
    from MaskSAMSlicerLib.mrml.box_nodes import place_box

    volume = segmented(person, "oblique")
    node, box = segmentation(scene), box_node("Anterior")
    assert not person.ui.saveBoxesButton.enabled
    place_box(box, Box("Anterior", (3, 3, 2), (9, 9, 5)), volume)
    person.click(person.ui.updateButton)
    person.wait()
    wanted = segment_voxels(node, "Anterior", volume)
    host.messages.answers.append(str(tmp_path / "mine"))
    person.click(person.ui.saveBoxesButton)
    (saved,) = read_boxes(tmp_path / "mine.mrk.json")
    assert saved.class_name == "Anterior"
    choose(person, "Anterior")
    person.click(person.ui.resetBoxButton)
    person.wait()
    assert not np.array_equal(segment_voxels(node, "Anterior", volume), wanted)
    host.messages.answers.append(str(tmp_path / "mine.mrk.json"))
    person.click(person.ui.loadBoxesButton)
    assert states(person)["Anterior"] == "changed"
    person.click(person.ui.updateButton)
    person.wait()
    assert np.array_equal(segment_voxels(node, "Anterior", volume), wanted)
    assert not host.messages.texts("error")
    (tmp_path / "mine.mrk.json").write_text("{}")
    host.messages.answers.append(str(tmp_path / "mine.mrk.json"))
    person.click(person.ui.loadBoxesButton)
    (message,) = host.messages.texts("error")
    assert "no Slicer markup file" in message
