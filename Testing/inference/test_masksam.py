"""Segmentation with a small, untrained MaskSAM."""

import dataclasses

import numpy as np
import pytest
import torch

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import MaskSegmenter, Segmenter
from MaskSAMCore.modeling import MaskSAM, build_model
from MaskSAMCore.models import InferenceSettings
from MaskSAMCore.models.bundle import save_bundle
from Testing.helpers.networks import small_masksam_config
from Testing.helpers.threshold_model import GEOMETRIES, LABELS, matrix


class AllClassesMaskSAM(MaskSAM):
    """Untrained MaskSAM that finds all classes, not only one.

    Each query gets a class, and the mask logits get a standard deviation of 3.
    """

    def run_decoder(self, *args, **kwargs):
        prediction = super().run_decoder(*args, **kwargs)
        queries = torch.arange(prediction.class_logits.shape[1]) % (self.config.num_classes + 1)
        classes = torch.nn.functional.one_hot(queries, self.config.num_classes + 2) * 8.0
        spread = prediction.mask_logits / prediction.mask_logits.std((2, 3, 4), keepdim=True) * 3
        changed = dataclasses.replace(
            prediction, class_logits=classes[None, :, None].expand_as(prediction.class_logits)
        )
        return changed.with_mask_logits(spread - spread.mean((2, 3, 4), keepdim=True))


def small_model() -> MaskSAM:
    torch.manual_seed(3)
    return AllClassesMaskSAM(small_masksam_config()).eval()


def small_plan() -> Plan:
    return Plan(
        "RSA", (1.0, 1.0, 1.0), small_masksam_config().window, (ChannelNormalization(),), ("T1",)
    )


def noise(shape=(13, 23, 19), geometry="oblique") -> Volume:
    values = np.random.default_rng(1).normal(50, 10, shape).astype(np.float32)
    return Volume(values, GEOMETRIES[geometry])


@pytest.fixture(scope="module")
def segmenter() -> MaskSegmenter:
    inference = InferenceSettings(mirror=(0, 1, 2))
    return MaskSegmenter(small_model(), small_plan(), LABELS, device="cpu", inference=inference)


def test_one_window_gives_the_scores_of_the_network_itself(segmenter, monkeypatch):
    # The network computes in single precision, even on a processor with bfloat16 units.
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    model = segmenter.model
    window = model.config.window
    values = np.random.default_rng(2).normal(0, 1, window).astype(np.float32)
    # The axes of the plan: depth to the right, rows superior, columns anterior.
    volume = Volume(values, matrix(np.array([[0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]])))
    result = segmenter.segment(volume, probabilities=True)
    image = torch.from_numpy((values - values.mean()) / values.std())[None, None]
    with torch.inference_mode():
        scores = model(image).semantic()[0]
    np.testing.assert_allclose(
        result.probabilities, (scores / scores.sum(0)).numpy(), atol=2e-4, rtol=1e-3
    )
    clear = scores.topk(2, dim=0).values
    clear = (clear[0] - clear[1] > 1e-3).numpy()
    np.testing.assert_array_equal(result.labelmap[clear], scores.argmax(0).numpy()[clear])


def test_the_result_does_not_depend_on_how_many_windows_are_encoded_together(segmenter):
    alone = segmenter.segment(noise(), probabilities=True)
    by_threes = MaskSegmenter(segmenter.model, small_plan(), LABELS, device="cpu", batch_size=3)
    together = by_threes.segment(noise(), probabilities=True)
    # Rounding differs between batch sizes and can move the edge of a box prompt near a threshold.
    difference = np.abs(alone.probabilities - together.probabilities)
    assert np.quantile(difference, 0.95) < 1e-4
    assert difference.max() < 0.02


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_box_bounds_its_class_and_changes_no_other(segmenter, cache_bytes, name):
    box = Box("Anterior", (4, 5, 3), (12, 15, 9))
    with segmenter.open(noise(geometry=name), cache_bytes=cache_bytes) as session:
        before = session.segment()
        after = session.segment(boxes=[box])
    outside = np.ones(after.labelmap.shape, dtype=bool)
    outside[box.slices()] = False
    assert (before.labelmap[outside] == 1).any()
    assert not (after.labelmap[outside] == 1).any()
    kept = (before.labelmap != 1) & (after.labelmap != 1)
    np.testing.assert_array_equal(before.labelmap[kept], after.labelmap[kept])


def test_a_box_bounds_its_class_in_mirrored_passes(segmenter):
    box = Box("Posterior", (2, 3, 1), (8, 9, 5))
    volume = noise(shape=(7, 12, 11))
    result = segmenter.segment(volume, boxes=[box], tta="mirror")
    outside = np.ones(result.labelmap.shape, dtype=bool)
    outside[box.slices()] = False
    assert not (result.labelmap[outside] == 2).any()


def test_a_bundle_gives_a_segmenter_with_the_same_results(tmp_path):
    model = build_model(small_masksam_config()).eval()
    save_bundle(
        tmp_path / "small",
        "small",
        "A small one",
        model.state_dict(),
        model.config,
        small_plan(),
        LABELS,
        half=False,
    )
    loaded = Segmenter.from_model(tmp_path / "small", device="cpu")
    assert loaded.name == "small"
    by_hand = MaskSegmenter(model, small_plan(), LABELS, device="cpu")
    found = loaded.segment(noise(), probabilities=True).probabilities
    expected = by_hand.segment(noise(), probabilities=True).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5)
