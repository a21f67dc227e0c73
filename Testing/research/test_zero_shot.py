"""Zero-shot Dice of masks in true boxes, which is known for discs and squares with any SAM."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.geometry import Volume
from MaskSAMCore.modeling import SamConfig
from MaskSAMCore.modeling.sam.predictor import PlainSam
from Testing.benchmarks.zero_shot import SamOnSlices, in_boxes, in_ellipses, volume_dice

SMALL = SamConfig("small", 4, 16, 1, 2, window_size=0, global_attn_indexes=(0,), prompt_dim=16)


def case_of(labels: np.ndarray) -> LabelledCase:
    """Return a case whose image shows each label with an intensity of its own."""
    volume = Volume(labels.astype(np.float32) * 100 + 7, np.diag([-1.0, -1.0, 2.0, 1.0]))
    return LabelledCase("case", (volume,), labels)


def disc_and_square() -> np.ndarray:
    """Return a labelmap with a disc (1) on two of three slices and a square (2) on one."""
    labels = np.zeros((3, 128, 256), np.uint8)
    y, x = np.mgrid[:128, :256] + 0.5
    disc = (y - 64) ** 2 + (x - 64) ** 2 <= 50**2
    labels[0][disc] = labels[2][disc] = 1
    labels[2, 20:100, 150:230] = 2
    return labels


def test_ellipses_and_boxes_have_the_dice_of_geometry():
    """The ellipse in a disc's box is the disc itself, with pi / 4 of the area of the box; a square
    fills its box, and the ellipse in it has pi / 4 of its area."""
    ways = {"ellipse": in_ellipses, "box": in_boxes}
    dice = volume_dice(case_of(disc_and_square()), ways)
    overlap = 2 * math.pi / 4 / (1 + math.pi / 4)
    assert dice["ellipse"] == {1: 1.0, 2: pytest.approx(overlap, abs=0.005)}
    assert dice["box"] == {1: pytest.approx(overlap, abs=0.005), 2: 1.0}


class Everywhere(PlainSam):
    """SAM that finds every pixel that it sees."""

    def decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(boxes), 32, 32)


@pytest.mark.parametrize("around", [0.0, 2.0])
def test_masks_of_a_sam_lie_where_its_boxes_are(around: float):
    """Squares around boxes are encoded one by one, and whole slices once."""
    sam = SamOnSlices(Everywhere(SMALL, 32), "sam", around, "cpu")
    dice = volume_dice(case_of(disc_and_square()), {"sam": sam, "box": in_boxes})
    assert dice["sam"] == dice["box"]
    assert sam.encoded == (3 if around else 2)
