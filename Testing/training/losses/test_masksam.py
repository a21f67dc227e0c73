"""Losses of MaskSAM, and ground-truth boxes in place of proposals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.modeling import MaskPrediction, MaskSAM, build_model
from MaskSAMCore.modeling.boxes import inside_boxes
from MaskSAMCore.training.losses.masksam import (
    LossSettings,
    auxiliary_mask_costs,
    classification_loss,
    generator_loss,
    prompted_prediction,
    semantic_loss,
    slice_targets,
    training_loss,
)
from MaskSAMCore.training.losses.prompting import (
    PromptSample,
    PromptSettings,
    exchanged_tokens,
    ground_truth_boxes,
    sample_prompts,
)
from MaskSAMCore.training.matcher import Assignment
from Testing.helpers.networks import RESIDUAL_MASKS, small_masksam_config


def example_labels() -> torch.Tensor:
    labels = torch.zeros(1, 5, 16, 20, dtype=torch.long)
    labels[0, 1:4, 4:8, 5:10] = 1
    labels[0, 2:, 10:14, 5:18] = 2
    return labels


def box_sample(loose: list[bool]) -> PromptSample:
    """Return box forms for all classes of a window; loose boxes enclose a class on all slices."""
    nothing = torch.zeros(1, len(loose), dtype=torch.bool)
    return PromptSample(~nothing, torch.tensor([loose]), nothing, nothing)


def test_targets_of_a_slice_are_its_classes_with_tight_boxes() -> None:
    targets = slice_targets(example_labels(), 2)
    assert targets.present.tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
        [True, True, True],
        [True, False, True],
    ]
    torch.testing.assert_close(targets.boxes[2, 1], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    torch.testing.assert_close(targets.masks.sum(1), torch.ones(5, 320))


def test_padding_belongs_to_no_class() -> None:
    labels = example_labels()
    labels[:, :, :, 18:] = -1
    targets = slice_targets(labels, 2)
    covered = targets.masks.sum(1).view(5, 16, 20)
    assert bool((covered[..., 18:] == 0).all()) and bool((covered[..., :18] == 1).all())
    assert float(targets.boxes[0, 0, 2]) == pytest.approx(0.9)


def test_unmatched_queries_are_no_object_at_a_lower_weight() -> None:
    logits = torch.zeros(1, 2, 4)
    logits[0, 1, 3] = 100.0
    pairs = Assignment(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))
    expected = torch.log(torch.tensor(4.0)) / 1.1
    torch.testing.assert_close(classification_loss(logits, pairs, 0.1), expected)


def test_the_semantic_loss_ignores_padding() -> None:
    labels = example_labels()
    classes = torch.full((1, 3, 5, 4), -20.0)
    for k in range(3):
        classes[0, k, :, k] = 20.0
    targets = slice_targets(labels, 2)
    masks = ((targets.masks * 2 - 1) * 20).view(5, 3, 16, 20).transpose(0, 1)[None]
    assert float(semantic_loss(classes, masks, targets)) < 1e-3
    padded = labels.clone()
    padded[:, :, 12:] = -1
    assert float(semantic_loss(classes, masks, slice_targets(padded, 2))) < 1e-3
    assert float(semantic_loss(classes, -masks, targets)) > 1


def test_ground_truth_boxes_are_tight_or_those_of_the_whole_window() -> None:
    targets = slice_targets(example_labels(), 2)
    sample = box_sample(loose=[False, False, True])
    boxes = ground_truth_boxes(targets, sample, PromptSettings(jitter=0), None)
    torch.testing.assert_close(boxes[2, 1], targets.boxes[2, 1])
    torch.testing.assert_close(boxes[4, 2], torch.tensor([0.25, 0.625, 0.9, 0.875]))
    rng = torch.Generator().manual_seed(0)
    jittered = ground_truth_boxes(targets, sample, PromptSettings(jitter=0.1), rng)
    shift = (jittered - boxes)[2, 1].abs()
    assert 0 < float(shift.max()) <= 0.1 * 0.25 + 1e-6
    larger = ground_truth_boxes(targets, sample, PromptSettings(jitter=0, growth=0.4), rng)
    assert torch.equal(larger[2, 1], boxes[2, 1])
    grown = (larger - boxes)[2:, 2] * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    assert float(grown.min()) >= 0 and float(grown.max()) > 0.001
    assert torch.equal(larger[4, 2], larger[2, 2])


def test_a_box_of_a_part_makes_that_part_the_truth_and_leaves_the_rest_unknown() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    targets = slice_targets(example_labels(), 2)
    part = PromptSettings(share=1, loose=0, drop_mask=0, jitter=0, partial=1)
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        rng = torch.Generator().manual_seed(0)
        prediction, _, cut = prompted_prediction(
            model, embedding, targets, LossSettings(prompts=part), rng
        )
    changed = (prediction.boxes != embedding.proposals.boxes).any(-1)[0]
    query = int(changed[:, 1].nonzero()[0, 0])
    inside = inside_boxes(prediction.boxes[0, query, 1][None], 16, 20)[0].flatten()
    whole = targets.masks[1, 1] > 0
    assert torch.equal(cut.masks[1, 1] > 0, whole & inside)
    assert 0 < int((whole & inside).sum()) < int(whole.sum())
    assert torch.equal(cut.masks[:, 0], targets.masks[:, 0])
    assert not cut.masks[1][:, whole & ~inside].any()


def test_a_decoder_that_learns_alone_leaves_the_proposals_as_they_are() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(mask_prompt="box", box_kinds=True))
    model.freeze_proposals()
    settings = LossSettings(prompts=PromptSettings(share=0.5, drop_mask=0, repeats=3))
    loss, _ = training_loss(
        model,
        torch.randn(2, 1, 5, 16, 20),
        example_labels().expand(2, -1, -1, -1),
        settings,
        torch.Generator().manual_seed(3),
    )
    loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned and all(
        name.startswith(("decoder.", "sam.mask_decoder.", "sam.prompt_encoder."))
        for name in learned
    )
    assert "decoder.box_kinds" in learned


def test_a_window_that_is_decoded_several_times_has_the_loss_of_a_larger_batch() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    images, labels = torch.randn(2, 1, 5, 16, 20), example_labels().expand(2, -1, -1, -1)
    prompts = PromptSettings(share=0.5, jitter=0.2)
    twice = LossSettings(prompts=replace(prompts, repeats=2))
    with torch.no_grad():
        one, _ = training_loss(model, images, labels, twice, torch.Generator().manual_seed(3))
        other, _ = training_loss(
            model,
            images.repeat(2, 1, 1, 1, 1),
            labels.repeat(2, 1, 1, 1),
            LossSettings(prompts=prompts),
            torch.Generator().manual_seed(3),
        )
    assert float(one) == pytest.approx(float(other), rel=1e-4)


def test_prompts_replace_the_proposal_of_their_class_only() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    targets = slice_targets(example_labels(), 2)
    settings = LossSettings(prompts=PromptSettings(share=1, loose=0, drop_mask=0, jitter=0))
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        prediction, _, _ = prompted_prediction(model, embedding, targets, settings, None)
    changed = (prediction.boxes != embedding.proposals.boxes).any(-1)[0]
    assert changed.sum(0).tolist() == [0, 1, 2, 2, 1]
    query = int(changed[:, 1].nonzero()[0, 0])
    torch.testing.assert_close(prediction.boxes[0, query, 1], targets.boxes[1, 1])


def test_a_share_of_the_windows_has_its_class_tokens_exchanged_among_the_queries() -> None:
    tokens = torch.arange(40 * 3 * 2).view(40, 3, 2, 1).float()
    generator = torch.Generator().manual_seed(3)
    found = exchanged_tokens(tokens, 0.5, generator)
    assert torch.equal(found.sort(1).values, tokens)
    assert torch.equal(found[:, :, 1], found[:, :, 0] + 1)
    changed = (found != tokens).flatten(1).any(1)
    # Of six permutations of three tokens, one leaves them as they are.
    assert 8 <= int(changed.sum()) <= 26
    assert torch.equal(exchanged_tokens(tokens, 0.0, generator), tokens)


def test_exchanged_class_tokens_reach_the_decoder_and_boxes_stay_with_their_queries() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    targets = slice_targets(example_labels(), 2)
    images = torch.randn(1, 1, 5, 16, 20)

    def decoded(exchange: float) -> MaskPrediction:
        prompts = PromptSettings(share=1, loose=0, drop_mask=0, jitter=0, exchange=exchange)
        settings = LossSettings(prompts=prompts)
        rng = torch.Generator().manual_seed(3)
        with torch.no_grad():
            embedding = model.encode(images)
            return prompted_prediction(model, embedding, targets, settings, rng)[0]

    kept, exchanged = decoded(0.0), decoded(1.0)
    assert torch.equal(kept.boxes, exchanged.boxes)
    assert not torch.equal(kept.class_logits, exchanged.class_logits)


def test_the_background_is_never_prompted_and_a_share_of_zero_prompts_nothing() -> None:
    prompted = sample_prompts(50, 3, PromptSettings(share=1), None).prompted
    assert not prompted[:, 0].any() and prompted[:, 1:].all()
    assert not sample_prompts(50, 3, PromptSettings(share=0), None).prompted.any()


def test_the_loss_reaches_every_trained_parameter_and_reports_its_parts() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    settings = LossSettings(prompts=PromptSettings(share=1, drop_mask=0.5))
    rng = torch.Generator().manual_seed(3)
    images = torch.randn(2, 1, 5, 16, 20)
    labels = example_labels().expand(2, -1, -1, -1)
    loss, parts = training_loss(model, images, labels, settings, rng)
    loss.backward()
    assert {name for name, p in model.trained_parameters().items() if p.grad is None} == set()
    assert set(parts) == {"masks", "auxiliary", "classes", "semantic"}
    total = parts["masks"] + parts["auxiliary"] + settings.classification * parts["classes"]
    torch.testing.assert_close(loss.detach(), total + settings.semantic * parts["semantic"])


def test_deep_supervision_weighs_the_masks_of_three_levels_by_halves() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(deep_supervision=True))
    settings = LossSettings(auxiliary_bce=1.0, auxiliary_dice=0.0)
    with torch.no_grad():
        proposals = model.encode(torch.randn(1, 1, 5, 16, 20)).proposals
        targets = slice_targets(example_labels(), 2)
        grids = [tuple(m.shape[-2:]) for m in (proposals.masks, *proposals.coarser_masks)]
        assert grids == [(16, 20), (8, 10), (4, 5)]
        # On an empty slice, a mask of logit 0 costs log 2, and one of logit -30 almost nothing.
        found = []
        for level in range(3):
            values = [torch.full_like(proposals.masks, -30.0)]
            values += [torch.full_like(masks, -30.0) for masks in proposals.coarser_masks]
            values[level] = torch.zeros_like(values[level])
            one = replace(proposals, masks=values[0], coarser_masks=tuple(values[1:]))
            empty = replace(targets, masks=torch.zeros_like(targets.masks))
            found.append(float(auxiliary_mask_costs(model, one, empty, settings).mean()))
    shares = [value / math.log(2) for value in found]
    assert shares == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=1e-4)


def test_losses_of_each_window_give_a_batch_the_mean_of_its_windows() -> None:
    """The first window has three classes in each slice, the second has one."""
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    images = torch.randn(2, 1, 5, 16, 20)
    labels = torch.cat([example_labels(), torch.zeros_like(example_labels())])
    prompts = PromptSettings(share=0)
    whole, each = (LossSettings(each_window=value, prompts=prompts) for value in (False, True))
    with torch.no_grad():
        alone = [
            training_loss(model, images[i : i + 1], labels[i : i + 1], each)[0] for i in range(2)
        ]
        torch.testing.assert_close(
            training_loss(model, images, labels, each)[0], (alone[0] + alone[1]) / 2
        )
        together = training_loss(model, images, labels, whole)[0]
    assert abs(float(together - (alone[0] + alone[1]) / 2)) > 1e-3


def test_a_few_steps_on_one_window_learn_it() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(stem_pyramid=True, stem_channels=(8, 8, 16)))
    images, labels, _ = train_on_one_window(model, training_loss)
    with torch.no_grad():
        found = model.eval()(images).semantic().argmax(1)
    assert min(dice_scores(found.numpy(), labels.numpy(), [1, 2])) > 0.9


def train_on_one_window(
    model: MaskSAM, loss_of: Callable[..., tuple[torch.Tensor, dict[str, float]]]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Train for 60 steps; return the images, the labels and the last step's parts of the loss."""
    labels = example_labels()
    images = (labels[:, None].float() - 1) + 0.1 * torch.randn(1, 1, 5, 16, 20)
    optimizer = torch.optim.AdamW(model.trained_parameters().values(), lr=3e-3)
    for _ in range(60):
        loss, parts = loss_of(model, images, labels, LossSettings())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return images, labels, parts


