"""Labelled cases and results of known Dice."""

from __future__ import annotations

import numpy as np

from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference.result_features import CLASS_FEATURES, IMAGE_FEATURES, ResultFeatures
from MaskSAMCore.quality.samples import Sample
from Testing.helpers.threshold_model import OBLIQUE, two_blobs


def labelled_case(channels: int = 1, matrix: np.ndarray = OBLIQUE) -> LabelledCase:
    """Return a case of two blobs in noise."""
    labelmap = two_blobs().astype(np.uint8)
    rng = np.random.default_rng(0)
    volumes = tuple(
        Volume((100 * labelmap + rng.normal(50, 5, labelmap.shape)).astype(np.float32), matrix)
        for _ in range(channels)
    )
    return LabelledCase("case", volumes, labelmap)


def samples_of_known_dice(count: int, seed: int = 0, cases: int = 6) -> list[Sample]:
    """Return results of two classes whose Dice follows from their first feature, with noise."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        certainty = rng.uniform(0, 1, 2)
        classes = rng.normal(0, 1, (2, len(CLASS_FEATURES)))
        classes[:, 0] = certainty
        image = rng.normal(0, 1, len(IMAGE_FEATURES))
        dice = np.clip(certainty + rng.normal(0, 0.05, 2), 0, 1)
        kind = "clean" if certainty.min() > 0.6 else "noise"
        features = ResultFeatures(classes, image, np.zeros((2, 3)))
        samples.append(Sample(number, f"case {number % cases}", kind, 0.5, features, dice))
    return samples
