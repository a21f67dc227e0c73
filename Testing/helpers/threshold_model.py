"""Network whose correct result is known for every voxel, for tests of the code around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import BoxPrompts, ClassScores, Network, NetworkConfig
from MaskSAMCore.modeling.boxes import inside_boxes
from MaskSAMCore.models import InferenceSettings

UNCHANGED = ChannelNormalization("ct", mean=0.0, std=1.0, lower=-1e6, upper=1e6)


@dataclass
class Embedding:
    images: Tensor


class ThresholdModel(Network):
    """Network that predicts class k where the last channel's intensity is nearest to k.

    A class with a box fills exactly its box.

    Args:
        window: (T, H, W) of a window.
        classes: number of classes.
        channels: number of channels.
    """

    def __init__(
        self, window: tuple[int, int, int] = (4, 8, 8), classes: int = 2, channels: int = 1
    ) -> None:
        super().__init__(NetworkConfig(classes, channels, window))
        # Several threads process windows: appending to a list, unlike adding to a number, loses no
        # count.
        self._encoded: list[int] = []
        self._decoded: list[int] = []

    @property
    def encoded(self) -> int:
        """Number of windows encoded so far."""
        return sum(self._encoded)

    @property
    def decoded(self) -> int:
        """Number of windows decoded so far."""
        return sum(self._decoded)

    def encode(self, images: Tensor) -> Embedding:
        assert images.shape[1:] == (self.config.in_channels, *self.config.window)
        self._encoded.append(len(images))
        return Embedding(images)

    def decode(self, embedding: Embedding, prompts: BoxPrompts | None = None) -> ClassScores:
        self._decoded.append(len(embedding.images))
        values = embedding.images[:, -1]
        classes = torch.arange(self.config.num_classes + 1.0)[:, None, None, None]
        scores = 1 - (values[:, None] - classes).abs().clamp(max=1)
        if prompts is not None:
            boxes = inside_boxes(prompts.boxes.flatten(0, 2), *self.config.window[1:])
            boxes = boxes.unflatten(0, prompts.present.shape) & prompts.present[..., None, None]
            given = prompts.given[..., None, None, None]
            scores = torch.where(given, boxes.to(scores), scores)
        return ClassScores(scores)


def plan_for(
    orientation: str = "SPL",
    spacing: Sequence[float] = (1, 1, 1),
    window: Sequence[int] = (4, 8, 8),
    channels: Sequence[str] = ("MR",),
) -> Plan:
    """Return a plan that leaves the intensities unchanged."""
    return Plan(
        orientation=orientation,
        spacing=tuple(spacing),
        window=tuple(window),
        normalization=(UNCHANGED,) * len(channels),
        channels=tuple(channels),
    )


LABELS = (Label(1, "Anterior", (1.0, 0.0, 0.0)), Label(2, "Posterior", (0.0, 1.0, 0.0)))
SIDES = (Label(1, "left blob", (1.0, 0.0, 0.0)), Label(2, "right blob", (0.0, 1.0, 0.0)))


def threshold_segmenter(model: nn.Module | None = None, **plan: object) -> MaskSegmenter:
    """Return a segmenter with the threshold model on the CPU, which may mirror all axes."""
    model = ThresholdModel() if model is None else model
    return MaskSegmenter(
        model,
        plan_for(window=model.config.window, **plan),
        LABELS,
        device="cpu",
        inference=InferenceSettings(mirror=(0, 1, 2)),
    )


def two_blobs(shape: Sequence[int] = (11, 17, 23)) -> np.ndarray:
    """Return intensities 0, 1 and 2, float32 [K, J, I], without any symmetry."""
    values = np.zeros(shape, dtype=np.float32)
    k, j, i = shape
    values[k // 5 : k // 2, j // 4 : j // 2, i // 6 : i // 2] = 1
    values[k // 2 : k - 1, j // 3 : j - 2, i // 3 : i - 5] = 2
    return values


def one_class(value: float = 0, shape: Sequence[int] = (11, 17, 23)) -> np.ndarray:
    """Return intensities of one class only, float32 [K, J, I], with a trace of contrast."""
    trace = np.linspace(0, 1e-3, int(np.prod(shape)), dtype=np.float32)
    return value - trace.reshape(shape)


def volume_of(array: np.ndarray, ijk_to_ras: np.ndarray | None = None) -> Volume:
    """Return a volume of an array; the default matrix is LPS with voxels of 1 mm."""
    return Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]) if ijk_to_ras is None else ijk_to_ras)


def matrix(
    directions: np.ndarray,
    spacing: Sequence[float] = (1, 1, 1),
    origin: Sequence[float] = (5, 6, 7),
) -> np.ndarray:
    """Return an IJK-to-RAS matrix.

    Args:
        directions: 3 x 3; columns are the RAS unit vectors of I, J, K.
        spacing: mm along I, J, K.
        origin: RAS of voxel (0, 0, 0) in mm.
    """
    result = np.eye(4)
    result[:3, :3] = np.asarray(directions) * np.asarray(spacing)
    result[:3, 3] = origin
    return result


def rotation(degrees: float, axis: int) -> np.ndarray:
    """Return a 3 x 3 rotation about one of the axes."""
    a = np.deg2rad(degrees)
    result = np.eye(3)
    first, second = [n for n in range(3) if n != axis]
    result[first, first] = result[second, second] = np.cos(a)
    result[first, second], result[second, first] = -np.sin(a), np.sin(a)
    return result


# IJK-to-RAS matrices: oblique, near RAS, with permuted axes, and left-handed.
OBLIQUE = matrix(rotation(20, 0) @ rotation(-15, 2) @ np.diag([-1.0, -1.0, 1.0]))
NEAR_RAS = matrix(rotation(10, 1))
SAGITTAL = matrix(rotation(8, 2) @ np.array([[0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]]))
LEFT_HANDED = matrix(np.diag([-1.0, 1.0, 1.0]))
GEOMETRIES = {
    "oblique": OBLIQUE,
    "ras": NEAR_RAS,
    "sagittal": SAGITTAL,
    "left-handed": LEFT_HANDED,
}
