"""The list of models: searching, describing, downloading, adding and removing them."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile

import pytest

from Testing import host
from Testing.helpers.generated import generated_case
from Testing.panel.helpers import blobs_volume
from Testing.slicer.helpers import GRIDS, add_volume


def test_models_are_found_by_words(user):
    everything = user.shown_models
    assert {"hippocampus", "small", "sam_vit_b"} <= set(everything)
    user.choose_model("hippocampus")
    user.ui.modelSearch.setText("vit apache")
    sams = {"sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam"}
    assert set(user.shown_models) == {*sams, "hippocampus"}
    user.ui.modelSearch.setText("anterior MR")
    assert user.shown_models == ["hippocampus"]  # the chosen model is always shown
    user.ui.modelSearch.setText("")
    assert user.shown_models == everything


def test_the_chosen_model_is_described(user):
    user.choose_model("hippocampus")
    details = user.ui.modelDetails.text
    for part in ("Anterior, Posterior", "0.7 to 1.5 mm", "CC-BY-SA-4.0", "MB"):
        assert part in details
    assert not user.ui.downloadButton.enabled
    assert not user.ui.removeButton.enabled  # it belongs to the extension
    user.choose_model("sam_vit_b")
    details = user.ui.modelDetails.text
    assert "375 MB" in details
    assert "ec2df62732614e57" in details
    assert "Apache-2.0" in details


def test_descriptions_are_shown_as_plain_text(user):
    from MaskSAMSlicerLib.model_catalog import find_model

    model = dataclasses.replace(find_model("hippocampus"), description='<img src="http://x/y.png">')
    assert "<img" not in model.details()


def test_a_model_without_a_download_says_how_to_add_it(user):
    user.choose_model("medsam")
    assert not user.ui.downloadButton.enabled
    assert "masksam models add FILE --name medsam" in user.ui.modelDetails.text
    user.choose_model("sam_vit_b")
    assert user.ui.downloadButton.enabled


def test_a_model_added_in_a_terminal_can_be_chosen_once_the_module_is_opened_again(
    user, scene, learnt_models
):
    user.choose_volume(blobs_volume())
    user.choose_model("threshold")
    added = learnt_models / "added"
    shutil.copytree(learnt_models / "threshold", added)
    text = (added / "masksam.json").read_text(encoding="utf-8")
    (added / "masksam.json").write_text(text.replace("threshold", "added"), encoding="utf-8")
    host.select_module(None)
    host.select_module("MaskSAMSlicer")
    assert user.widget.panel.picker.model.name == "threshold"
    user.choose_model("added")
    assert user.ui.segmentButton.enabled
    host.select_module(None)
    shutil.rmtree(added)
    host.select_module("MaskSAMSlicer")
    assert "added" not in user.shown_models
    assert not user.ui.segmentButton.enabled


def test_a_model_with_a_malformed_description_hides_no_other(user, learnt_models):
    shown = user.shown_models
    (learnt_models / "malformed").mkdir()
    text = '{"name": "malformed", "title": "Malformed", "labels": "liver"}'
    (learnt_models / "malformed" / "masksam.json").write_text(text, encoding="utf-8")
    host.select_module(None)
    host.select_module("MaskSAMSlicer")
    assert set(user.shown_models) == {*shown, "malformed"}


def test_a_download_asks_for_confirmation(user):
    user.choose_model("sam_vit_b")
    host.messages.answers.append(False)
    user.click(user.ui.downloadButton)
    (question,) = host.messages.texts("question")
    for part in ("375 MB", "Apache-2.0", "ec2df62732614e57", "https://"):
        assert part in question
    assert not user.busy


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_model_is_added_from_disk_used_and_removed(
    user_of_real_models, models_home, tmp_path, kind
):
    user = user_of_real_models
    folder = tmp_path / "gebracht"
    shutil.copytree(models_home / "models" / "small", folder)
    path = folder / "masksam.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"small"', '"brought"'), encoding="utf-8")
    if kind == "zip":
        path = tmp_path / "gebracht.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
    host.messages.answers.append(str(path))
    user.click(user.ui.importButton)
    user.wait()
    assert user.widget.panel.picker.model.name == "brought"
    user.choose_volume(add_volume(generated_case(0)[0], GRIDS["LPS"]))
    user.click(user.ui.segmentButton)
    user.wait()
    assert user.table
    host.messages.answers.append(True)
    user.click(user.ui.removeButton)
    user.wait()
    assert "Small" in host.messages.texts("question")[-1]
    assert "brought" not in user.shown_models
    assert not (models_home / "models" / "brought").exists()


def test_a_file_that_is_not_a_model_is_refused_in_one_line(user, tmp_path):
    path = tmp_path / "letter.zip"
    path.write_bytes(b"Dear Sir or Madam")
    host.messages.answers.append(str(path))
    user.click(user.ui.importButton)
    user.wait()
    message = user.ui.warningLabel.text
    assert "letter.zip" in message
    assert "\n" not in message
    assert not host.messages.texts("error")
