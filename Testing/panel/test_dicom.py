"""Export of results as DICOM segmentations from the panel and from scripts."""

from __future__ import annotations

import os
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from MaskSAMCore.io import read_json
from MaskSAMCore.labels import Label, Terminology
from MaskSAMCore.resources import resources
from MaskSAMCore.terminology import terminology_entry, terminology_of
from Testing import host
from Testing.helpers.dicom import write_slices
from Testing.helpers.dicom_segmentations import HIPPOCAMPUS, LEFT, RIGHT, STRUCTURE, placed_labelmap
from Testing.helpers.paths import LAUNCHER_SCRIPT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.time_limits import LONG
from Testing.panel.helpers import blobs_volume, segmentations
from Testing.slicer.helpers import (
    GRIDS,
    add_roi,
    add_transform,
    matrix,
    segment_voxels,
    turn,
    write_dicom_series,
)

SIDES = {"Anterior": LEFT, "Posterior": RIGHT}


def series_volume(folder: Path, grid: str = "oblique"):
    """Write a DICOM series, and load it as Slicer's DICOM module does; return its volume node."""
    import slicer

    names = write_dicom_series(folder, two_blobs().astype(np.int16), GRIDS[grid])
    volume = slicer.util.loadVolume(names[0], {"singleFile": False})
    uids = [str(pydicom.dcmread(name).SOPInstanceUID) for name in names]
    volume.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
    return volume


def set_codes(node) -> list[Label]:
    """Give segments the codes of hippocampi, as the user does in the Segment Editor."""
    labels = []
    segmentation = node.GetSegmentation()
    for number, segment_id in enumerate(segmentation.GetSegmentIDs(), start=1):
        segment = segmentation.GetSegment(segment_id)
        terms = Terminology(STRUCTURE, HIPPOCAMPUS, SIDES.get(segment.GetName()))
        label = Label(number, segment.GetName(), (0.5, 0.5, 0.5), terms)
        segment.SetTag(segment.GetTerminologyEntryTagName(), terminology_entry(label))
        labels.append(label)
    return labels


def assert_placed(
    path: Path, volume, node, labels: list[Label], place: np.ndarray | None = None
) -> None:
    """Check that a DICOM segmentation has all segments at their places in the series.

    Args:
        path: DICOM segmentation file.
        volume: volume of the series.
        node: segmentation node.
        labels: labels with the names of the segments.
        place: IJK-to-RAS matrix of the series; by default that of the volume.
    """
    from MaskSAMCore.geometry import Volume
    from MaskSAMSlicerLib.mrml.volumes import ijk_to_node

    expected = np.zeros(two_blobs().shape, np.uint16)
    for label in labels:
        expected[segment_voxels(node, label.name, volume)] = label.value
    assert len(np.unique(expected)) == len(labels) + 1
    place = ijk_to_node(volume) if place is None else place
    found = placed_labelmap(path, Volume(expected, place), labels)
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def database(monkeypatch) -> dict[str, str]:
    """Stand-in for Slicer's DICOM database, which the host lacks: files by SOP instance UID."""
    import slicer

    files: dict[str, str] = {}
    found = types.SimpleNamespace(isOpen=True, fileForInstance=lambda uid: files.get(uid, ""))
    monkeypatch.setattr(slicer, "dicomDatabase", found, raising=False)
    return files


def fill(database: dict[str, str], folder: Path) -> None:
    for path in folder.iterdir():
        database[str(pydicom.dcmread(path).SOPInstanceUID)] = str(path)


@pytest.mark.parametrize("grid", ["oblique", "LPS"])
def test_a_result_is_exported_with_a_report_for_the_series_in_the_database(
    user, scene, database, tmp_path: Path, grid: str
):
    volume = series_volume(tmp_path / "sériés", grid)
    fill(database, tmp_path / "sériés")
    user.segment(volume)
    (node,) = segmentations(scene)
    labels = set_codes(node)
    target = tmp_path / "seg.dcm"
    host.messages.answers.append(str(target))
    user.ui.dicomReport.checked = True
    user.click(user.ui.dicomButton)
    user.wait()
    assert str(target) in user.status
    assert_placed(target, volume, node, labels)
    file = pydicom.dcmread(target)
    uids = set(database)
    [referenced] = file.ReferencedSeriesSequence
    assert {i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence} == uids
    assert {s.SegmentAlgorithmType for s in file.SegmentSequence} == {"AUTOMATIC"}
    modifiers = [
        s.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
        for s in file.SegmentSequence
    ]
    assert [m.CodeValue for m in modifiers] == [LEFT.value, RIGHT.value]
    report = pydicom.dcmread(tmp_path / "seg_report.dcm")
    assert report.Modality == "SR"
    assert {path.name for path in tmp_path.iterdir()} == {"sériés", "seg.dcm", "seg_report.dcm"}


