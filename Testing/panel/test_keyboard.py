"""Operation of the panel without a mouse."""

from __future__ import annotations

import re

import pytest

from Testing import host
from Testing.panel.helpers import blobs_volume, box_node, move_box, segmentations

SECTIONS = ("inputs", "model", "output", "advanced", "results", "boxes", "learn", "log")
# Mnemonics of the menus in Slicer's main window.
MENUS = set("FEVH")
# Mnemonics of the most frequent actions, each used once in the whole panel.
UNIQUE = set("SCAUBWI3")


@pytest.fixture
def window(user):
    """A window with the focus, which shortcuts need."""
    window = host.open_window("MaskSAMSlicer", (1400, 1000))
    window.activateWindow()
    user.wait(lambda: window.isActiveWindow, "the focus")
    yield window
    window.close()


def press(window, key: str, *modifiers: str) -> None:
    """Press a key with modifiers in a window."""
    import qt
    import slicer
    from PySide6.QtTest import QTest

    pressed = qt.Qt.NoModifier
    for name in modifiers:
        pressed |= getattr(qt.Qt, f"{name}Modifier")
    QTest.keyClick(window, getattr(qt.Qt, f"Key_{key}"), pressed)
    slicer.app.processEvents()


def type_key(key: str) -> object:
    """Press a key in the focused widget, and return the widget that is focused afterwards."""
    import qt

    press(qt.QApplication.focusWidget(), key)
    return qt.QApplication.focusWidget()


def controls(user) -> dict[str, object]:
    """Return the named widgets that the user can operate and that are visible now."""
    kinds = (
        "QPushButton QCheckBox QLineEdit QComboBox QTableWidget QTreeWidget QSpinBox ctkSearchBox"
    )
    kinds = {*kinds.split(), "qMRMLSegmentationShow3DButton", "ctkCollapsibleButton"}
    return {
        name: widget
        for name, widget in vars(user.ui).items()
        if widget.className() in kinds and widget.isVisible() and widget.enabled
    }


def open_everything(user, model: str = "threshold") -> None:
    """Segment, show boxes and open all sections, so that all controls are visible."""
    volume = blobs_volume()
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    user.choose_model(model)
    for name in SECTIONS:
        getattr(user.ui, f"{name}Button").collapsed = False


def test_tab_reaches_every_control(user, window, scene):
    open_everything(user)
    user.ui.volumeSelector.setFocus()
    reached = set()
    for _ in range(200):
        widget = type_key("Tab")
        if widget in reached:
            break
        reached.add(widget)
    for name, control in controls(user).items():
        inside = any(control.isAncestorOf(widget) for widget in reached)
        # Widgets named qt_... are parts of other controls.
        assert control in reached or inside or name.startswith("qt_"), name


def test_return_jumps_to_the_class_of_a_row(user, window, scene):
    import slicer

    volume = blobs_volume()
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    for name in SECTIONS:
        getattr(user.ui, f"{name}Button").collapsed = False
    (node,) = segmentations(scene)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    for table in (user.ui.resultsTable, user.ui.boxesTable):
        table.setFocus()
        offsets = []
        for row in range(2):
            table.setCurrentCell(row, 0)
            type_key("Return")
            offsets.append(red.GetSliceOffset())
        segment_ids = [node.GetSegmentation().GetNthSegmentID(n) for n in range(2)]
        places = [node.GetSegmentCenterRAS(segment_id)[2] for segment_id in segment_ids]
        assert offsets == pytest.approx(places, abs=1.0)


def test_every_button_has_a_mnemonic_that_no_menu_takes(user, window, scene):
    letters: dict[str, list[str]] = {}
    for name, widget in vars(user.ui).items():
        if not name.endswith(("Button", "CheckBox", "Label")):
            continue
        if name in ("warningLabel", "statusLabel", "installLabel") or (
            widget.className() == "ctkCollapsibleButton"
        ):
            continue
        found = re.findall(r"&(\w)", widget.text)
        assert len(found) == 1, f"{name}: {widget.text}"
        letters.setdefault(found[0].upper(), []).append(name)
    assert not MENUS & set(letters)
    for letter in UNIQUE & set(letters):
        assert len(letters[letter]) == 1, letters[letter]


def test_mnemonics_press_buttons_and_choose_selectors(user, window, scene):
    open_everything(user)
    press(window, "U", "Alt")
    user.wait(lambda: user.ui.redoButton.enabled, "the undo")
    for label, selector in (
        (user.ui.volumeLabel, user.ui.volumeSelector),
        (user.ui.framesLabel, user.ui.framesSelector),
        (user.ui.roiLabel, user.ui.roiSelector),
        (user.ui.outputLabel, user.ui.outputSelector),
        (user.ui.ruleLabel, user.ui.ruleSelector),
        (user.ui.deviceLabel, user.ui.deviceSelector),
        (user.ui.learnNameLabel, user.ui.learnName),
        (user.ui.learnMinutesLabel, user.ui.learnMinutes),
        (user.ui.learnFolderLabel, user.ui.learnFolder),
    ):
        assert label.buddy() is selector, label.text


def test_ctrl_return_segments_but_never_cancels(user, window, scene):
    user.choose_volume(blobs_volume())
    user.choose_model("hanging")
    press(window, "Return", "Control")
    assert user.busy
    press(window, "Return", "Control")
    assert user.ui.segmentButton.text == "&Cancel" and user.ui.segmentButton.enabled
    press(window, "C", "Alt")
    user.wait()
    assert user.status == "Cancelled; nothing was changed."


def test_ctrl_shift_return_segments_again(user, window, scene):
    volume = blobs_volume()
    user.segment(volume)
    user.click(user.ui.showBoxesButton)
    move_box(box_node("Anterior"), (3, 3, 2), (9, 9, 5), volume)
    press(window, "Return", "Control", "Shift")
    assert user.busy
    user.wait()
    assert user.status.startswith("Segmented again")


def test_shortcuts_are_inactive_while_another_module_is_shown(user, window, scene):
    user.choose_volume(blobs_volume())
    user.choose_model("threshold")
    user.widget.exit()
    press(window, "Return", "Control")
    assert not user.busy and not segmentations(scene)
    user.widget.enter()
    press(window, "Return", "Control")
    assert user.busy
    user.wait()


def test_the_space_bar_opens_and_closes_a_section(user, window, scene):
    section = user.ui.advancedButton
    assert section.collapsed
    section.setFocus()
    press(window, "Space")
    assert not section.collapsed
    user.ui.modelSearch.setFocus()
    press(window, "Space")
    assert not user.ui.modelButton.collapsed  # the search text receives the space
