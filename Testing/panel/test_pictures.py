"""Pictures of the panel, kept in build/pictures for reviewers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from Testing import host
from Testing.panel.helpers import blobs_volume
from Testing.panel.pictures import save_light_and_dark
from Testing.slicer.helpers import GRIDS

BUILD = Path(__file__).parents[2] / "build"
PICTURES = Path(os.environ.get("MASKSAM_PICTURES", BUILD / "pictures"))


@pytest.fixture
def window(user):
    window = host.open_window("MaskSAMSlicer", (1400, 1000))
    yield window
    window.close()


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def test_the_window_shows_the_result_in_light_and_dark(user, window, scene):
    import slicer

    PICTURES.mkdir(parents=True, exist_ok=True)
    volume = blobs_volume(GRIDS["oblique"])
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    user.segment(volume)
    user.click(user.ui.show3DButton)
    user.ui.resultsTable.cellClicked.emit(0, 0)
    light, dark = map(pixels, save_light_and_dark(window, PICTURES))
    panel_width = light.shape[1] // 3
    assert light[:, :panel_width].mean() > 0.7
    assert dark[:, :panel_width].mean() < 0.4
    # The first class is red in a slice view and in the 3D view.
    red = (light[..., 0] > light[..., 1] + 0.2) & (light[..., 0] > light[..., 2] + 0.2)
    for rows in (slice(40, 480), slice(520, 960)):
        assert red[rows, panel_width + 40 :].sum() > 200


def test_the_texts_of_buttons_fit(user, window, scene):
    user.choose_model("sam_vit_b")
    user.choose_volume(blobs_volume())
    user.ui.advancedButton.collapsed = False
    window.refresh()
    for name in ("segmentButton", "downloadButton", "importButton", "removeButton", "undoButton"):
        button = getattr(user.ui, name)
        needed = button.fontMetrics().horizontalAdvance(button.text)
        assert button.width >= needed, f"{name} cuts '{button.text}'"


def test_segment_is_above_the_fold_and_the_panel_stays_narrow_with_results(user, window, scene):
    """On a screen 1080 pixels high, Slicer's panel has about 750 and no horizontal scroll bar."""
    import qt

    for model in ("brain", "hippocampus", "sam_vit_b", "threshold"):
        user.choose_model(model)
        window.refresh()
        button = user.ui.segmentButton
        assert button.mapTo(user.widget.parent, qt.QPoint(0, button.height)).y() < 620, model
    # Two warnings move the button only a little, and the section Advanced lies below it.
    user.ui.advancedButton.collapsed = False
    user.choose_volume(blobs_volume(np.diag([-9.0, -9.0, 9.0, 1.0]), "thick"))
    user.choose_model("brain")
    window.refresh()
    assert user.ui.warningLabel.text
    assert button.mapTo(user.widget.parent, qt.QPoint(0, button.height)).y() < 660
    user.ui.advancedButton.collapsed = True
    before = user.widget.parent.minimumSizeHint.width()
    user.segment(blobs_volume())
    window.refresh()
    assert user.ui.resultsButton.isVisibleTo(user.widget.parent)
    assert user.widget.parent.minimumSizeHint.width() <= before
    # Long names, boxes, open sections and an absent model's checksum do not widen the panel.
    user.segment(blobs_volume(name="T1 mprage sagittal with a name of more than sixty characters"))
    user.segment(blobs_volume(name="T1_mprage_sagittal_with_a_name_of_more_than_sixty_characters"))
    user.click(user.ui.showBoxesButton)
    for model in ("threshold", "sam_vit_b"):
        user.choose_model(model)
        for section in (user.ui.advancedButton, user.ui.logButton):
            section.collapsed = False
        window.refresh()
        assert user.widget.parent.minimumSizeHint.width() < 320, model


def test_names_stay_readable_beside_many_columns(user, window, scene):
    for model in ("head", "threshold", "head"):
        user.segment(blobs_volume(), model)
        window.refresh()
        table = user.ui.resultsTable
        needed = table.fontMetrics().horizontalAdvance("left cerebral")
        assert table.columnWidth(0) > needed + 40, model  # plus the tick box and the colour


def test_roi_device_rule_and_description_are_under_advanced(user, window, scene):
    ui, parent = user.ui, user.widget.parent
    for shown in (False, True):
        ui.advancedButton.collapsed = not shown
        for widget in (
            ui.roiSelector,
            ui.deviceSelector,
            ui.ruleSelector,
            ui.modelDetails,
            ui.importButton,
        ):
            assert widget.isVisibleTo(parent) == shown
    user.choose_model("hippocampus")
    assert ui.modelSummary.isVisibleTo(parent)
    assert "2 classes" in ui.modelSummary.text and "CC-BY-SA-4.0" in ui.modelSummary.text
    user.choose_model("sam_vit_b")
    assert ui.modelSummary.text == (
        "classes from your boxes, 375 MB, licence Apache-2.0, not installed"
    )
