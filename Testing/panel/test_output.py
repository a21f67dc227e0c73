"""The segmentation that a run writes to, and earlier results."""

from __future__ import annotations

import pytest

from Testing.panel.helpers import blobs_volume, box_node, segmentations
from Testing.slicer.helpers import GRIDS, add_roi, segment_names


def visible(scene) -> list:
    return [node for node in segmentations(scene) if node.GetDisplayVisibility()]


def repeat(user) -> None:
    """Click Segment and wait for the result."""
    user.click(user.ui.segmentButton)
    user.wait()


def test_a_repeated_run_leaves_one_visible_segmentation_which_is_chosen(user, scene):
    user.segment(blobs_volume())
    (first,) = segmentations(scene)
    assert user.ui.outputSelector.currentNode() is first
    for _ in range(2):
        repeat(user)
    *earlier, last = segmentations(scene)
    assert len(earlier) == 2 and earlier[0] is first
    assert visible(scene) == [last]
    assert user.ui.outputSelector.currentNode() is last
    assert segment_names(first) == segment_names(last) == ["Anterior", "Posterior"]


def test_a_repeated_run_replaces_the_segments_if_the_user_says_so(user, scene):
    user.segment(blobs_volume())
    user.choose_rule("replace")
    repeat(user)
    (node,) = visible(scene)
    assert segmentations(scene) == [node]
    assert segment_names(node) == ["Anterior", "Posterior"]


def test_an_empty_segmentation_that_the_user_chose_is_written(user, scene):
    mine = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    user.choose_volume(blobs_volume())
    user.choose_model("threshold")
    user.ui.outputSelector.setCurrentNode(mine)
    repeat(user)
    assert segmentations(scene) == [mine]
    assert segment_names(mine) == ["Anterior", "Posterior"]


@pytest.mark.parametrize("rule", ["new", "replace"])
def test_the_result_of_another_volume_stays_visible_and_as_it_is(user, scene, rule):
    one, other = blobs_volume(name="one"), blobs_volume(name="other")
    user.choose_volume(one)
    user.choose_rule(rule)
    user.segment(one)
    user.choose_volume(other)
    assert user.ui.outputSelector.currentNode() is None
    repeat(user)
    assert [node.GetName() for node in visible(scene)] == ["one segmentation", "other segmentation"]


def test_a_result_of_another_volume_that_the_user_chose_is_kept_as_the_output(user, scene):
    one, other = blobs_volume(name="one"), blobs_volume(name="other")
    user.segment(one)
    (node,) = segmentations(scene)
    user.choose_volume(other)
    user.ui.outputSelector.setCurrentNode(node)
    user.choose_rule("add")
    repeat(user)
    assert segmentations(scene) == [node]
    assert len(segment_names(node)) == 4


@pytest.mark.parametrize(
    ("lower", "upper", "shown"),
    [((1, 0, 0), (11, 17, 11), 1), ((11, 0, 0), (23, 17, 11), 2)],
    ids=["the same side", "the other side"],
)
def test_only_results_of_the_same_region_are_hidden(user, scene, lower, upper, shown):
    volume = blobs_volume()
    user.choose_volume(volume)
    for edges in (((0, 0, 0), (10, 17, 11)), (lower, upper)):
        user.ui.roiSelector.setCurrentNode(add_roi(*edges, GRIDS["LPS"]))
        user.choose_model("threshold")
        repeat(user)
    assert len(segmentations(scene)) == 2
    assert len(visible(scene)) == shown


def test_the_boxes_of_a_hidden_result_are_hidden_too(user, scene):
    user.segment(blobs_volume())
    user.click(user.ui.showBoxesButton)
    box = box_node("Anterior")
    assert box.GetDisplayVisibility()
    repeat(user)
    assert not box.GetDisplayVisibility()
    assert not user.ui.showBoxesButton.checked


def test_a_hidden_result_is_shown_again_when_a_run_writes_to_it(user, scene):
    user.segment(blobs_volume())
    (first,) = segmentations(scene)
    repeat(user)
    user.ui.outputSelector.setCurrentNode(first)
    user.choose_rule("replace")
    repeat(user)
    assert visible(scene) == [first]
