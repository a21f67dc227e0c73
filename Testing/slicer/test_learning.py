"""``logic.adapt``: the new model, arguments, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from Testing.helpers.threshold_model import two_blobs
from Testing.slicer.helpers import GRIDS, add_volume, segment_names


@pytest.fixture
def learning(known, learning_client, learnt_models: Path, tmp_path: Path):
    """Yield the module's logic for learning, with a worker that has known results."""
    from MaskSAMSlicerLib.learning import LearningLogic, choose_corrections_folder

    choose_corrections_folder("threshold", tmp_path / "kept")
    logic = LearningLogic(learning_client.for_logic)
    yield logic
    logic.close()


def pair(number: int = 0):
    """Return a volume that depends on a number, and a segmentation with one segment."""
    import slicer

    image = two_blobs() + np.float32(0.01 * number)
    volume = add_volume(image, GRIDS["oblique"], f"head {number}")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment_id = node.GetSegmentation().AddEmptySegment("Anterior", "Anterior")
    voxels = (two_blobs() == 2).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, segment_id, volume)
    return volume, node


def test_adapt_waits_and_returns_a_model_that_segments(known, learning, scene, tmp_path):
    pairs = [pair(number) for number in range(2)]
    count, reports = scene.GetNumberOfNodes(), []
    model = learning.adapt(
        pairs, model="threshold", minutes=1, progress=lambda *report: reports.append(report)
    )
    assert model == "threshold-ours"
    assert scene.GetNumberOfNodes() == count
    assert any(stage == "Learning" for stage, _fraction, _left in reports)
    kept = json.loads((tmp_path / "kept" / "dataset.json").read_text())
    assert kept["numTraining"] == 2 and kept["channel_names"] == {"0": "MR"}
    node = known.segment(pair()[0], model=model)
    assert segment_names(node) == ["Anterior", "Posterior"]
    # The next model learns from the same folder.
    assert learning.adapt([], model=model, name="third") == "third"
    assert learning.learning.validations


def test_several_channels_are_kept_with_their_names(learning, scene, tmp_path):
    volume, node = pair()
    other = add_volume(two_blobs() + 1, GRIDS["oblique"], "flair")
    folder = tmp_path / "two"
    learning.adapt([([volume, other], node)], model="two_channels", folder=folder)
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1", "1": "FLAIR"}
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [
        "head-0_0000.nii.gz",
        "head-0_0001.nii.gz",
    ]


def test_a_model_that_is_not_better_is_an_error(learning, scene, tmp_path):
    with pytest.raises(RuntimeError, match="not better"):
        learning.adapt([pair()], model="sided", folder=tmp_path / "kept")


def test_a_worker_that_fails_is_an_error_and_the_next_one_goes_on(learning, scene, tmp_path):
    arguments = {"model": "crashing", "folder": tmp_path / "kept", "name": "new"}
    with pytest.raises(RuntimeError, match="what was learnt until the last save"):
        learning.adapt([pair()], **arguments)
    assert learning.adapt([], resume=True, **arguments) == "new"


def test_a_learning_that_is_cancelled_while_corrections_are_kept_is_an_error(
    learning, scene, tmp_path
):
    with pytest.raises(RuntimeError, match="cancelled"):
        learning.adapt([pair()], model="threshold", progress=lambda *_report: learning.cancel())
    assert json.loads((tmp_path / "kept" / "dataset.json").read_text())["numTraining"] == 1
    assert not learning.busy


def test_a_model_that_is_removed_while_corrections_are_kept_is_an_error(
    learning, scene, tmp_path, learnt_models
):
    shutil.copytree(learnt_models / "threshold", learnt_models / "removed")
    described = learnt_models / "removed" / "masksam.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "name": "removed"}))

    def remove(*_report):
        shutil.rmtree(learnt_models / "removed", ignore_errors=True)

    with pytest.raises(RuntimeError, match="removed"):
        learning.adapt([pair()], model="removed", folder=tmp_path / "kept", progress=remove)
    assert not learning.busy


def test_a_failing_progress_function_ends_the_learning(learning, scene, tmp_path):
    def fail(*_report):
        raise KeyError("fault of the script")

    with pytest.raises(KeyError):
        learning.adapt([pair()], model="hanging", folder=tmp_path / "kept", progress=fail)
    assert not learning.busy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nonesuch"}, "choose one of"),
        ({"model": "sam_vit_b"}, "not installed"),
        ({"model": "anything"}, "no classes that could learn"),
        ({"model": "two_channels"}, "takes 2 images"),
        ({"name": "threshold"}, "There is a model named"),
        ({"name": "no way"}, "letters, digits"),
        ({"minutes": 0}, "how many minutes"),
        ({"checked": ["Tumour"]}, "no segment named"),
        ({"resume": True}, "No learning of 'threshold-ours' was interrupted"),
    ],
)
def test_arguments_that_cannot_work_are_refused(learning, scene, tmp_path, options, message):
    volume, node = pair()
    with pytest.raises(ValueError, match=message):
        learning.adapt([(volume, node)], **{"model": "threshold", **options})
    assert not (tmp_path / "kept").exists() and not learning.busy


def test_a_volume_in_place_of_a_segmentation_is_refused(learning, scene):
    volume, _ = pair()
    with pytest.raises(ValueError, match="is not a segmentation node"):
        learning.adapt([(volume, volume)], model="threshold")
