"""Per-voxel and mask embeddings, and prototypes that adapt to the contrast of an image."""

from __future__ import annotations

import pytest
import torch

from MaskSAMCore.modeling import build_model
from MaskSAMCore.modeling.masksam.voxel_embeddings import (
    Prototypes,
    add_embedding_logits,
    resize_masks,
)
from Testing.helpers.networks import RESIDUAL_MASKS, small_masksam_config


def two_structures(grey: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an image of two structures.

    Args:
        grey: intensities of the structures.

    Returns:
        The second structure as bool (T, H, W), per-voxel embeddings (1, T, 2, H, W), and coarse
        masks (1, 2, T, h, w) whose border is two voxels off.
    """
    inside = torch.zeros(3, 8, 16, dtype=torch.bool)
    inside[..., 6:] = True
    intensity = torch.where(inside, grey[1], grey[0])
    voxels = torch.stack([intensity, torch.ones_like(intensity)], 1)[None]
    masks = torch.full((1, 2, 3, 4, 8), -1.0)
    masks[:, 0, ..., :4] = 1
    masks[:, 1, ..., 4:] = 1
    return inside, voxels, masks


@pytest.mark.parametrize("grey", [(-2.0, 2.0), (2.0, -2.0), (1.0, 4.0)])
def test_prototypes_move_the_border_of_a_mask_to_the_edge_in_the_image(
    grey: tuple[float, float],
) -> None:
    inside, voxels, masks = two_structures(grey)
    before = resize_masks(masks, (8, 16)).argmax(1)[0] == 1
    assert int((before != inside).sum()) == 2 * 3 * 8
    vectors = torch.zeros(1, 2, 3, 2)
    found = Prototypes(2)(masks, vectors, voxels)
    assert found.shape == (1, 2, 1, 2)
    after = add_embedding_logits(masks, vectors + found, voxels).argmax(1)[0] == 1
    assert torch.equal(after, inside)


def test_prototypes_are_those_of_each_image_and_favour_no_mask() -> None:
    _, voxels, masks = two_structures((-2.0, 2.0))
    _, other, _ = two_structures((3.0, 0.5))
    prototypes = Prototypes(2)
    vectors = torch.zeros(2, 2, 3, 2)
    with torch.no_grad():
        both = prototypes(masks.repeat(2, 1, 1, 1, 1), vectors, torch.cat([voxels, other]))
        alone = prototypes(masks, vectors[:1], other)
    torch.testing.assert_close(both[1:], alone)
    assert float((both[0] - both[1]).abs().max()) > 0.1
    torch.testing.assert_close(both.sum(1), torch.zeros_like(both[:, 0]))


def test_prototypes_are_the_same_for_slices_one_by_one_and_together() -> None:
    torch.manual_seed(0)
    masks, voxels = torch.randn(2, 5, 3, 24), torch.rand(2, 5, 4, 24)
    prototypes = Prototypes(3)
    alone = prototypes.from_masks(masks.unbind(1), voxels.unbind(1), batch=2)
    together = prototypes.from_masks([masks.flatten(0, 1)], [voxels.flatten(0, 1)], batch=2)
    assert together.shape == (2, 3, 1, 4)
    torch.testing.assert_close(together, alone)


def test_voxel_embeddings_end_with_a_constant_channel() -> None:
    config = small_masksam_config(**RESIDUAL_MASKS, prototypes=5)
    model = build_model(config).eval()
    with torch.no_grad():
        proposals = model.encode(torch.randn(2, 1, 5, 16, 20)).proposals
    assert proposals.voxel_embeddings.shape == (2, 5, 6, 16, 20)
    assert torch.equal(proposals.voxel_embeddings[:, :, -1], torch.ones(2, 5, 16, 20))
    assert proposals.mask_embeddings.shape == (2, config.queries, 5, 6)


@pytest.mark.parametrize("size", [(8, 16), (16, 20), (11, 7)])
def test_masks_are_interpolated_bilinearly(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    masks = torch.randn(2, 3, 4, 8, 10)
    known = torch.nn.functional.interpolate(masks.flatten(1, 2), size, mode="bilinear")
    found = resize_masks(masks, size)
    torch.testing.assert_close(found, known.unflatten(1, (3, 4)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_masks(masks, size), found)