@pytest.mark.parametrize("answer", [False, True])
def test_a_report_that_exists_is_replaced_only_if_the_user_agrees(
    user, scene, database, tmp_path: Path, answer: bool
):
    volume = series_volume(tmp_path / "series")
    fill(database, tmp_path / "series")
    user.segment(volume)
    (node,) = segmentations(scene)
    set_codes(node)
    report = tmp_path / "seg_report.dcm"
    report.write_bytes(b"earlier")
    host.messages.answers.extend([str(tmp_path / "seg.dcm"), answer])
    user.ui.dicomReport.checked = True
    user.click(user.ui.dicomButton)
    user.wait()
    assert (report.read_bytes() != b"earlier") == (tmp_path / "seg.dcm").exists() == answer


def test_a_folder_is_asked_for_where_the_database_lacks_the_series(user, scene, tmp_path: Path):
    (tmp_path / "study").mkdir()
    volume = series_volume(tmp_path / "study" / "series")
    # Another series in the same folder must be ignored.
    write_slices(
        tmp_path / "study" / "other", np.ones((3, 4, 5), np.uint16), np.eye(4), series="1.2.77"
    )
    user.segment(volume)
    (node,) = segmentations(scene)
    labels = set_codes(node)
    host.messages.answers.extend([str(tmp_path / "study"), str(tmp_path / "seg")])
    user.click(user.ui.dicomButton)
    user.wait()
    assert_placed(tmp_path / "seg.dcm", volume, node, labels)
    next((tmp_path / "study" / "series").iterdir()).unlink()
    host.messages.answers.extend([str(tmp_path / "study"), str(tmp_path / "again.dcm")])
    user.click(user.ui.dicomButton)
    user.wait()
    assert "choose the folder with all of them" in user.status
    assert not (tmp_path / "again.dcm").exists()


def test_edited_and_added_segments_are_exported_as_they_are_and_named_semiautomatic(
    user, scene, tmp_path: Path
):
    import slicer

    volume = series_volume(tmp_path / "in")
    user.segment(volume)
    (node,) = segmentations(scene)
    segmentation = node.GetSegmentation()
    added = segmentation.AddEmptySegment("added", "Lesion")
    painted = np.zeros(two_blobs().shape, np.uint8)
    painted[0, :3, :4] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, node, added, volume)
    first = segmentation.GetSegmentIdBySegmentName("Anterior")
    segmentation.GetSegment(first).SetName("Hippocampus")
    labels = set_codes(node)
    target = tmp_path / "seg.dcm"
    user.widget.logic.exportDicom(node, target, folder=tmp_path / "in")
    assert_placed(target, volume, node, labels)
    segments = pydicom.dcmread(target).SegmentSequence
    assert [s.SegmentLabel for s in segments] == ["Hippocampus", "Posterior", "Lesion"]
    assert {s.SegmentAlgorithmType for s in segments} == {"SEMIAUTOMATIC"}


@pytest.mark.parametrize("kind", ["automatic", "changed", "from boxes", "of another volume"])
def test_segments_of_an_earlier_run_are_semiautomatic_unless_they_are_known_to_be_unchanged(
    user, scene, tmp_path: Path, kind: str
):
    import slicer

    volume = series_volume(tmp_path / "in")
    other = kind == "of another volume"
    user.segment(series_volume(tmp_path / "other") if other else volume)
    (node,) = segmentations(scene)
    logic = user.widget.logic
    if kind == "from boxes":
        box = add_roi((2, 2, 2), (9, 9, 9), GRIDS["oblique"], "Anterior")
        logic.update(node, boxNodes=[box])
    logic.segment(volume, model="threshold", segmentationNode=node, rule="add")
    if kind == "changed":
        voxels = np.ones(two_blobs().shape, np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, "Anterior", volume)
    set_codes(node)
    target = tmp_path / "seg.dcm"
    logic.exportDicom(node, target, folder=tmp_path / "in")
    segments = pydicom.dcmread(target).SegmentSequence
    expected = "AUTOMATIC" if kind == "automatic" else "SEMIAUTOMATIC"
    assert {s.SegmentAlgorithmType for s in segments} == {expected}


