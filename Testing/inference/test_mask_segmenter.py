"""Segmentation of volumes in any orientation with models that have classes."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from MaskSAMCore.errors import Cancelled, MaskSAMError, OutOfMemory
from MaskSAMCore.geometry import Box
from MaskSAMCore.inference import Instance, MaskSegmenter
from MaskSAMCore.inference.embedding_cache import copy_window
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import ClassScores
from MaskSAMCore.models import InferenceSettings
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    LABELS,
    ThresholdModel,
    matrix,
    one_class,
    plan_for,
    rotation,
    threshold_segmenter,
    two_blobs,
    volume_of,
)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("orientation", ["SPL", "LIP", "ARS", "RSA"])
def test_each_label_is_at_its_voxels_for_all_geometries_and_orientations(name, orientation):
    truth = two_blobs()
    segmenter = threshold_segmenter(orientation=orientation)
    result = segmenter.segment(volume_of(truth, GEOMETRIES[name]))
    np.testing.assert_array_equal(result.labelmap, truth)
    assert result.labelmap.dtype == np.uint8


class RisingModel(ThresholdModel):
    """Network that predicts class 1 if the intensity rises along an axis of (T, H, W)."""

    def __init__(self, axis: int) -> None:
        super().__init__(window=(4, 4, 4))
        self.axis = axis

    def decode(self, embedding, prompts=None):
        rises = torch.diff(embedding.images[:, 0], dim=self.axis + 1).mean((1, 2, 3)) > 0
        scores = torch.zeros(len(rises), 3, 4, 4, 4)
        scores[:, 1] = rises[:, None, None, None]
        scores[:, 0] = 1 - scores[:, 1]
        return ClassScores(scores)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_network_sees_the_anatomical_directions_of_its_plan(name, axis):
    ijk_to_ras = GEOMETRIES[name]
    k, j, i = np.indices((6, 5, 7))
    superior = np.einsum("x,xkji->kji", ijk_to_ras[2, :3], np.stack([i, j, k])).astype(np.float32)
    orientation = ["SPL", "LSA", "ALS"][axis]
    rising = MaskSegmenter(RisingModel(axis), plan_for(orientation), LABELS, device="cpu")
    assert (rising.segment(volume_of(superior, ijk_to_ras)).labelmap == 1).all()
    falling = MaskSegmenter(
        RisingModel(axis), plan_for(orientation.replace("S", "I")), LABELS, device="cpu"
    )
    assert (falling.segment(volume_of(superior, ijk_to_ras)).labelmap == 0).all()


def ball(shape, spacing, centre, radius):
    """Return an image that is 0.5 at the surface of a ball (mm), and a mask of its voxels."""
    k, j, i = np.indices(shape)
    position = (np.stack([i, j, k], -1) + 0.5) * spacing
    distance = np.linalg.norm(position - centre, axis=-1)
    return np.clip(0.5 + (radius - distance) / 4, 0, 1).astype(np.float32), distance < radius


@pytest.mark.parametrize("plan_spacing", [(0.7, 0.7, 0.7), (1.5, 1.1, 1.6), (2.0, 0.9, 1.3)])
def test_resampling_to_the_plan_and_back_moves_nothing(plan_spacing):
    spacing = np.array([0.8, 1.0, 2.0])
    image, truth = ball((20, 40, 48), spacing, (18.3, 20.9, 19.7), radius=9)
    ijk_to_ras = matrix(rotation(25, 1) @ rotation(-10, 0), spacing)
    segmenter = threshold_segmenter(orientation="LIP", spacing=plan_spacing)
    found = segmenter.segment(volume_of(image, ijk_to_ras)).labelmap == 1
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.97
    shift = np.array(
        [np.mean(np.nonzero(found)[a]) - np.mean(np.nonzero(truth)[a]) for a in (0, 1, 2)]
    )
    assert np.abs(shift).max() < 0.05


@pytest.mark.parametrize("shape", [(1, 17, 23), (11, 1, 23), (3, 4, 5), (1, 1, 2)])
def test_a_volume_smaller_than_a_window_or_one_voxel_thick_works(shape):
    values = np.arange(np.prod(shape)).reshape(shape) % 3
    result = threshold_segmenter().segment(volume_of(values.astype(np.float32)))
    np.testing.assert_array_equal(result.labelmap, values)


def test_an_image_without_any_class_gives_an_empty_result():
    result = threshold_segmenter().segment(volume_of(one_class()))
    assert not result.labelmap.any()
    assert result.instances == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_numbers_are_refused(bad):
    values = two_blobs()
    values[3, 4, 5] = bad
    with pytest.raises(MaskSAMError, match="not numbers"):
        threshold_segmenter().segment(volume_of(values))


def test_instances_have_the_bounding_box_and_voxel_count_of_their_class():
    truth = two_blobs()
    result = threshold_segmenter().segment(volume_of(truth))
    assert [one.name for one in result.instances] == ["Anterior", "Posterior"]
    for one in result.instances:
        k, j, i = np.nonzero(truth == one.value)
        assert one.box == Box(
            one.name, (i.min(), j.min(), k.min()), (i.max() + 1, j.max() + 1, k.max() + 1)
        )
        assert one.voxel_count == len(k)
        assert one.confidence == pytest.approx(1, abs=1e-5)


def test_score_is_an_alias_of_the_confidence_of_an_instance():
    instance = Instance(1, "Anterior", 0.75, Box("Anterior", (0, 0, 0), (1, 1, 1)), 1)
    assert instance.score == instance.confidence == 0.75


def test_values_of_the_labelmap_are_those_of_the_labels_not_class_indices():
    labels = (Label(300, "Anterior", (1, 0, 0)), Label(7, "Posterior", (0, 1, 0)))
    segmenter = MaskSegmenter(ThresholdModel(), plan_for(), labels, device="cpu")
    truth = two_blobs()
    result = segmenter.segment(volume_of(truth))
    assert result.labelmap.dtype == np.uint16
    np.testing.assert_array_equal(result.labelmap, np.array([0, 300, 7])[truth.astype(int)])
    assert [one.value for one in result.instances] == [300, 7]


def test_probabilities_sum_to_one_and_agree_with_the_labels():
    image, _ = ball((11, 17, 23), np.ones(3), (10, 8, 5), radius=4)
    plain = threshold_segmenter(spacing=(0.8, 0.9, 1.2)).segment(volume_of(image * 2))
    assert plain.probabilities is None
    roi = Box("", (1, 2, 3), (20, 16, 9))
    segmenter = threshold_segmenter(spacing=(0.8, 0.9, 1.2), orientation="LIP")
    result = segmenter.segment(volume_of(image * 2), roi=roi, probabilities=True)
    assert result.probabilities.shape == (3, 11, 17, 23)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(result.probabilities.argmax(0), result.labelmap)
    assert (result.probabilities[0, :3] == 1).all()


def test_mirrored_passes_of_a_symmetric_network_agree_with_a_single_pass():
    model = ThresholdModel()
    truth = two_blobs()
    result = threshold_segmenter(model).segment(volume_of(truth), tta="mirror")
    np.testing.assert_array_equal(result.labelmap, truth)
    single = ThresholdModel()
    threshold_segmenter(single).segment(volume_of(truth))
    assert model.encoded == 8 * single.encoded


def test_only_the_largest_component_of_the_given_labels_is_kept():
    values = np.zeros((8, 16, 16), dtype=np.float32)
    values[1:3, 1:3, 1:3] = 1
    values[4:7, 8:12, 8:12] = 1
    values[1:3, 10:12, 1:3] = 2
    values[5:6, 1:3, 1:3] = 2
    inference = InferenceSettings(largest_component=frozenset({1}))
    segmenter = MaskSegmenter(
        ThresholdModel(), plan_for(), LABELS, device="cpu", inference=inference
    )
    result = segmenter.segment(volume_of(values))
    expected = values.copy()
    expected[1:3, 1:3, 1:3] = 0
    np.testing.assert_array_equal(result.labelmap, expected)
    assert result.instances[0].voxel_count == 3 * 4 * 4


class TwoChannelModel(ThresholdModel):
    def __init__(self):
        super().__init__()
        self.config = self.config.replace(in_channels=2)

    def decode(self, embedding, prompts=None):
        embedding.images = embedding.images.sum(1, keepdim=True)
        return super().decode(embedding, prompts)


def two_channel_segmenter():
    plan = plan_for()
    plan = type(plan)(
        **{**vars(plan), "normalization": plan.normalization * 2, "channels": ("T1", "T2")}
    )
    return MaskSegmenter(TwoChannelModel(), plan, LABELS, device="cpu")


def test_several_channels_are_taken_in_order_on_one_grid():
    truth = two_blobs()
    first, second = np.minimum(truth, 1), np.maximum(truth - 1, 0)
    result = two_channel_segmenter().segment([volume_of(first), volume_of(second)])
    np.testing.assert_array_equal(result.labelmap, truth)


def test_channels_may_differ_by_the_rounding_of_their_headers():
    truth = two_blobs()
    first, second = volume_of(np.minimum(truth, 1)), volume_of(np.maximum(truth - 1, 0))
    rounded = second.ijk_to_ras.copy()
    rounded[:3, 3] += 0.02
    second = dataclasses.replace(second, ijk_to_ras=rounded)
    result = two_channel_segmenter().segment([first, second])
    np.testing.assert_array_equal(result.labelmap, truth)


def test_a_wrong_number_of_channels_or_unequal_grids_are_refused():
    first = volume_of(two_blobs())
    with pytest.raises(MaskSAMError, match=r"takes 2 image\(s\) a case \(T1, T2\), but 1"):
        two_channel_segmenter().segment(first)
    moved = volume_of(two_blobs(), matrix(np.eye(3)))
    with pytest.raises(MaskSAMError, match="share one grid"):
        two_channel_segmenter().segment([first, moved])


def test_labels_that_do_not_fit_the_network_are_refused():
    with pytest.raises(MaskSAMError, match="2 classes, but 1 labels"):
        MaskSegmenter(ThresholdModel(), plan_for(), LABELS[:1], device="cpu")


def test_progress_grows_to_one_with_the_seconds_left():
    seen = []
    threshold_segmenter().segment(volume_of(two_blobs()), progress=lambda *args: seen.append(args))
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    windows = [left for stage, _, left in seen if stage == "Segmenting"]
    assert windows[0] is None
    known = windows[windows.index(next(left for left in windows if left is not None)) :]
    assert len(known) > 5
    assert all(left >= 0 for left in known)


def test_cancelling_stops_after_the_windows_in_progress():
    model = ThresholdModel()
    segmenter = threshold_segmenter(model)
    with pytest.raises(Cancelled):
        segmenter.segment(volume_of(two_blobs()), cancelled=lambda: model.encoded >= 3)
    assert model.encoded in (3, 4)  # two windows may be in progress at the same time


def test_cancelling_stops_between_the_preprocessing_of_channels():
    volume, polls, stages = volume_of(two_blobs()), [], []

    def third_time() -> bool:
        polls.append(len(polls))
        return len(polls) == 3  # polls come at the stage, the first channel and the second channel

    with pytest.raises(Cancelled):
        two_channel_segmenter().segment(
            [volume, volume], progress=lambda stage, *_: stages.append(stage), cancelled=third_time
        )
    assert stages == ["Preparing the image"]


class LargeModel(ThresholdModel):
    """Network that runs out of memory if it encodes more than ``most`` windows at a time."""

    WINDOW = (8, 16, 16)

    def __init__(self, most: int) -> None:
        super().__init__(self.WINDOW)
        self.most = most
        self.present = 0
        self.changed = threading.Condition()

    def encode(self, images):
        with self.changed:
            self.present += len(images)
            self.changed.notify_all()
            # Windows on other threads arrive within this time.
            full = self.changed.wait_for(lambda: self.present > self.most, timeout=0.2)
        try:
            if full:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().encode(images)
        finally:
            with self.changed:
                self.present -= len(images)


def test_when_memory_runs_out_batches_become_smaller_and_the_notes_say_so():
    model = LargeModel(most=1)
    segmenter = MaskSegmenter(
        model, plan_for(window=LargeModel.WINDOW), LABELS, device="cpu", batch_size=4
    )
    seen = []
    truth = two_blobs()
    result = segmenter.segment(volume_of(truth), progress=lambda *args: seen.append(args))
    np.testing.assert_array_equal(result.labelmap, truth)
    assert result.notes == (
        "cpu ran out of memory: continuing with 2 window(s) at a time",
        "cpu ran out of memory: continuing with 1 window(s) at a time",
    )
    assert set(result.notes) <= {stage for stage, _, _ in seen}


@pytest.mark.parametrize("failing", [0, 1, 5])
def test_scores_count_once_when_memory_runs_out_for_their_embedding(
    failing: int, monkeypatch: pytest.MonkeyPatch
):
    volume = volume_of(two_blobs())
    segmenter = MaskSegmenter(ThresholdModel(), plan_for(), LABELS, device="cpu", batch_size=2)
    with segmenter.open(volume) as session:
        known = session.scores().scores
    calls = []

    def copied(embedding: object, index: int) -> object:
        calls.append(index)
        if len(calls) == failing + 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return copy_window(embedding, index)

    monkeypatch.setattr("MaskSAMCore.inference.scoring.copy_window", copied)
    with segmenter.open(volume) as session:
        found = session.scores().scores
    assert len(calls) > failing + 1
    torch.testing.assert_close(found, known)


def test_a_window_that_does_not_fit_into_memory_is_an_error():
    with pytest.raises(OutOfMemory, match="memory is too small"):
        threshold_segmenter(LargeModel(most=0)).segment(volume_of(two_blobs()))


def test_other_errors_of_the_network_are_passed_on():
    class Broken(ThresholdModel):
        def encode(self, images):
            raise RuntimeError("a genuine fault")

    with pytest.raises(RuntimeError, match="genuine fault"):
        threshold_segmenter(Broken()).segment(volume_of(two_blobs()))
