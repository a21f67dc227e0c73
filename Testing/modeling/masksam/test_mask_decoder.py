"""The adapted mask decoder equals SAM's own before training, part by part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from MaskSAMCore.modeling import MaskSAM, build_model
from MaskSAMCore.modeling.masksam.mask_decoder import DecoderPrompts
from Testing.helpers.networks import small_masksam_config

# A grid of 4 x 5 tokens reveals swapped rows and columns.
ROWS, COLUMNS = 16, 20


@pytest.fixture
def model() -> MaskSAM:
    torch.manual_seed(0)
    return build_model(small_masksam_config(window=(5, ROWS, COLUMNS))).eval()


def some_boxes() -> Tensor:
    """Return random boxes (1, 4, 5, 4), normalised."""
    corner, size = torch.rand(2, 1, 4, 5, 2)
    return torch.cat([corner, corner + (1 - corner) * size], -1)


def some_prompts(masks: Tensor | None = None, without: Tensor | None = None) -> DecoderPrompts:
    return DecoderPrompts(some_boxes(), torch.randn(1, 4, 5, 32), masks, without)


@torch.no_grad()
def test_box_prompts_equal_sams(model: MaskSAM) -> None:
    """Boxes are pixel edges; SAM takes pixel indices and adds half a pixel."""
    boxes = some_boxes()
    ours = model.sam.embed_boxes(boxes)
    edges = boxes.reshape(-1, 4) * torch.tensor([COLUMNS, ROWS, COLUMNS, ROWS])
    theirs, _ = model.sam.prompt_encoder(points=None, boxes=edges - 0.5, masks=None)
    assert ours.shape == (20, 2, 32)
    assert torch.equal(ours, theirs)
    shifted, _ = model.sam.prompt_encoder(points=None, boxes=edges, masks=None)
    assert not torch.allclose(ours, shifted, atol=1e-3)


@torch.no_grad()
def test_a_box_corner_in_the_centre_of_a_token_has_the_tokens_position(model: MaskSAM) -> None:
    prompts = model.sam.prompt_encoder
    row, column = 1, 3
    x, y = (column + 0.5) / 5, (row + 0.5) / 4
    box = torch.tensor([x, y, x, y]).expand(1, 1, 1, 4)
    corners = model.sam.embed_boxes(box)[0]
    position = prompts.get_dense_pe()[0, :, row, column]
    for corner, kind in zip(corners, prompts.point_embeddings[2:], strict=True):
        torch.testing.assert_close(corner - kind.weight[0], position, atol=1e-5, rtol=0)


@torch.no_grad()
def test_mask_prompts_equal_sams(model: MaskSAM) -> None:
    prompts = model.sam.prompt_encoder
    masks = 5 * torch.randn(1, 4, 5, 16, 20)
    _, theirs = prompts(points=None, boxes=None, masks=masks.flatten(0, 2)[:, None])
    expected = theirs.flatten(2).transpose(1, 2).unflatten(0, (1, 4, 5))
    ours = model.decoder.dense_prompts(prompts, some_prompts(masks))
    assert ours.shape == (1, 4, 5, 20, 32)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    without = torch.rand(1, 4, 5) > 0.5
    some = model.decoder.dense_prompts(prompts, some_prompts(masks, without))
    _, nothing = prompts(points=None, boxes=some_boxes().reshape(-1, 4), masks=None)
    nothing = nothing.flatten(2).transpose(1, 2).unflatten(0, (1, 4, 5))
    assert torch.equal(some[without], nothing[without])
    assert torch.equal(some[~without], ours[~without])
    none = model.decoder.dense_prompts(prompts, some_prompts())
    assert torch.equal(none.expand_as(nothing), nothing)


@torch.no_grad()
@pytest.mark.parametrize("kinds", [("depth_convolution", "depth_mlp"), ("plain", "plain")])
def test_before_training_the_transformer_is_sams(kinds: tuple[str, str]) -> None:
    torch.manual_seed(0)
    model = build_model(
        small_masksam_config(encoder_adapter=kinds[0], decoder_adapter=kinds[1])
    ).eval()
    transformer = model.sam.mask_decoder.transformer
    tokens, keys = torch.randn(4, 5, 8, 32), torch.randn(4, 5, 20, 32)
    position = torch.randn(20, 32)
    ours = model.decoder.transform(transformer, tokens, keys, position)

    def image(x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, (4, 5))

    theirs = transformer(
        image(keys.flatten(0, 1)), image(position.expand(20, -1, -1)), tokens.flatten(0, 1)
    )
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.flatten(0, 1), its, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_mask_logits_are_products_with_sams_upscaled_embeddings(model: MaskSAM) -> None:
    decoder = model.sam.mask_decoder
    keys, hyper = torch.randn(1, 4, 5, 20, 32), torch.randn(1, 4, 5, 4)
    ours = model.decoder.upscaled_product(decoder, keys, hyper, (), None)
    source = keys.flatten(0, 2).transpose(1, 2).unflatten(2, (4, 5))
    upscaled = decoder.output_upscaling(source)
    expected = torch.einsum("pc,pcyx->pyx", hyper.flatten(0, 2), upscaled)
    torch.testing.assert_close(ours.flatten(0, 2), expected, atol=1e-5, rtol=1e-5)
    silent = torch.rand(1, 4, 5) > 0.5
    some = model.decoder.upscaled_product(decoder, keys, hyper, (), silent)
    torch.testing.assert_close(some[~silent], ours[~silent], atol=1e-5, rtol=1e-5)
    assert not some[silent].any()


@torch.no_grad()
@pytest.mark.parametrize("index", [0, 1])
def test_a_changed_slice_of_a_prompt_reaches_only_its_neighbours_image(
    model: MaskSAM, index: int
) -> None:
    """Only one adapter, for image embeddings, has an effect here; prompts never interact."""
    decoder, transformer = model.decoder, model.sam.mask_decoder.transformer
    torch.nn.init.normal_(decoder.after_image_to_token[index].up.weight, std=0.3)
    tokens, keys, position = (
        torch.randn(4, 5, 8, 32),
        torch.randn(4, 5, 20, 32),
        torch.randn(20, 32),
    )
    changed = keys.clone()
    changed[1, 2] = torch.randn(20, 32)
    before = decoder.transform(transformer, tokens, keys, position)
    after = decoder.transform(transformer, tokens, changed, position)
    for mine, its in zip(before, after, strict=True):
        moved = (mine - its).abs().amax((2, 3)) > 1e-6
        assert moved[1].tolist() == [False, True, True, True, False]
        assert not moved[[0, 2, 3]].any()