@pytest.mark.parametrize("kind", ["observed", "hardened", "centered"])
def test_moving_the_volume_does_not_move_the_segmentation_in_the_series(
    user, scene, tmp_path: Path, kind: str
):
    from MaskSAMSlicerLib.mrml.volumes import ijk_to_node

    volume = series_volume(tmp_path / "in")
    place = ijk_to_node(volume)
    if kind == "centered":
        volume.SetOrigin(3, 4, 5)
    else:
        add_transform(matrix(turn((5, -7, 11)), (1, 1, 1)), volume)
    if kind == "hardened":
        volume.HardenTransform()
    user.segment(volume)
    (node,) = segmentations(scene)
    labels = set_codes(node)
    user.widget.logic.exportDicom(node, tmp_path / "seg.dcm", folder=tmp_path / "in")
    assert_placed(tmp_path / "seg.dcm", volume, node, labels, place)


def test_a_file_of_the_series_is_not_replaced(user, scene, tmp_path: Path):
    user.segment(series_volume(tmp_path / "in"))
    (node,) = segmentations(scene)
    set_codes(node)
    path = sorted((tmp_path / "in").iterdir())[2]
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="is a file of the series"):
        user.widget.logic.exportDicom(node, path, folder=tmp_path / "in")
    assert path.read_bytes() == before


def test_segments_without_codes_are_refused_with_what_to_do(user, scene, tmp_path: Path):
    volume = series_volume(tmp_path / "in")
    user.segment(volume)
    (node,) = segmentations(scene)
    segment = node.GetSegmentation().GetSegment("Anterior")
    segment.RemoveTag(segment.GetTerminologyEntryTagName())
    with pytest.raises(ValueError, match="'Anterior' has no terminology"):
        user.widget.logic.exportDicom(node, tmp_path / "seg.dcm", folder=tmp_path / "in")


def test_only_results_of_volumes_from_dicom_can_be_exported(user, tmp_path: Path):
    assert not user.ui.dicomButton.enabled
    user.segment(blobs_volume())
    assert not user.ui.dicomButton.enabled
    assert "was not loaded from DICOM" in user.ui.dicomButton.toolTip
    user.segment(series_volume(tmp_path / "in"))
    assert user.ui.dicomButton.enabled


def test_missing_packages_are_installed_for_the_worker_alone(
    user, scene, tmp_path: Path, monkeypatch
):
    from MaskSAMSlicerLib import installer

    user.segment(series_volume(tmp_path / "in"))
    folder = tmp_path / "python"
    commands = []

    def pip(arguments):
        commands.append(arguments)
        for name, version in (("highdicom", "99.0"), ("pydicom", "99.1")):
            found = folder / f"{name}-{version}.dist-info" / "METADATA"
            found.parent.mkdir(parents=True)
            found.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return 0, ""

    monkeypatch.setattr(installer, "worker_folder", lambda: folder)
    monkeypatch.setattr(
        installer, "DICOM", installer.Extra(("highdicom>=99", "pydicom>=99"), 6, 45)
    )
    monkeypatch.setattr(installer, "_run_pip", pip)
    user.click(user.ui.dicomButton)
    frame = user.ui.installFrame
    assert frame.isVisibleTo(frame.parent())
    assert "6 MB" in user.ui.installLabel.text
    assert user.ui.segmentButton.enabled
    user.click(user.ui.installButton)
    ((*_options, first, second),) = commands
    assert str(folder) in _options
    assert (first, second) == ("highdicom>=99", "pydicom>=99")
    assert not frame.isVisibleTo(frame.parent())
    assert host.messages.texts("error") == []


def test_a_failed_installation_is_explained(user, scene, tmp_path: Path, monkeypatch):
    from MaskSAMSlicerLib import installer

    user.segment(series_volume(tmp_path / "in"))
    monkeypatch.setattr(installer, "worker_folder", lambda: tmp_path / "python")
    monkeypatch.setattr(installer, "DICOM", installer.Extra(("highdicom>=99",), 6, 45))
    monkeypatch.setattr(installer, "_run_pip", lambda arguments: (1, "ERROR: no network\n"))
    user.click(user.ui.dicomButton)
    user.click(user.ui.installButton)
    assert "no network" in host.messages.texts("error")[-1]


