"""The table of results: visibility, jumping, undo, asymmetry, clipboard and file."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from Testing import host
from Testing.helpers.paths import ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.panel.helpers import blobs_volume, segmentations
from Testing.slicer.helpers import GRIDS, add_roi, segment_names

# On this grid the model resamples nothing.
GRID = GRIDS["axis-aligned"]
CONFIDENCE, SHARE, ASYMMETRY, DICE, OPACITY = 1, 3, 4, 5, 6


def test_classes_can_be_hidden_shown_and_jumped_to(user, scene):
    import qt
    import slicer

    user.segment(blobs_volume(GRIDS["oblique"]))
    (node,) = segmentations(scene)
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Posterior")
    user.ui.resultsTable.item(1, 0).setCheckState(qt.Qt.Unchecked)
    assert not node.GetDisplayNode().GetSegmentVisibility(segment_id)
    user.ui.resultsTable.item(1, 0).setCheckState(qt.Qt.Checked)
    assert node.GetDisplayNode().GetSegmentVisibility(segment_id)
    user.click(user.ui.show3DButton)
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    user.click(user.ui.show3DButton)
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")
    slice_node = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    slice_node.SetLayoutName("Red")
    user.ui.resultsTable.cellClicked.emit(0, 0)
    center = np.array(node.GetSegmentCenterRAS("Anterior"))
    to_ras = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())
    assert abs((center - to_ras[:3, 3]) @ to_ras[:3, 2]) < 1e-3


def test_the_table_follows_what_other_modules_do_with_the_segments(user, scene):
    import qt
    import slicer

    def shown() -> tuple[str, bool, tuple[int, int, int]]:
        slicer.app.processEvents()
        cell = user.ui.resultsTable.item(1, 0)
        color = cell.icon().pixmap(8, 8).toImage().pixelColor(4, 4)
        ticked = cell.checkState() == qt.Qt.Checked
        return cell.text(), ticked, (color.red(), color.green(), color.blue())

    user.segment(blobs_volume())
    node = segmentations(scene)[0]
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Posterior")
    segment = node.GetSegmentation().GetSegment(segment_id)
    node.GetDisplayNode().SetSegmentVisibility(segment_id, False)
    assert not shown()[1]
    node.GetDisplayNode().SetSegmentVisibility(segment_id, True)
    assert shown()[1]
    segment.SetName("tail")
    segment.SetColor(0.0, 0.0, 1.0)
    assert shown() == ("tail", True, (0, 0, 255))
    assert user.ui.resultsTable.item(0, 0).text() == "Anterior"


def test_the_opacity_of_a_class_is_shown_and_edited(user, scene):
    import slicer
    from PySide6 import QtCore, QtWidgets

    user.segment(blobs_volume())
    node = segmentations(scene)[0]
    display = node.GetDisplayNode()
    table = user.ui.resultsTable
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName("Posterior")
    assert table.item(1, OPACITY).text() == "1"
    display.SetSegmentOpacity3D(segment_id, 0.25)
    slicer.app.processEvents()
    assert table.item(1, OPACITY).text() == "0.25"
    for typed, opacity in ((0.5, 0.5), (7.0, 1.0)):
        table.item(1, OPACITY).setData(QtCore.Qt.ItemDataRole.EditRole, typed)
        slicer.app.processEvents()
        assert display.GetSegmentOpacity3D(segment_id) == opacity
        assert table.item(1, OPACITY).text() == f"{opacity:g}"
    assert display.GetSegmentOpacity3D(node.GetSegmentation().GetNthSegmentID(0)) == 1.0
    # A double click edits this column and no other.
    for column, edited in ((0, False), (2, False), (OPACITY, True)):
        table.editItem(table.item(1, column))
        editors = table.findChildren(QtWidgets.QDoubleSpinBox)
        assert bool(editors) == edited
        assert not table.findChildren(QtWidgets.QLineEdit) or edited


def test_a_class_that_may_be_wrong_is_red_and_a_click_shows_its_weakest_slice_and_its_box(
    user, scene
):
    import slicer

    table = user.ui.resultsTable
    user.segment(blobs_volume(GRIDS["oblique"]), "rated")
    assert not table.isColumnHidden(DICE)
    assert table.isColumnHidden(CONFIDENCE)
    assert [f"Confidence: {table.item(row, CONFIDENCE).text()}" for row in range(2)] == [
        table.item(row, DICE).toolTip().splitlines()[-1] for row in range(2)
    ]
    assert [table.item(row, DICE).text() for row in range(2)] == ["0.90\n≥ 0.80", "0.60\n≥ 0.50"]
    red, plain = (table.item(row, DICE).foreground().color().name() for row in (1, 0))
    assert red != plain
    slice_node = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    slice_node.SetLayoutName("Red")
    table.cellClicked.emit(0, 0)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == 0
    table.cellClicked.emit(1, 0)
    (box,) = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    assert box.GetName() == "Posterior"
    assert box.GetDisplayVisibility()
    bounds = np.zeros(6)
    box.GetRASBounds(bounds)
    place = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())[:3, 3]
    assert (bounds[::2] <= place).all()
    assert (place <= bounds[1::2]).all()
    user.segment(blobs_volume(GRID), "threshold")
    assert table.isColumnHidden(DICE)
    assert not table.isColumnHidden(CONFIDENCE)


def test_a_run_is_undone_and_redone_and_only_a_present_result_is_exported(user, scene):
    user.segment(blobs_volume(GRID))
    (node,) = segmentations(scene)
    user.click(user.ui.undoButton)
    assert segment_names(node) == []
    assert not user.ui.exportButton.enabled
    assert not user.ui.copyButton.enabled
    user.click(user.ui.redoButton)
    assert segment_names(node) == ["Anterior", "Posterior"]
    assert user.ui.exportButton.enabled


def test_an_undone_result_is_not_exported_after_an_edit_either(user, scene):
    user.segment(blobs_volume())
    (node,) = segmentations(scene)
    user.click(user.ui.undoButton)
    node.GetSegmentation().AddEmptySegment("own", "own")
    user.widget.panel.update()
    assert not user.ui.redoButton.enabled
    assert not user.ui.copyButton.enabled and not user.ui.exportButton.enabled


def test_nothing_is_undone_or_redone_during_a_run(user, scene):
    volume = blobs_volume()
    user.segment(volume)
    user.start(volume, "slow")
    user.wait_for_progress()
    assert not user.ui.undoButton.enabled
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.ui.undoButton.enabled
    user.click(user.ui.undoButton)
    user.start(volume, "slow")
    user.wait_for_progress()
    assert not user.ui.redoButton.enabled
    user.click(user.ui.segmentButton)
    user.wait()
    user.click(user.ui.redoButton)
    assert segment_names(segmentations(scene)[0]) == ["Anterior", "Posterior"]


def test_nothing_is_undone_after_the_segments_were_edited(user, scene):
    import slicer

    volume = blobs_volume()
    user.segment(volume)
    (node,) = segmentations(scene)
    assert user.ui.undoButton.enabled
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    painted = np.zeros(two_blobs().shape, np.uint8)
    painted[2:4, 3:6, 3:6] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, segment_id, volume)
    user.click(user.ui.undoButton)  # before the event loop has disabled it
    kept = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)
    assert np.array_equal(kept, painted)
    assert not user.ui.undoButton.enabled


def test_asymmetry_is_shown_for_models_with_two_sides(user):
    table = user.ui.resultsTable
    user.segment(blobs_volume(GRID), "sided")
    left, right = ((two_blobs() == value).sum() for value in (1, 2))
    asymmetry = f"{200 * (left - right) / (left + right):+.1f}"
    assert left != right
    assert user.found == ["left blob", "right blob"]
    assert [table.item(row, ASYMMETRY).text() for row in range(2)] == [asymmetry, asymmetry]
    assert not table.isColumnHidden(ASYMMETRY)
    user.segment(blobs_volume(GRID), "threshold")
    assert table.isColumnHidden(ASYMMETRY)


def test_the_intracranial_volume_and_the_share_of_each_class_are_shown(user, scene, tmp_path):
    import qt
    import slicer

    table = user.ui.resultsTable
    user.segment(blobs_volume(GRID), "head")
    ml = [(two_blobs() == value).sum() / 1000 for value in (1, 2)]
    assert user.found == ["Anterior", "Posterior", "intracranial volume"]
    assert user.table[2] == ["intracranial volume", "", f"{sum(ml):.2f}"]
    shares = [f"{100 * one / sum(ml):.2f}" for one in ml]
    assert [table.item(row, SHARE).text() for row in range(3)] == [*shares, "100.00"]
    assert not table.isColumnHidden(SHARE)
    # A segment that is only hidden is part of the sum.
    table.item(0, 0).setCheckState(qt.Qt.Unchecked)
    user.click(user.ui.copyButton)
    rows = list(csv.DictReader(io.StringIO(qt.QApplication.clipboard().text()), delimiter="\t"))
    assert [row["structure"] for row in rows] == user.found
    assert [float(row["intracranial_percent"]) for row in rows] == pytest.approx(
        [*map(float, shares), 100], abs=0.01
    )
    # The sum is no segment: its row has no tick box, no place to jump to and nothing to edit.
    assert not table.item(2, 0).flags() & qt.Qt.ItemIsUserCheckable
    slice_node = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    slice_node.SetLayoutName("Red")
    before = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())
    table.cellClicked.emit(2, 0)
    assert np.array_equal(slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS()), before)
    user.segment(blobs_volume(GRID), "threshold")
    assert user.found == ["Anterior", "Posterior"]
    assert table.isColumnHidden(SHARE)


def test_without_one_of_its_segments_no_intracranial_volume_is_shown(user, scene, tmp_path):
    removed = "No intracranial volume is shown, because segments were removed."
    table = user.ui.resultsTable
    user.segment(blobs_volume(GRID), "head")
    (node,) = segmentations(scene)
    user.click(user.ui.undoButton)
    assert removed not in user.ui.resultsInfo.text, "the user has removed all of them"
    user.click(user.ui.redoButton)
    assert "intracranial volume" in user.found
    node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetNthSegmentID(1))
    assert user.found == ["Anterior", "Posterior"]
    assert table.isColumnHidden(SHARE)
    assert removed in user.ui.resultsInfo.text
    host.messages.answers.append(str(tmp_path / "volumes"))
    user.click(user.ui.exportButton)
    assert "intracranial" not in (tmp_path / "volumes.csv").read_text(encoding="utf-8-sig")


def test_an_roi_has_no_intracranial_volume(user, scene):
    volume = blobs_volume(GRID)
    user.choose_volume(volume)
    user.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (20, 15, 9), GRID))
    user.segment(volume, "head")
    assert user.found
    assert "intracranial volume" not in user.found
    assert user.ui.resultsTable.isColumnHidden(SHARE)


def test_the_table_is_copied_and_exported(user, tmp_path):
    import qt

    assert not user.ui.copyButton.enabled
    assert not user.ui.exportButton.enabled
    user.segment(blobs_volume(GRID, name="MR häd"), "sided")
    user.click(user.ui.copyButton)
    copied = qt.QApplication.clipboard().text()
    assert copied.splitlines()[0].split("\t")[0] == "structure"
    target = tmp_path / "völumes"
    host.messages.answers.append(str(target))
    user.click(user.ui.exportButton)
    assert "völumes.csv" in user.status
    text = target.with_suffix(".csv").read_text(encoding="utf-8-sig")
    for lines, separator in ((copied, "\t"), (text, ",")):
        rows = list(csv.DictReader(io.StringIO(lines), delimiter=separator))
        assert [row["structure"] for row in rows] == ["left blob", "right blob"]
        expected = [(two_blobs() == value).sum() / 1000 for value in (1, 2)]
        assert [float(row["volume_ml"]) for row in rows] == pytest.approx(expected, abs=1e-4)
    # The file names the case, so that files of several volumes can be joined.
    assert {row["case"] for row in rows} == {"MR häd"}


def test_a_cancelled_export_writes_nothing_and_a_failed_one_is_reported(user, tmp_path):
    user.segment(blobs_volume(GRID), "sided")
    host.messages.answers.append("")
    user.click(user.ui.exportButton)
    assert list(tmp_path.iterdir()) == []
    host.messages.answers.append(str(tmp_path / "nowhere" / "volumes.csv"))
    user.click(user.ui.exportButton)
    assert "cannot write" in host.messages.texts("error")[-1]


def test_a_file_is_replaced_only_if_the_user_confirms_it(user, tmp_path):
    """The file dialog checks only the typed name; the panel asks once the suffix is added."""
    user.segment(blobs_volume(GRID), "sided")
    target = tmp_path / "volumes.csv"
    target.write_text("precious")
    host.messages.answers.extend([str(tmp_path / "volumes"), False])
    user.click(user.ui.exportButton)
    assert target.read_text() == "precious"
    assert "Replace it?" in host.messages[-1].text
    host.messages.answers.extend([str(tmp_path / "volumes"), True])
    user.click(user.ui.exportButton)
    assert "left blob" in target.read_text(encoding="utf-8-sig")


def test_the_proposed_file_name_is_valid_on_every_system(user, monkeypatch):
    import qt

    proposed = []
    monkeypatch.setattr(
        qt.QFileDialog,
        "getSaveFileName",
        staticmethod(lambda _parent, _title, name, _kinds: proposed.append(name) or ""),
    )
    user.segment(blobs_volume(GRID, name='5: T1/FLAIR "x"?'), "sided")
    user.click(user.ui.exportButton)
    assert proposed == ["5_ T1_FLAIR _x_-volumes.csv"]


@pytest.fixture
def segment_editor(user):
    """The Segment Editor, in a window that can show it."""
    window = host.open_window("MaskSAMSlicer", (1400, 1000))
    yield host.load_module(ROOT / "Testing/host/modules/SegmentEditor.py")
    window.close()
    host.unload_module("SegmentEditor")


def test_edit_opens_the_segment_editor_on_the_result_and_the_chosen_class(
    user, scene, segment_editor
):
    volume = blobs_volume()
    user.segment(volume)
    user.ui.resultsTable.selectRow(1)
    user.click(user.ui.editButton)
    editor = segment_editor.widgetRepresentation().self().parameters
    (node,) = segmentations(scene)
    assert editor.GetSegmentationNode() is node
    assert editor.GetSourceVolumeNode() is volume
    selected = node.GetSegmentation().GetSegment(editor.GetSelectedSegmentID())
    assert selected.GetName() == "Posterior"


def test_the_3d_button_follows_surfaces_that_others_make(user, scene):
    user.segment(blobs_volume())
    (node,) = segmentations(scene)
    assert user.ui.show3DButton.enabled and not user.ui.show3DButton.checked
    node.CreateClosedSurfaceRepresentation()
    assert user.ui.show3DButton.checked
    user.click(user.ui.show3DButton)
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")
    user.click(user.ui.undoButton)
    assert not user.ui.show3DButton.enabled
