"""A network with a refiner, which decides near the anchors; the base decides elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.inference.embedding_cache import EmbeddingCache, copy_window
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.proposals import likely_boxes
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.scoring import Scorer
from MaskSAMCore.inference.settings import UNMIRRORED
from MaskSAMCore.inference.sliding_window import axis_weights, window_starts
from MaskSAMCore.modeling import ClassScores, MaskSAM, build_model, read_config
from MaskSAMCore.modeling import Network as AnyNetwork
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.masksam.inheritance import inherited_network
from MaskSAMCore.modeling.refined import Config, Network
from MaskSAMCore.modeling.refined.network import RefinedPrediction, dilated, merged
from MaskSAMCore.models import load_bundle
from Testing.helpers.networks import class_box_prompts, randomize_adapters, small_masksam_config
from Testing.helpers.small_bundle import small_bundle

WINDOW, OWN = (5, 16, 20), (5, 8, 12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> MaskSAM:
    """Return a random network that finds two classes in any image."""
    return load_bundle(small_bundle(tmp_path_factory.mktemp("base") / "small")).build()


@pytest.fixture(autouse=True)
def _seeded(base: MaskSAM) -> None:
    """Give each test the same random images, parts of which the refiner decides."""
    torch.manual_seed(16)


def refined_network(base: MaskSAM, **changes: object) -> Network:
    """Return a network that refines a new class and the first of the two base classes."""
    refiner = inherited_network(base, OWN, [1, 2], [0, 1, 2])
    values = {
        "num_classes": 3,
        "window": WINDOW,
        "base": base.config,
        "refiner": refiner.config,
        "refined": (1, 3),
        "anchors": (1,),
        "reach": (1, 2, 3),
        "givers": (0, 2),
    }
    network = Network(Config(**{**values, **changes}))
    network.base.load_state_dict(base.state_dict())
    network.refiner.load_state_dict(refiner.state_dict())
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def test_beyond_the_reach_of_the_anchors_nothing_changes(base: MaskSAM):
    network = refined_network(base)
    images = torch.randn(2, 1, *WINDOW)
    old = network.base(images).semantic()
    near = network.decided(images, old)
    new = network(images).semantic()
    assert 0 < near.sum() < near.numel()
    far = ~near[:, None].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(new[:, :3][far], old[far], rtol=0, atol=0)
    assert not new[:, 3][~near].any()


@torch.inference_mode()
def test_a_class_that_may_not_lose_voxels_keeps_them(base: MaskSAM):
    images = torch.randn(2, 1, *WINDOW)
    old = base(images).semantic()
    network = refined_network(base, givers=(0,))
    near, new = network.decided(images, old), network(images).semantic()
    kept = old.argmax(1) == 2
    assert near.any() and not (near & kept).any()
    assert (refined_network(base).decided(images, old) & kept).any()
    assert (new.argmax(1)[kept] == 2).all()


@torch.inference_mode()
def test_classes_without_a_refiner_keep_their_order_within_reach(base: MaskSAM):
    network = refined_network(base)
    images = torch.randn(1, 1, *WINDOW)
    old, new = network.base(images).semantic(), network(images).semantic()
    near = network.decided(images, old)[0]
    others = [0, 2]
    before, after = old[0, others][:, near], new[0, others][:, near]
    assert torch.equal(before.argmax(0), after.argmax(0))


@torch.inference_mode()
def test_a_voxel_gets_the_class_of_the_refiner_however_unsure_the_base_is(base: MaskSAM):
    refined = refined_network(base).config.refined
    scores = torch.tensor([0.3, 0.2, 0.29, 0]).reshape(1, 4, 1, 1, 1).expand(-1, -1, 1, 1, 2)
    found = torch.tensor([[0.55, 0.45, 0.0], [0.4, 0.15, 0.45]]).T.reshape(1, 3, 1, 1, 2)
    assert merged(scores, found, refined).argmax(1).flatten().tolist() == [0, 3]
    # The base is sure of a class that the refiner rules out.
    scores = torch.tensor([0.02, 0.97, 0.01, 0]).reshape(1, 4, 1, 1, 1).expand_as(scores)
    assert merged(scores, found, refined).argmax(1).flatten().tolist() == [0, 3]


def test_voxels_of_a_refined_class_that_is_no_anchor_are_decided_near_the_anchors(base: MaskSAM):
    network = refined_network(base, refined=(2, 3), givers=())
    classes = torch.randint(0, 3, (1, *WINDOW), generator=torch.Generator().manual_seed(0))
    classes[..., 10:] %= 2
    classes[..., :10][classes[..., :10] == 1] = 0
    scores = torch.nn.functional.one_hot(classes, 4).movedim(-1, 1).float()
    near = network.decided(torch.randn(1, 1, *WINDOW), scores)
    reached = dilated(classes == 1, network.config.reach)
    assert (reached & (classes == 2)).any() and (~reached & (classes == 2)).any()
    assert torch.equal(near, reached & (classes > 0))


def test_an_image_nearly_as_large_as_a_window_of_the_base_is_not_small(base: MaskSAM):
    refiner = inherited_network(base, (5, 16, 12), [1, 2], [0, 1, 2])
    network = refined_network(base)
    network.config = dataclasses.replace(network.config, refiner=refiner.config)
    image = torch.zeros(1, *WINDOW)
    image[..., :12, :12] = 1
    assert network.is_small(image)
    image[..., :14, :12] = 1
    assert not network.is_small(image)


@torch.inference_mode()
def test_an_image_that_fits_the_refiner_is_decided_as_a_whole(base: MaskSAM):
    network = refined_network(base, anchors=())
    images = torch.zeros(2, 1, *WINDOW)
    images[0, :, :, 6:13, 5:15] = 1 + torch.rand(1, 5, 7, 10)
    images[1] = torch.rand(1, *WINDOW)
    near = network.decided(images, network.base(images).semantic())
    expected = torch.zeros_like(near)
    expected[0, :, 6:13, 5:15] = True
    assert torch.equal(near, expected)


@torch.inference_mode()
def test_a_small_image_is_segmented_as_by_the_refiner_alone(base: MaskSAM):
    network = refined_network(base)
    images = torch.zeros(1, 1, *WINDOW)
    images[..., 4:12, 4:16] = 1 + torch.rand(1, 1, 5, *OWN[1:])
    alone = network.refiner(images[..., 4:12, 4:16]).semantic()
    found = network(images).semantic()[..., 4:12, 4:16]
    best = alone.argmax(1)
    assert torch.equal(best == 1, found.argmax(1) == 1)
    assert torch.equal(best == 2, found.argmax(1) == 3)
    # The refiner's background stays background.
    assert torch.equal(best == 0, found.argmax(1) == 0)


@torch.inference_mode()
def test_a_window_that_shows_little_of_a_large_image_is_decided_as_others_are(base: MaskSAM):
    network = refined_network(base)
    image = np.zeros((1, 5, 32, 40), np.float32)
    image[0, :, :16, :20] = 1 + np.random.default_rng(0).random((5, 16, 20))
    image[0, :, 25:30, 30:38] = 2
    scorers = [
        Scorer(Runner(one, choose_device("cpu")), image, UNMIRRORED, EmbeddingCache(0))
        for one in (base, network)
    ]
    old, new = (scorer.automatic(Progress(None, None)) for scorer in scorers)
    # The last window shows only the smaller bright block, which alone would be a small image.
    last = torch.from_numpy(image[None, :, :, 16:, 20:])
    assert network.is_small(last[0]) and not network.is_small(torch.from_numpy(image))
    torch.testing.assert_close(new[:3], old)
    embedding = network.encode(last, small=False)
    near = network.decided(last, base(last).semantic(), small=False)
    found, wanted = network.decode(embedding).semantic(), base(last).semantic()
    far = ~near[:, None].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(found[:, :3][far], wanted[far], rtol=0, atol=0)


@torch.inference_mode()
def test_a_box_bounds_a_class_of_the_refiner_and_one_of_the_base(base: MaskSAM):
    network = refined_network(base)
    images = torch.randn(1, 1, *WINDOW)
    embedding = network.encode(images)
    logits = network.decode(embedding).class_logits
    for index in (1, 2, 3):
        prompts = class_box_prompts(min(index, 2), [0.25, 0.25, 0.75, 0.5], [1, 2])
        wider = [torch.cat([part, torch.zeros_like(part[:, :1])], 1) for part in prompts[:3]]
        if index == 3:
            wider = [part[:, [0, 1, 3, 2]] for part in wider]
        given = prompts._replace(boxes=wider[0], given=wider[1], present=wider[2])
        scores = network.decode_class(embedding, logits, given, index)
        outside = torch.ones(WINDOW, dtype=torch.bool)
        outside[1:3, 4:8, 5:15] = False
        assert scores.shape == (1, *WINDOW) and not scores[0, outside].any()
        assert scores[0, ~outside].any()


@torch.inference_mode()
def test_the_prediction_has_logits_of_all_classes_and_can_be_cached(base: MaskSAM):
    network = refined_network(base)
    images = torch.randn(2, 1, *WINDOW)
    embedding = network.encode(images)
    prediction = network.decode(embedding)
    assert prediction.class_logits.shape[-1] == 3 + 2
    boxes = likely_boxes(prediction.class_logits, prediction.boxes)
    assert boxes.shape == (2, 3, 5, 5) and not boxes[:, 2, :, 4].any()
    one = network.decode(copy_window(embedding, 1))
    assert isinstance(one, RefinedPrediction)
    torch.testing.assert_close(one.scores, prediction.scores[1:], rtol=1e-3, atol=1e-4)


def divided(base: MaskSAM, **changes: object) -> Network:
    """Return the network with a refiner whose voxels are half as long along each axis."""
    return refined_network(base, subdivision=(2, 2, 2), **changes)


def doubled(values: torch.Tensor) -> torch.Tensor:
    """Return values (..., T, H, W) with each voxel divided into eight equal voxels."""
    for axis in (-1, -2, -3):
        values = values.repeat_interleave(2, axis)
    return values


@torch.inference_mode()
def test_a_refiner_of_smaller_voxels_leaves_the_base_as_it_is(base: MaskSAM):
    network = divided(base)
    images, fine = torch.randn(2, 1, *WINDOW), torch.randn(2, 1, 10, 32, 40)
    prediction = network.decode(network.encode(images, fine))
    old = base(images).semantic()
    torch.testing.assert_close(prediction.unrefined()[:, :3], old, rtol=0, atol=0)
    assert not prediction.unrefined()[:, 3:].any()
    near = doubled(refined_network(base).decided(images, old))
    assert torch.equal(network.decided(fine, old), near) and 0 < near.sum() < near.numel()
    shares = prediction.shares()
    assert shares.shape == (2, 3, 10, 32, 40)
    torch.testing.assert_close(shares.sum(1), near.float(), rtol=0, atol=1e-4)
    other = network.decode(network.encode(images, fine + 0.3 * torch.randn_like(fine))).shares()
    assert (other - shares).abs().amax() > 1e-3


@torch.inference_mode()
def test_a_refiner_sees_and_decides_every_one_of_its_voxels(base: MaskSAM):
    network = divided(base)
    images, fine = torch.zeros(1, 1, *WINDOW), torch.zeros(1, 1, 10, 32, 40)
    place = slice(2, 7), slice(8, 16), slice(10, 22)
    fine[(0, 0, *place)] = 1 + torch.rand(5, 8, 12)
    alone = network.refiner(fine[(..., *place)]).semantic()
    shares = network.decode(network.encode(images, fine)).shares()
    inside = shares[(..., *place)]
    torch.testing.assert_close(inside, alone / alone.sum(1, keepdim=True), rtol=1e-3, atol=1e-4)
    # Windows of five slices together cover all nine slices.
    fine[0, 0, 1:10, 8:16, 10:22] = 1 + torch.rand(9, 8, 12)
    sums = network.decode(network.encode(images, fine)).shares().sum(1)[0]
    assert (sums[1:10, 8:16, 10:22] > 0.99).all() and (sums > 0).sum() == 9 * 8 * 12


class PlaceRefiner(AnyNetwork):
    """Refiner whose score of its first class is the intensity of its window's first voxel."""

    def encode(self, images):
        return images

    def decode(self, embedding, prompts=None):
        place = embedding[:, :, :1, :1, :1].expand(-1, -1, *OWN)
        return ClassScores(torch.cat([1 - place, place, torch.zeros_like(place)], 1))

    def decode_class(self, embedding, class_logits, prompts, class_index):
        return self.decode(embedding).semantic()[:, 1]