def test_the_workers_own_packages_come_before_those_that_slicers_launcher_adds(
    user, scene, tmp_path: Path, monkeypatch
):
    from MaskSAMSlicerLib import installer
    from MaskSAMSlicerLib.dicom_export import export_request
    from MaskSAMSlicerLib.logic import new_client
    from MaskSAMSlicerLib.worker.client import WorkerError

    user.segment(series_volume(tmp_path / "in"))
    (node,) = segmentations(scene)
    set_codes(node)
    slicers = tmp_path / "of slicer"
    slicers.mkdir()
    (slicers / "pydicom.py").write_text("raise ImportError('pydicom of Slicer')")
    own = tmp_path / "of the worker"
    own.mkdir()
    launcher = tmp_path / "bin" / "PythonSlicer"
    launcher.parent.mkdir()
    command = [sys.executable, "-I", "-S", str(LAUNCHER_SCRIPT), str(slicers), sys.executable]
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(launcher.parent), prepend=os.pathsep)
    monkeypatch.setattr(installer, "worker_folder", lambda: own)
    client = new_client(print, hang_seconds=LONG)
    target = tmp_path / "seg.dcm"
    try:
        request = export_request(node, target, False, tmp_path / "in")
        with pytest.raises(WorkerError, match="pydicom"):
            client.wait(client.export_dicom(request))
        client.close()  # as after an installation
        (own / "pydicom").symlink_to(Path(pydicom.__file__).parent)
        client.wait(client.export_dicom(request))
    finally:
        client.close()
    assert pydicom.dcmread(target).Modality == "SEG"


@pytest.fixture
def pip(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Function that replaces PythonSlicer, which runs pip, by a shell script.

    It returns the folder of the worker's packages, which lacks highdicom.
    """
    from MaskSAMSlicerLib import installer

    def put(script: str) -> Path:
        launcher = tmp_path / "bin" / "PythonSlicer"
        launcher.parent.mkdir()
        launcher.write_text(f"#!/bin/sh\ncd '{tmp_path}'\n{script}")
        launcher.chmod(0o755)
        monkeypatch.setenv("PATH", str(launcher.parent), prepend=os.pathsep)
        folder = tmp_path / "python"
        monkeypatch.setattr(installer, "worker_folder", lambda: folder)
        monkeypatch.setattr(installer, "DICOM", installer.Extra(("highdicom>=99",), 6, 45))
        return folder

    return put


INSTALL = """
mkdir -p python/highdicom-99.0.dist-info
printf 'Metadata-Version: 2.1\\nName: highdicom\\nVersion: 99.0\\n' \
    > python/highdicom-99.0.dist-info/METADATA
"""


def test_packages_that_another_window_has_installed_meanwhile_are_not_installed_again(pip):
    from MaskSAMSlicerLib import installer

    folder = pip(f"{INSTALL}touch ran\n")
    installer.install_extra(installer.DICOM, print)
    ran = folder.parent / "ran"
    ran.unlink()
    installer.install_extra(installer.DICOM, print)
    assert not ran.exists()


def test_nothing_else_can_be_started_during_an_installation(user, pip, tmp_path):
    import qt

    pip(f"{INSTALL}while [ ! -e seen ]; do sleep 0.05; done\n")
    user.segment(series_volume(tmp_path / "in"))
    user.click(user.ui.dicomButton)
    seen = {}

    def look():
        seen["buttons"] = [
            button.enabled
            for button in (
                user.ui.installButton,
                user.ui.segmentButton,
                user.ui.drawBoxButton,
                user.ui.dicomButton,
            )
        ]
        seen["text"] = user.ui.segmentButton.text
        seen["reason"] = user.ui.segmentButton.toolTip
        seen["bar"] = user.ui.progressBar.isVisibleTo(user.ui.progressBar.parent())
        seen["status"] = user.status
        (tmp_path / "seen").touch()

    qt.QTimer.singleShot(0, look)
    user.click(user.ui.installButton)
    assert seen == {
        "buttons": [False] * 4,
        "text": "&Segment",
        "reason": "Wait until the packages are installed.",
        "bar": True,
        "status": "Installing the missing packages ...",
    }
    assert user.status == "The packages are installed."
    assert not user.ui.progressBar.isVisibleTo(user.ui.progressBar.parent())
    assert user.ui.installButton.enabled
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.found == ["Anterior", "Posterior"]


def test_an_installation_that_pip_says_has_failed_is_an_error(user, pip, tmp_path):
    pip(f"{INSTALL}echo 'ERROR: no space left on the disk'\nexit 1\n")
    user.segment(series_volume(tmp_path / "in"))
    user.click(user.ui.dicomButton)
    user.click(user.ui.installButton)
    (message,) = host.messages.texts("error")
    assert "highdicom>=99 could not be installed: ERROR: no space left on the disk" in message
    assert user.status == "The packages could not be installed."


@pytest.mark.parametrize("description", sorted(resources().glob("Models/*/masksam.json")))
def test_codes_survive_the_entry_of_a_segment(description: Path):
    for values in read_json(description)["labels"]:
        label = Label.from_json(values)
        assert terminology_of(terminology_entry(label)) == label.terminology
    assert terminology_of("") is None
