"""Models that take several images: a selector for each channel, and images on other grids."""

from __future__ import annotations

import numpy as np
import pytest

from Testing import host
from Testing.helpers.threshold_model import OBLIQUE, one_class, two_blobs
from Testing.panel.helpers import segmentations
from Testing.slicer.helpers import add_volume, segment_names, segment_voxels

MODEL = "two_channels"


def selector_of(user):
    """Return the selector of the second channel."""
    import slicer

    (found,) = [
        child
        for child in slicer.util.findChildren(user.ui.inputsButton)
        if child.objectName == "channelSelector2"
    ]
    return found


def choose(user, first, second=None) -> None:
    """Choose the two-channel model and its volumes."""
    user.choose_volume(first)
    user.choose_model(MODEL)
    selector_of(user).setCurrentNode(second)


@pytest.fixture
def first(scene):
    """The first channel, which the model ignores."""
    return add_volume(one_class(), OBLIQUE, "T1")


@pytest.fixture
def second(scene):
    """The second channel, on the grid of the first; the model segments this channel alone."""
    return add_volume(two_blobs(), OBLIQUE, "FLAIR")


def finer():
    """Add the second channel with voxels of half the size, aligned with the first channel."""
    array = two_blobs().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    ijk_to_ras = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1])
    ijk_to_ras[:3, 3] -= OBLIQUE[:3, :3] @ [0.25, 0.25, 0.25]
    return add_volume(array, ijk_to_ras, "FLAIR")


def assert_segmented(scene, volume) -> None:
    (node,) = segmentations(scene)
    assert segment_names(node) == ["Anterior", "Posterior"]
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert np.array_equal(segment_voxels(node, name, volume), two_blobs() == value)


def test_each_channel_has_a_selector_with_its_name(user, first):
    parent = user.ui.inputsButton
    user.choose_volume(first)
    user.choose_model("threshold")
    assert user.ui.volumeLabel.text == "Volu&me:"
    user.choose_model(MODEL)
    selector = selector_of(user)
    label = parent.layout().labelForField(selector)
    assert (user.ui.volumeLabel.text, label.text) == ("T1:", "FLAIR:")
    assert selector.isVisibleTo(parent)
    user.choose_model("threshold")
    assert not selector.isVisibleTo(parent) and not label.isVisibleTo(parent)
    assert user.ui.volumeLabel.text == "Volu&me:"


def test_segment_waits_for_the_volumes_of_all_channels(user, first, second):
    choose(user, first)
    assert not user.ui.segmentButton.enabled
    assert "'FLAIR'" in user.ui.segmentButton.toolTip
    selector_of(user).setCurrentNode(second)
    assert user.ui.segmentButton.enabled


def test_all_channels_reach_the_model_and_boxes_segment_again(user, scene, first, second):
    choose(user, first, second)
    user.click(user.ui.segmentButton)
    user.wait()
    assert_segmented(scene, first)
    assert not host.messages.texts("question")
    user.choose_box("Anterior")
    user.click(user.ui.showBoxesButton)
    user.choose_model("threshold")
    user.choose_model(MODEL)
    assert user.box_states["Anterior"] == "automatic"


def test_channels_are_kept_with_the_scene(user, scene, first, second):
    choose(user, first, second)
    host.select_module(None)
    host.select_module("MaskSAMSlicer")
    assert selector_of(user).currentNode() is second


def test_a_removed_channel_is_no_longer_used(user, scene, first, second):
    choose(user, first, second)
    scene.RemoveNode(second)
    user.widget.panel.update()
    assert selector_of(user).currentNode() is not second
    # Slicer's selector moves to the volume listed above, which is the first channel.
    assert "'T1' is chosen for more than one channel." in user.ui.warningLabel.text


def test_a_channel_on_another_grid_is_resampled_once_the_user_agrees(user, scene, first):
    second = finer()
    choose(user, first, second)
    assert "'FLAIR' must be resampled to the grid of 'T1'" in user.ui.warningLabel.text
    host.messages.answers.append(True)
    user.click(user.ui.segmentButton)
    user.wait()
    assert_segmented(scene, first)
    assert "FLAIR" not in user.ui.warningLabel.text
    assert len(host.messages.texts("question")) == 1
    user.click(user.ui.segmentButton)
    user.wait()
    assert len(host.messages.texts("question")) == 1  # the user is asked once


@pytest.mark.parametrize("change", ["another scene", "another grid"])
def test_the_user_is_asked_again_for(user, scene, first, change: str):
    import slicer

    second = finer()
    choose(user, first, second)
    host.messages.answers.append(True)
    user.click(user.ui.segmentButton)
    user.wait()
    if change == "another scene":
        ids = first.GetID(), second.GetID()
        scene.Clear(0)
        first, second = add_volume(one_class(), OBLIQUE, "T1"), finer()
        assert ids == (first.GetID(), second.GetID())
        choose(user, first, second)
    else:
        first.SetOrigin(*np.add(first.GetOrigin(), 5))
        slicer.app.processEvents()
        user.widget.panel.update()
    assert "'FLAIR' must be resampled" in user.ui.warningLabel.text
    host.messages.answers.append(False)
    user.click(user.ui.segmentButton)
    assert not user.busy
    assert len(host.messages.texts("question")) == 2


def test_nothing_is_segmented_if_the_user_does_not_agree(user, scene, first):
    choose(user, first, finer())
    host.messages.answers.append(False)
    user.click(user.ui.segmentButton)
    assert not user.busy and not segmentations(scene)
    assert "'FLAIR' must be resampled" in user.ui.warningLabel.text


def test_a_volume_chosen_twice_is_doubted(user, first):
    choose(user, first, first)
    assert "'T1' is chosen for more than one channel." in user.ui.warningLabel.text


def test_scripts_resample_on_request_only(known, scene, first):
    second = finer()
    with pytest.raises(ValueError, match="'FLAIR' must be resampled to the grid of 'T1'"):
        known.segment([first, second], model=MODEL)
    known.segment([first, second], model=MODEL, resample=True)
    assert_segmented(scene, first)
    known.update(segmentations(scene)[0])
    assert_segmented(scene, first)


@pytest.mark.parametrize(("model", "count"), [(MODEL, 1), ("threshold", 2)])
def test_a_wrong_number_of_images_is_refused_before_the_worker(known, first, model, count):
    with pytest.raises(ValueError, match=f"but {count} were given"):
        known.segment([first] * count, model=model)
