"""Scores of a volume from its windows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from MaskSAMCore.inference import scoring
from MaskSAMCore.inference.box_prompts import class_prompt
from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.inference.embedding_cache import EmbeddingCache
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.scoring import Scorer
from MaskSAMCore.inference.settings import UNMIRRORED
from MaskSAMCore.modeling import ClassScores, Network, NetworkConfig


class EverySliceConfig(NetworkConfig):
    every_slice = True


class PositionModel(Network):
    """Network with a slice's position in the window and the image's intensity as its scores."""

    def __init__(self) -> None:
        super().__init__(EverySliceConfig(1, window=(5, 4, 4)))

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, embedding: Tensor, prompts: object = None) -> ClassScores:
        position = torch.arange(5.0)[None, None, :, None, None].expand(len(embedding), 1, 5, 4, 4)
        return ClassScores(torch.cat([position, embedding], 1))


def test_the_scores_of_a_slice_are_the_mean_over_its_five_windows():
    image = np.random.default_rng(1).normal(size=(1, 9, 4, 4)).astype(np.float32)
    runner = Runner(PositionModel(), choose_device("cpu"))
    scorer = Scorer(runner, image, UNMIRRORED, EmbeddingCache(0))
    scores = scorer.automatic(Progress(None, None))
    # A slice in the middle is at all five positions of a window, the first slice at 2, 1 and 0.
    assert scores[0, :, 0, 0].tolist() == pytest.approx([1, 1.5, 2, 2, 2, 2, 2, 2.5, 3])
    torch.testing.assert_close(scores[1], torch.from_numpy(image[0]))


class ImageModel(Network):
    """Network whose only class has the intensities of the image as its scores.

    Attributes:
        decoded: number of windows decoded so far.
    """

    def __init__(self) -> None:
        super().__init__(NetworkConfig(1, window=(8, 16, 16)))
        self.decoded = 0

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, embedding: Tensor, prompts: object = None) -> ClassScores:
        self.decoded += len(embedding)
        return ClassScores(torch.cat([1 - embedding, embedding], 1))


@pytest.mark.parametrize(
    ("rows", "columns", "decoded"),
    [
        # Windows begin at 0, 8 and 16; near the centre of the first window, the second window has a
        # weight below a hundredth.
        ((7, 9), (7, 9), 1),
        ((7, 9), (7, 13), 2),
        ((7, 13), (7, 13), 4),
        ((3, 29), (3, 29), 9),
        ((23, 25), (23, 25), 1),
    ],
)
def test_only_windows_that_weigh_something_in_a_box_are_decoded_again(rows, columns, decoded):
    image = np.random.default_rng(2).uniform(size=(1, 8, 32, 32)).astype(np.float32)
    model = ImageModel()
    scorer = Scorer(Runner(model, choose_device("cpu")), image, UNMIRRORED, EmbeddingCache(0))
    lower, upper = zip((2, 6), rows, columns, strict=True)
    prompt = class_prompt(1, [np.array([lower, upper], float)], 8)
    edited = scorer.edited(prompt, Progress(None, None))
    assert model.decoded == decoded
    assert edited.region == (slice(2, 6), slice(*rows), slice(*columns))
    torch.testing.assert_close(edited.scores, torch.from_numpy(image[0][edited.region]))


@pytest.mark.parametrize("passes", [UNMIRRORED, ((), (2,), (0, 1))], ids=["plain", "mirrored"])
@pytest.mark.parametrize("large", [False, True])
def test_scores_are_means_over_windows_and_passes_whatever_their_precision(
    passes, large, monkeypatch
):
    image = np.random.default_rng(3).uniform(size=(1, 10, 20, 25)).astype(np.float32)
    if large:
        monkeypatch.setattr(scoring, "FLOAT32_LIMIT", 0)
    scorer = Scorer(Runner(ImageModel(), choose_device("cpu")), image, passes, EmbeddingCache(0))
    scores = scorer.automatic(Progress(None, None))
    assert scores.dtype == (torch.float16 if large else torch.float32)
    tolerance = 1e-2 if large else 1e-5
    shown = torch.from_numpy(image[0])
    torch.testing.assert_close(scores[1].float(), shown, atol=tolerance, rtol=0)
    prompt = class_prompt(1, [np.array([(1, 2, 3), (9, 19, 24)], float)], 10)
    edited = scorer.edited(prompt, Progress(None, None))
    torch.testing.assert_close(edited.scores, shown[edited.region], atol=1e-5, rtol=0)
