"""Costs of pairs of queries and classes, and their matching."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from MaskSAMCore.training.matcher import match, pairwise_box_costs, pairwise_mask_costs


def test_mask_costs_are_those_of_one_sigmoid() -> None:
    logits, masks = torch.randn(2, 3, 50), (torch.rand(2, 4, 50) > 0.5).float()
    bce, dice = pairwise_mask_costs(logits, masks)
    for s, n, k in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        expected = F.binary_cross_entropy_with_logits(logits[s, n], masks[s, k])
        torch.testing.assert_close(bce[s, n, k], expected)
        p = logits[s, n].sigmoid()
        overlap = 2 * (p * masks[s, k]).sum() + 1
        torch.testing.assert_close(dice[s, n, k], 1 - overlap / (p.sum() + masks[s, k].sum() + 1))


def test_perfect_masks_have_a_cost_of_zero() -> None:
    masks = torch.zeros(2, 3, 50)
    masks[0, 0, :20] = masks[0, 1, 20:] = masks[1, 2] = 1
    bce, dice = pairwise_mask_costs((masks * 2 - 1) * 40, masks)
    assert float(bce.diagonal(dim1=1, dim2=2).max()) < 1e-6
    assert float(dice.diagonal(dim1=1, dim2=2).max()) < 1e-6


def test_box_costs_are_distance_and_generalised_iou() -> None:
    a = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]])
    b = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]])
    distance, giou = pairwise_box_costs(a, b)
    torch.testing.assert_close(distance[0, 0], torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(giou[0, 0], torch.tensor([0.0, 1.5]))
    assert bool(torch.isfinite(giou).all())


def test_matching_finds_the_cheapest_pairs_of_present_classes() -> None:
    cost = torch.tensor([[[5.0, 1.0, 0.0], [1.0, 5.0, 0.0], [9.0, 9.0, 0.0]]] * 2)
    present = torch.tensor([[True, True, False], [False, False, False]])
    found = match(cost, present)
    assert sorted(zip(found.queries.tolist(), found.classes.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
    ]
    assert found.slices.tolist() == [0, 0]


def test_too_few_queries_are_an_error_that_says_how_many() -> None:
    with pytest.raises(ValueError, match="raise 'queries' to at least 3"):
        match(torch.zeros(1, 2, 3), torch.ones(1, 3, dtype=torch.bool))


def test_costs_that_are_not_finite_are_an_error() -> None:
    cost = torch.zeros(1, 3, 2)
    cost[0, 1, 1] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        match(cost, torch.ones(1, 2, dtype=torch.bool))