class PromptedRefiner(PlaceRefiner):
    """Refiner that records the box prompts that it receives."""

    def decode_class(self, embedding, class_logits, prompts, class_index):
        self.given = prompts
        return super().decode_class(embedding, class_logits, prompts, class_index)


@pytest.mark.parametrize(
    ("columns", "start"), [((12, 18), 9), ((0, 4), 0), ((37, 40), 28), ((12, 24), 12)]
)
@torch.inference_mode()
def test_a_window_of_a_refiner_is_centred_on_a_box_and_shows_it_at_its_place(
    base: MaskSAM, columns: tuple[int, int], start: int
):
    network = refined_network(base, subdivision=(1, 1, 2))
    network.refiner = PromptedRefiner(network.refiner.config)
    fine = (torch.arange(40.0) / 40).expand(1, 1, 5, 16, 40)
    embedding = network.encode(torch.randn(1, 1, *WINDOW), fine)
    first, last = columns
    boxes = torch.zeros(1, 4, 5, 4)
    boxes[0, 3, 1:3] = torch.tensor([first / 40, 5 / 16, last / 40, 9 / 16])
    present, exact = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    present[0, 3, 1:3] = exact[0, 3, 2] = True
    prompts = BoxPrompts(boxes, present.any(-1), present, exact)
    scores = network.decode_class(embedding, None, prompts, 3)[0, 1:3, 5:9, first:last]
    torch.testing.assert_close(scores, torch.full_like(scores, start / 40))
    # The new class is the refiner's second class, and the window begins at row 3.
    given = network.refiner.given
    expected = torch.tensor([(first - start) / 12, 2 / 8, (last - start) / 12, 6 / 8])
    torch.testing.assert_close(given.boxes[0, 2, 1:3], expected.expand(2, 4))
    assert given.given.tolist() == [[False, False, True]]
    assert given.present[0].nonzero().tolist() == [[2, 1], [2, 2]]
    assert given.exact[0].nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize("boxed", [False, True])
