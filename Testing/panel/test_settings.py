"""The panel before a run: the Segment button, warnings, and the device."""

from __future__ import annotations

import numpy as np
import pytest

from Testing import host
from Testing.panel.helpers import blobs_volume
from Testing.slicer.helpers import add_roi, add_volume, add_warp


def test_segment_is_enabled_for_a_volume_and_an_installed_model(user):
    assert not user.ui.segmentButton.enabled
    assert "volume" in user.ui.segmentButton.toolTip
    user.choose_volume(blobs_volume())
    user.choose_model("sam_vit_b")
    assert not user.ui.segmentButton.enabled
    assert "installed" in user.ui.segmentButton.toolTip
    user.choose_model("small")
    assert user.ui.segmentButton.enabled


@pytest.mark.parametrize(
    ("case", "warning"),
    [
        ("suitable", ""),
        ("no ROI", "needs an ROI"),
        ("coarse", "made for voxels of 0.7 to 1.5 mm"),
        ("CT", "looks like CT"),
        ("warped", "Harden"),
    ],
)
def test_a_warning_names_an_unsuitable_volume_which_can_still_be_segmented(user, case, warning):
    # A volume as small as those that the model was trained on needs no ROI.
    array = np.full((120, 120, 120) if case == "no ROI" else (20, 22, 24), 300.0, np.float32)
    if case == "CT":
        array[:10] = -1000
    spacing = 4.0 if case == "coarse" else 1.0
    grid = np.diag([spacing, spacing, spacing, 1.0])
    volume = add_volume(array, grid)
    if case == "warped":
        add_warp(volume)
    user.choose_volume(volume)
    user.choose_model("hippocampus")
    if case != "no ROI":
        user.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (18, 18, 18), grid))
    label = user.ui.warningLabel
    assert warning in label.text
    assert bool(label.text) == (case != "suitable")
    assert label.isVisibleTo(label.parent()) == (case != "suitable")
    assert user.ui.segmentButton.enabled


def test_advanced_opens_by_itself_where_an_roi_is_needed_and_can_be_closed(user):
    whole = add_volume(np.full((120, 120, 120), 300.0, np.float32), np.eye(4))
    section = user.ui.advancedButton
    user.choose_volume(whole)
    user.choose_model("small")
    assert section.collapsed
    user.choose_model("hippocampus")
    assert not section.collapsed
    section.collapsed = True
    user.ui.deviceSelector.currentIndex = user.ui.deviceSelector.findData("cpu")
    assert section.collapsed
    # No ROI is needed for a small volume, and no further one if an ROI is chosen.
    user.choose_volume(add_volume(np.full((40, 50, 40), 300.0, np.float32), np.eye(4)))
    assert section.collapsed
    user.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (18, 18, 18), np.eye(4)))
    user.choose_volume(whole)
    assert section.collapsed
    user.ui.roiSelector.setCurrentNode(None)
    assert not section.collapsed


def test_opening_the_module_starts_no_process(open_panel, own_client, scene):
    user = open_panel(own_client())
    host.select_module(None)
    host.select_module("MaskSAMSlicer")
    assert not user.widget.logic.segmentation.client.running


def turn_to(widget, by: str) -> None:
    """Press a mouse button on a selector, or give it the keyboard focus."""
    from PySide6 import QtCore, QtGui, QtTest, QtWidgets

    if by == "mouse":
        QtTest.QTest.mousePress(widget, QtCore.Qt.MouseButton.LeftButton)
        widget.hidePopup()
    else:
        event = QtGui.QFocusEvent(QtCore.QEvent.Type.FocusIn)
        QtWidgets.QApplication.sendEvent(widget, event)


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_the_automatic_device_is_shown_when_the_user_turns_to_the_devices(user, monkeypatch, by):
    from MaskSAMSlicerLib import installer

    with monkeypatch.context() as patch:
        patch.setattr(installer, "missing", lambda: [installer.TORCH])
        turn_to(user.ui.deviceSelector, by)
    assert not user.widget.logic.segmentation.needs_polling  # without PyTorch, no worker is asked
    turn_to(user.ui.deviceSelector, by)
    user.wait(lambda: "Automatic means" in user.ui.deviceInfo.text, "the device")
    assert "cpu (" in user.ui.deviceInfo.text
    selector = user.ui.deviceSelector
    texts = {selector.itemData(n): selector.itemText(n) for n in range(selector.count)}
    assert texts["auto"] == "Automatic"
    assert "not usable here" in texts["mps"]


def test_a_doubt_is_shown_once_in_the_warning_or_under_the_results(user_of_real_models):
    user = user_of_real_models
    array = np.full((20, 22, 24), 35.0, np.float32)
    array[:10] = -1000
    node = add_volume(array, np.eye(4))
    user.segment(node, "small")
    doubt = "made for MR, but the volume looks like CT"
    assert doubt in user.ui.warningLabel.text
    assert doubt not in user.ui.resultsInfo.text
    user.choose_model("sam_vit_b")
    assert doubt not in user.ui.warningLabel.text
    assert doubt in user.ui.resultsInfo.text