class GivenMasks(torch.nn.Module):
    """MaskSAM whose prompt generator predicts given masks."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.config = small_masksam_config()
        self.logits = logits

    def encode(self, _: torch.Tensor) -> SimpleNamespace:
        boxes = torch.full((1, 4, 5, 4), 0.5)
        return SimpleNamespace(proposals=SimpleNamespace(boxes=boxes))

    def auxiliary_masks(self, _: object) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize("rarity", [0.5, 0.0])
def test_in_the_generators_loss_query_k_shows_class_k(rarity: float) -> None:
    torch.manual_seed(0)
    labels = example_labels()
    labels[..., 18:] = -1
    logits = torch.randn(1, 4, 5, 16, 20)
    settings = LossSettings(auxiliary_bce=0, box_l1=0, box_giou=0, rarity=rarity)
    loss, _ = generator_loss(GivenMasks(logits), None, labels, settings)
    shares = logits.sigmoid()[..., :18]
    shares = (shares / shares.sum(1, keepdim=True))[0]
    known = labels[0, ..., :18]
    entropy, weights = 0.0, 0.0
    dice = []
    for k in range(3):
        inside = known == k
        weight = max(int(inside.sum()), 50) ** -rarity
        entropy -= weight * float(shares[k][inside].log().sum())
        weights += weight * int(inside.sum())
        overlap, sizes = shares[k][inside].sum(), shares[k].sum() + inside.sum()
        dice.append(float(1 - (2 * overlap + 1) / (sizes + 1)))
    assert float(loss) == pytest.approx(entropy / weights + sum(dice[1:]) / 2, rel=1e-4)


def test_the_generators_loss_is_low_only_for_the_masks_of_the_right_classes() -> None:
    labels = example_labels()
    right = torch.full((1, 4, 5, 16, 20), -12.0)
    right.scatter_(1, labels[:, None], 12.0)
    settings = LossSettings(box_l1=0, box_giou=0)
    assert float(generator_loss(GivenMasks(right), None, labels, settings)[0]) < 0.01
    swapped = right[:, [0, 2, 1, 3]]
    assert float(generator_loss(GivenMasks(swapped), None, labels, settings)[0]) > 1


@pytest.mark.parametrize("separate", [False, True])
def test_a_training_step_trains_the_mask_embeddings(separate: bool) -> None:
    torch.manual_seed(0)
    options = {**RESIDUAL_MASKS, "prototypes": 5, "mask_prompt": "box", "separate_masks": separate}
    model = build_model(small_masksam_config(**options))
    settings = LossSettings(prompts=PromptSettings(share=0.5))
    training_loss(model, torch.randn(1, 1, 5, 16, 20), example_labels(), settings)[0].backward()
    generator = model.generator
    for parameter in (generator.vector_head[-1].weight, generator.prototypes.scale):
        assert float(parameter.grad.abs().max()) > 0


def test_the_generator_alone_learns_a_window_and_the_decoder_does_not_change() -> None:
    torch.manual_seed(0)
    changes = {"stem_pyramid": True, "stem_channels": (8, 8, 16), "detail_channels": 6}
    model = build_model(small_masksam_config(**changes, residual_masks=True))
    images, labels, parts = train_on_one_window(model, generator_loss)
    assert set(parts) == {"semantic", "auxiliary", "boxes"}
    assert all(p.grad is None for p in model.decoder.parameters())
    with torch.no_grad():
        proposals = model.eval().encode(images).proposals
        found = model.auxiliary_masks(proposals)[:, :3].argmax(1)
    assert min(dice_scores(found.numpy(), labels.numpy(), [1, 2])) > 0.9
    known = slice_targets(labels, 2)
    boxes = proposals.boxes[0].transpose(0, 1)[:, :3][known.present]
    assert float((boxes - known.boxes[known.present]).abs().mean()) < 0.1
