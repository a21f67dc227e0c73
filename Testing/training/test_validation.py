"""Scores of a validation, and the post-processing that it recommends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.data import preprocess
from MaskSAMCore.data.windows import IndexedCase
from MaskSAMCore.inference.decision import write_labels
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.modeling.prompted import Config
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.prompted import LossSettings
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.run_folder import best_dice
from MaskSAMCore.training.validation import (
    BACKGROUND_WEIGHTS,
    Evaluator,
    Scores,
    weighted_labelmaps,
)
from Testing.helpers.short_run import SMALL, VALUES, dice_of
from Testing.helpers.threshold_model import ThresholdModel, plan_for, two_blobs, volume_of


def scores_of(image: np.ndarray, truth: np.ndarray) -> Scores:
    prepared = preprocess([volume_of(image)], plan_for("SAR"), truth)
    assert prepared.labelmap is not None
    case = IndexedCase.from_case(prepared, prepared.labelmap)
    evaluator = Evaluator([case], list(VALUES), list(VALUES.values()))
    return evaluator.score(ThresholdModel(), "cpu")


def test_the_largest_component_is_kept_for_classes_that_are_better_with_it():
    """Class 1 has a stray piece that is wrong; class 2 has two pieces that are both right."""
    image = two_blobs()
    image[-3:, :3, :3] = 2
    truth = image.astype(np.uint8)
    image[:2, -3:, -3:] = 1
    scores = scores_of(image, truth)
    assert scores.largest_component == (VALUES["Bright"],)
    right, wrong = int((truth == 1).sum()), 2 * 3 * 3
    assert scores.dice["Bright"] == pytest.approx(2 * right / (2 * right + wrong))
    assert scores.dice["Dark"] == 1
    assert scores_of(truth.astype(np.float32), truth).largest_component == ()


def test_a_background_weight_is_recommended_where_it_raises_the_dice():
    """A rim around the class looks a little more like the class than like the background."""
    image = two_blobs()
    truth = image.astype(np.uint8)
    image[:, :3][truth[:, :3] == 0] = 0.55
    scores = scores_of(image, truth)
    # This is the lowest weight with which 0.45 exceeds 0.55.
    assert scores.background_weight == 1.5
    assert scores.dice["Bright"] < 0.9, "the Dice must be that of the network alone"
    assert scores_of(truth.astype(np.float32), truth).background_weight == 1.0


def test_labelmaps_of_all_background_weights_are_those_of_separate_decisions():
    rng = torch.Generator().manual_seed(0)
    scores = torch.rand(4, 5, 7, 6, generator=rng)
    shape = (9, 7, 11)
    found = weighted_labelmaps(scores, shape)
    for weight in BACKGROUND_WEIGHTS:
        expected = np.zeros(shape, np.uint8)
        values = np.arange(4, dtype=np.uint8)
        write_labels(scores, values, expected, Progress(), background_weight=weight)
        # Rounding of the last bits decides ties.
        assert (found[weight] != expected).mean() < 0.005
    assert (found[1.8] == 0).sum() > (found[1.0] == 0).sum()


def test_a_network_without_proposals_is_validated_with_the_boxes_of_the_reference(
    dataset: Path, tmp_path: Path
):
    values = {**TINY.network.to_dict(), "queries": 3}
    loss = LossSettings(classification=2.0)
    preset = Preset("prompted", Config.from_dict(values), TrainSettings(loss=loss))
    options = FitOptions(dataset, tmp_path / "run", preset, device="cpu", workers=0)
    fit(options, str, SMALL, {"iterations": 60, "warm_up": 0, "learning_rate": 5e-3, "ema": 0.5})
    assert dice_of(tmp_path / "run", dataset) < 0.1, "classes without a box are not segmented"
    assert best_dice(tmp_path / "run") > 0.2
