"""What the panel says before a run: models, warnings, what is missing, what is wrong."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

from Testing import host
from Testing.helpers.generated import generated_case
from Testing.panel.fixtures import Person, blobs_volume
from Testing.slicer.module_tools import GRIDS, add_roi, add_volume, add_warp


def test_the_picker_finds_models_by_words(person):
    everything = person.shown_models()
    assert {"hippocampus", "small", "sam_vit_b"} <= set(everything)
    person.choose_model("hippocampus")
    person.ui.modelSearch.setText("vit apache")
    sams = {"sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam"}
    assert set(person.shown_models()) == {*sams, "hippocampus"}
    person.ui.modelSearch.setText("anterior MR")
    assert person.shown_models() == ["hippocampus"]  # the chosen one always stays
    person.ui.modelSearch.setText("")
    assert person.shown_models() == everything


def test_a_model_that_cannot_be_downloaded_says_how_it_is_brought(person):
    person.choose_model("medsam")
    assert not person.ui.downloadButton.enabled
    assert "masksam models add FILE --name medsam" in person.ui.modelDetails.text
    person.choose_model("sam_vit_b")
    assert person.ui.downloadButton.enabled


def test_the_chosen_model_is_described(person):
    person.choose_model("hippocampus")
    details = person.ui.modelDetails.text
    for part in ("Anterior, Posterior", "0.7 to 1.5 mm", "CC-BY-SA-4.0", "MB"):
        assert part in details
    assert not person.ui.downloadButton.enabled
    assert not person.ui.removeButton.enabled  # it ships
    person.choose_model("sam_vit_b")
    details = person.ui.modelDetails.text
    assert "375 MB" in details
    assert "ec2df62732614e57" in details
    assert "Apache-2.0" in details


def test_only_what_can_segment_lets_segment_be_pressed(person, scene):
    assert not person.ui.segmentButton.enabled
    assert "volume" in person.ui.segmentButton.toolTip
    person.choose_volume(blobs_volume())
    person.choose_model("sam_vit_b")
    assert not person.ui.segmentButton.enabled
    assert "installed" in person.ui.segmentButton.toolTip
    person.choose_model("small")
    assert person.ui.segmentButton.enabled


def test_a_download_shows_what_it_is_before_it_starts(person):
    person.choose_model("sam_vit_b")
    host.messages.answers.append(False)
    person.click(person.ui.downloadButton)
    (question,) = host.messages.texts("question")
    for part in ("375 MB", "Apache-2.0", "ec2df62732614e57", "https://"):
        assert part in question
    assert not person.widget.panel.busy  # the person declined


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_model_is_added_from_disk_used_and_removed(panel, scene, models_home, tmp_path, kind):
    person = Person(panel)
    source = models_home / "models" / "small"
    chosen = tmp_path / "gebracht"
    shutil.copytree(source, chosen)
    text = (chosen / "masksam.json").read_text(encoding="utf-8")
    (chosen / "masksam.json").write_text(text.replace('"small"', '"brought"'), encoding="utf-8")
    path = chosen / "masksam.json"
    if kind == "zip":
        path = tmp_path / "gebracht.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in chosen.iterdir():
                archive.write(file, file.name)
    host.messages.answers.append(str(path))
    person.click(person.ui.importButton)
    person.wait()
    assert person.widget.panel.picker.row.name == "brought"
    person.choose_volume(add_volume(generated_case(0)[0], GRIDS["LPS"]))
    person.click(person.ui.segmentButton)
    person.wait()
    assert person.table
    host.messages.answers.append(True)
    person.click(person.ui.removeButton)
    person.wait()
    assert "brought" not in person.shown_models()
    assert not (models_home / "models" / "brought").exists()
    assert (
        "brought" in host.messages.texts("question")[-1]
        or "Small" in (host.messages.texts("question")[-1])
    )


def test_a_file_that_is_no_model_is_refused_in_one_line(panel, scene, tmp_path):
    person = Person(panel)
    path = tmp_path / "letter.zip"
    path.write_bytes(b"Dear Sir or Madam")
    host.messages.answers.append(str(path))
    person.click(person.ui.importButton)
    person.wait()
    (message,) = host.messages.texts("error")
    assert "letter.zip" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("what", "warning"),
    [
        ("fits", ""),
        ("no roi", "expects an ROI"),
        ("coarse", "made for voxels of 0.7 to 1.5 mm"),
        ("CT", "looks like CT"),
        ("warped", "Harden"),
    ],
)
def test_doubts_are_warnings_and_not_walls(person, scene, what, warning):
    array = np.full((20, 22, 24), 300.0, np.float32)
    if what == "CT":
        array[:10] = -1000
    spacing = 4.0 if what == "coarse" else 1.0
    grid = np.diag([spacing, spacing, spacing, 1.0])
    volume = add_volume(array, grid)
    if what == "warped":
        add_warp(volume)
    person.choose_volume(volume)
    person.choose_model("hippocampus")
    if what != "no roi":
        person.ui.roiSelector.setCurrentNode(add_roi((2, 2, 2), (18, 18, 18), grid))
    label = person.ui.warningLabel
    assert warning in label.text
    assert bool(label.text) == (what != "fits")
    assert label.isVisibleTo(label.parent()) == (what != "fits")
    assert person.ui.segmentButton.enabled


def test_a_volume_that_cannot_be_segmented_is_told_when_segment_is_pressed(person, scene):
    volume = blobs_volume()
    add_warp(volume)
    person.choose_volume(volume)
    person.choose_model("threshold")
    person.click(person.ui.segmentButton)
    (message,) = host.messages.texts("error")
    assert "Harden" in message
    assert not person.widget.panel.busy
    assert person.ui.segmentButton.text == "Segment"


def test_missing_packages_are_named_and_installed_with_one_button(person, scene, monkeypatch):
    from MaskSAMSlicerLib import installer

    lacking = ["safetensors>=0.4", "pooch>=1.7"]
    asked = []
    monkeypatch.setattr(installer, "missing", lambda: list(lacking))

    def install(requirements, **how):
        asked.append((list(requirements), how["skip_packages"]))
        lacking.clear()

    import slicer.packaging

    monkeypatch.setattr(slicer.packaging, "pip_ensure", install)
    person.choose_volume(blobs_volume())
    person.choose_model("threshold")
    person.widget.panel.check_packages()
    frame = person.ui.installFrame
    assert frame.isVisibleTo(frame.parent())
    assert "pooch>=1.7" in person.ui.installLabel.text
    assert not person.ui.segmentButton.enabled
    person.click(person.ui.installButton)
    assert asked == [
        (["safetensors>=0.4", "pooch>=1.7"], ["SimpleITK", "numpy", "requests"]),
    ]
    assert not frame.isVisibleTo(frame.parent())
    assert person.ui.segmentButton.enabled
    assert "installed" in person.ui.logText.plainText


def test_without_the_pytorch_extension_the_person_is_told_where_to_get_it(
    person, scene, monkeypatch
):
    from MaskSAMSlicerLib import installer

    monkeypatch.setattr(installer, "missing", lambda: [installer.TORCH])
    person.widget.panel.check_packages()
    person.click(person.ui.installButton)
    (message,) = host.messages.texts("error")
    assert "PyTorch extension" in message


def test_what_is_too_old_counts_as_missing(monkeypatch):
    from importlib import metadata

    from MaskSAMSlicerLib import installer

    versions = {"torch": "2.13.0+cpu", "safetensors": "0.3.9", "scipy": "1.10.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    lacking = installer.missing()
    assert "safetensors>=0.4" in lacking
    assert "pooch>=1.7" in lacking
    assert "scipy>=1.10" not in lacking
    assert installer.TORCH not in lacking


def test_the_module_s_own_self_test_passes(panel, scene):
    import MaskSAMSlicer

    MaskSAMSlicer.MaskSAMSlicerTest().runTest()
    said = host.messages.texts("popup") + host.messages.texts("status")
    assert any(text.startswith("Passed") for text in said)
