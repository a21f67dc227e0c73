"""Boxes of the prompt generator."""

from __future__ import annotations

import torch

from MaskSAMCore.modeling import build_model
from MaskSAMCore.modeling.masksam.prompt_generator import fraction_boxes
from Testing.helpers.networks import small_masksam_config


def test_an_empty_mask_leaves_the_learned_box_alone() -> None:
    """An average with the zero box of an empty mask would halve the learned box."""
    model = build_model(small_masksam_config(prompts="average"))
    learned = torch.tensor([0.2, 0.4, 0.6, 0.8]).expand(1, 4, 5, 4)
    masks = torch.full((1, 4, 5, 16, 20), -1.0)
    masks[0, 0, 0, 4:8, 5:10] = 1.0
    boxes = model.generator.box_prompts(masks, learned)
    torch.testing.assert_close(boxes[0, 1, 3], learned[0, 0, 0])
    torch.testing.assert_close(boxes[0, 0, 0], torch.tensor([0.225, 0.325, 0.55, 0.65]))


def test_learned_boxes_have_ordered_corners_inside_the_window() -> None:
    boxes = fraction_boxes(torch.randn(1000, 4) * 10)
    assert bool((boxes[:, 2:] >= boxes[:, :2]).all())
    assert float(boxes.min()) >= 0 and float(boxes.max()) <= 1


def test_summed_maps_all_reach_the_masks() -> None:
    config = small_masksam_config(stem_pyramid=True, stem_channels=(4, 8, 16))
    model = build_model(config.replace(generator_joins="sum"))
    images = torch.randn(1, 1, *config.window)
    model.encode(images).proposals.masks.square().sum().backward()
    generator = model.generator
    for join in (generator.join_coarse, generator.join_middle, generator.join_fine):
        assert len(join.layers) == 3
        assert all(bool(layer.weight.grad.any()) for layer in join.layers)
    assert count(model.generator) < count(build_model(config).generator)


def count(module: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())