@torch.inference_mode()
def test_overlapping_windows_of_a_refiner_are_blended_as_those_of_a_volume(
    base: MaskSAM, boxed: bool
):
    everywhere = {"anchors": (1, 2), "givers": (0, 1, 2), "reach": (5, 16, 20)}
    network = refined_network(base, subdivision=(1, 1, 2), **everywhere)
    network.refiner = PlaceRefiner(network.refiner.config)
    shown = torch.arange(40.0) / 40
    fine = shown.expand(1, 1, 5, 16, 40)
    embedding = network.encode(torch.randn(1, 1, *WINDOW), fine)
    if boxed:
        prompts = class_box_prompts(1, [0.0, 0.0, 1.0, 1.0], [0, 1, 2, 3, 4])
        found = network.decode_class(embedding, None, prompts, 1)[0]
    else:
        found = network.decode(embedding).shares()[0, 1]
    starts = window_starts(40, OWN[2])
    expected = torch.zeros(40)
    for start, weights in zip(starts, axis_weights(40, OWN[2], starts), strict=True):
        expected[start : start + OWN[2]] += shown[start] * torch.from_numpy(weights).float()
    torch.testing.assert_close(found, expected.expand(5, 16, 40))


@torch.inference_mode()
def test_a_box_on_slices_of_the_refiner_bounds_its_class(base: MaskSAM):
    network = divided(base)
    embedding = network.encode(torch.randn(1, 1, *WINDOW), torch.randn(1, 1, 10, 32, 40))
    boxes = torch.zeros(1, 4, 10, 4)
    boxes[..., 3:8, :] = torch.tensor([5 / 40, 9 / 32, 27 / 40, 24 / 32])
    outside = torch.ones(10, 32, 40, dtype=torch.bool)
    outside[3:8, 9:24, 5:27] = False
    for index in (1, 3):
        given = torch.arange(4)[None] == index
        present = torch.zeros(1, 4, 10, dtype=torch.bool)
        present[0, index, 3:8] = True
        prompts = BoxPrompts(boxes * present[..., None], given, present, torch.ones_like(present))
        scores = network.decode_class(embedding, None, prompts, index)
        assert scores.shape == (1, 10, 32, 40) and not scores[0, outside].any()
        assert (scores[0, ~outside] > 0).float().mean() > 0.9


