"""Boxes of masks, masks of boxes, and clipped boxes."""

from __future__ import annotations

import torch

from MaskSAMCore.modeling.boxes import clip_boxes, inside_boxes, mask_boxes


def test_mask_boxes_are_voxel_edges() -> None:
    masks = torch.zeros(3, 10, 20, dtype=torch.bool)
    masks[0, 2:5, 4:10] = True
    masks[1, 9, 19] = True
    boxes, present = mask_boxes(masks)
    torch.testing.assert_close(boxes[0], torch.tensor([0.2, 0.2, 0.5, 0.5]))
    torch.testing.assert_close(boxes[1], torch.tensor([0.95, 0.9, 1.0, 1.0]))
    assert present.tolist() == [True, True, False]
    assert boxes[2].tolist() == [0, 0, 0, 0]


def test_a_box_contains_the_voxels_whose_centre_lies_inside() -> None:
    inside = inside_boxes(torch.tensor([[0.25, 0.1, 0.76, 0.5], [0.0, 0.0, 1.0, 1.0]]), 10, 4)
    expected = torch.zeros(10, 4, dtype=torch.bool)
    expected[1:5, 1:3] = True
    assert torch.equal(inside[0], expected) and bool(inside[1].all())


def test_boxes_are_clipped_to_their_bounds_and_replaced_if_outside() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.3], [0.1, 0.1, 0.3, 0.3]])
    bounds = torch.tensor([[0.5, 0.2, 0.8, 0.9], [0.5, 0.5, 0.8, 0.9]])
    expected = torch.tensor([[0.5, 0.2, 0.6, 0.3], [0.5, 0.5, 0.8, 0.9]])
    torch.testing.assert_close(clip_boxes(boxes, bounds), expected)
