"""Adapters, alone and in the image encoder, where they mix slices along depth in every block."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from MaskSAMCore.modeling import build_model
from MaskSAMCore.modeling.masksam.adapters import (
    DConvAdapter,
    DMLPAdapter,
    build_adapter,
    depthwise_convolution,
)
from Testing.helpers.networks import SMALL_SAM, randomize_adapters, small_masksam_config


@pytest.mark.parametrize("kind", ["plain", "depth_mlp", "depth_convolution"])
def test_a_fresh_adapter_is_the_zero_map(kind: str) -> None:
    x = torch.randn(2, 5, 4, 4, 32)
    adapter = build_adapter(kind, 32, 5, 0.25)  # type: ignore[arg-type]
    assert torch.equal(adapter(x), torch.zeros_like(x))
    torch.nn.init.normal_(adapter.up.weight)
    assert adapter(x).abs().max() > 0


def test_the_depthwise_convolution_equals_the_three_dimensional_one() -> None:
    layer = DConvAdapter(64).convolution
    x = torch.randn(2, 5, 7, 6, 16)
    expected = layer(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(depthwise_convolution(layer, x), expected, atol=1e-5, rtol=1e-5)


def test_the_depth_mlp_mixes_all_slices_and_rejects_another_number_of_slices() -> None:
    adapter = DMLPAdapter(32, slices=5)
    torch.nn.init.normal_(adapter.up.weight)
    x = torch.randn(1, 5, 3, 32)
    changed = x.clone()
    changed[:, 0] += 1
    moved = (adapter(changed) - adapter(x)).abs().amax((0, 2, 3))
    assert (moved > 0).all()
    with pytest.raises(ValueError, match="built for 5 slices, not 4"):
        adapter(x[:, :4])


@pytest.mark.parametrize("index", range(SMALL_SAM.depth))
def test_a_changed_slice_reaches_only_its_neighbours_in_every_block(index: int) -> None:
    """The blocks have global attention, or windows of 3 that need padding on 4 x 5 tokens."""
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    randomize_adapters(model.encoder)
    block = model.sam.image_encoder.blocks[index]
    x = torch.randn(1, 5, 4, 5, 32)
    changed = x.clone()
    changed[:, 2] = torch.randn(4, 5, 32)
    with torch.no_grad():
        before = model.encoder.block(index, block, x)
        after = model.encoder.block(index, block, changed)
    moved = [bool((before[:, k] - after[:, k]).abs().max() > 1e-6) for k in range(5)]
    # A block has two adapters in sequence, after attention and beside the MLP.
    assert moved == [True] * 5
    adapters = model.encoder.after_attention[index], model.encoder.beside_mlp[index]
    weights = [adapter.up.weight.clone() for adapter in adapters]
    for zeroed, kept in ((0, 1), (1, 0)):
        with torch.no_grad():
            adapters[kept].up.weight.copy_(weights[kept])
            torch.nn.init.zeros_(adapters[zeroed].up.weight)
            torch.nn.init.zeros_(adapters[zeroed].up.bias)
            before = model.encoder.block(index, block, x)
            after = model.encoder.block(index, block, changed)
        moved = [bool((before[:, k] - after[:, k]).abs().max() > 1e-6) for k in range(5)]
        assert moved == [False, True, True, True, False]


def test_before_training_the_encoder_is_sams() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config())
    encoder = model.sam.image_encoder
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    slices = torch.randn(2, 5, 16, 20, 3)
    with torch.no_grad():
        ours = model.encoder(encoder, slices, []).neck
        theirs = encoder(slices.flatten(0, 1).permute(0, 3, 1, 2))
    torch.testing.assert_close(ours.flatten(0, 1).permute(0, 3, 1, 2), theirs, atol=1e-4, rtol=1e-4)


def test_nothing_of_a_frozen_sam_is_trained() -> None:
    frozen = dataclasses.replace(SMALL_SAM, frozen=True)
    model = build_model(small_masksam_config(sam=frozen))
    trained = model.trained_parameters()
    assert trained
    assert not [name for name in trained if name.startswith("sam.")]
    parts = {name.split(".")[0] for name in trained}
    assert parts == {"stem", "encoder", "generator", "decoder"}
    prediction = model(torch.randn(1, 1, 5, 16, 20))
    (prediction.mask_logits.mean() + prediction.class_logits.mean()).backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)