def test_boxes_of_all_classes_together_are_refused(base: MaskSAM):
    network = refined_network(base)
    prompts = class_box_prompts(1, [0.25, 0.25, 0.75, 0.5], [1, 2])
    with pytest.raises(ValueError, match="class by class"):
        network.decode(network.encode(torch.randn(1, 1, *WINDOW)), prompts)


def test_a_configuration_is_read_back_with_both_parts(base: MaskSAM):
    config = divided(base).config
    assert read_config(config.to_dict()) == config
    # Configurations saved before voxels could be divided have no subdivision.
    plain = refined_network(base).config
    values = {name: value for name, value in plain.to_dict().items() if name != "subdivision"}
    assert read_config(values) == plain


@pytest.mark.parametrize(
    "changes",
    [
        {"refined": (1, 2)},
        {"refined": (1, 1)},
        {"refined": (1, 9)},
        {"anchors": (3,)},
        {"givers": (3,)},
        {"reach": (1, 2, 999)},
        {"window": (5, 16, 24)},
        {"in_channels": 2},
        {"subdivision": (1, 0, 1)},
        {"subdivision": (5, 1, 1)},
    ],
)
def test_parts_that_do_not_fit_are_refused(base: MaskSAM, changes: dict[str, object]):
    with pytest.raises(ValueError, match=r"fit|base|channels|windows|classes|parts|window"):
        dataclasses.replace(refined_network(base).config, **changes)


def test_a_mask_is_dilated_along_each_axis():
    mask = torch.zeros(1, 5, 6, 7, dtype=torch.bool)
    mask[0, 2, 3, 3] = True
    assert dilated(mask, (0, 1, 2))[0].nonzero().tolist() == [
        [2, row, column] for row in (2, 3, 4) for column in (1, 2, 3, 4, 5)
    ]


@torch.inference_mode()
def test_an_inherited_network_of_the_same_classes_and_window_is_the_same():
    torch.manual_seed(1)
    source = build_model(small_masksam_config(queries=3)).eval()
    randomize_adapters(source)
    same = inherited_network(source, source.config.window, [1, 2], [0, 1, 2]).eval()
    images = torch.randn(1, 1, *source.config.window)
    torch.testing.assert_close(same(images).semantic(), source(images).semantic())
