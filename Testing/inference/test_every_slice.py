"""Windows centred on every slice, edge slices repeated: MA-SAM's way through a volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from MaskSAMCore.data import PreparedCase, repeat_edge_slices
from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.inference.embedding_cache import EmbeddingCache
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.scoring import Scorer
from MaskSAMCore.inference.sliding_window import extract, plan_windows
from MaskSAMCore.modeling import ClassScores, Network, NetworkConfig


@pytest.mark.parametrize("depth", [1, 3, 5, 12])
def test_each_slice_is_the_middle_of_a_window_and_its_weights_are_equal(depth: int):
    windows = plan_windows((depth, 8, 8), (5, 8, 8), every_slice=True)
    assert [w.start[0] for w in windows] == [k - 2 for k in range(depth)]
    shown: list[list[float]] = [[] for _ in range(depth)]
    for window in windows:
        for place, weight in enumerate(window.weights[0].tolist()):
            if 0 <= window.start[0] + place < depth:
                shown[window.start[0] + place].append(weight)
            else:
                assert weight == 0
    for weights in shown:
        assert len(weights) == min(5, depth) or len(weights) >= 3
        assert weights == pytest.approx([1 / len(weights)] * len(weights))
    if depth == 12:
        assert [len(w) for w in shown] == [3, 4, 5, 5, 5, 5, 5, 5, 5, 5, 4, 3]


def test_windows_at_the_ends_show_the_edge_slices_again():
    image = np.arange(6, dtype=np.float32)[None, :, None, None] * np.ones((1, 6, 6, 7), np.float32)
    first, *_, last = plan_windows(image.shape[1:], (5, 8, 8), every_slice=True)
    middle = extract(image, first, torch.tensor([-9.0]))[0, :, 4, 4]
    assert middle.tolist() == [0, 0, 0, 1, 2]
    assert extract(image, last, torch.tensor([-9.0]))[0, :, 4, 4].tolist() == [3, 4, 5, 5, 5]
    # In-plane there is nothing to repeat: rows beyond the image are filled.
    assert set(extract(image, first, torch.tensor([-9.0]))[0, :, 0, 0].tolist()) == {-9.0}


def test_training_repeats_the_same_slices_with_their_labels():
    image = np.random.default_rng(0).normal(size=(1, 4, 3, 3)).astype(np.float32)
    label = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
    repeated = repeat_edge_slices(PreparedCase(image, label), 2)
    order = [0, 0, 0, 1, 2, 3, 3, 3]
    np.testing.assert_array_equal(repeated.image, image[:, order])
    np.testing.assert_array_equal(repeated.labelmap, label[order])


class EverySliceConfig(NetworkConfig):
    every_slice = True


class PlaceModel(Network):
    """Says of each slice at which place of the window it saw it, and what it saw."""

    def __init__(self) -> None:
        super().__init__(EverySliceConfig(1, window=(5, 4, 4)))

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, embedding: Tensor, prompts: object = None) -> ClassScores:
        place = torch.arange(5.0)[None, None, :, None, None].expand(len(embedding), 1, 5, 4, 4)
        return ClassScores(torch.cat([place, embedding], 1))


def test_the_scores_of_a_slice_are_the_mean_over_its_five_windows():
    image = np.random.default_rng(1).normal(size=(1, 9, 4, 4)).astype(np.float32)
    scorer = Scorer(Runner(PlaceModel(), choose_device("cpu")), image, ((),), EmbeddingCache(0))
    scores = scorer.automatic(Progress(None, None))
    # Slices in the middle are seen at all five places; the first at 2, 1 and 0.
    assert scores[0, :, 0, 0].tolist() == pytest.approx([1, 1.5, 2, 2, 2, 2, 2, 2.5, 3])
    torch.testing.assert_close(scores[1], torch.from_numpy(image[0]))
