"""Layers shared by the networks equal PyTorch's and SAM's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from MaskSAMCore.modeling import build_model
from MaskSAMCore.modeling.layers import (
    Convolution3d,
    ConvolutionBlock,
    Upsample,
    continued,
    dot_product_attention,
    pixels_of_tokens,
    strided_convolution,
    unfold_pixels,
)
from MaskSAMCore.presets import find_preset

# Program with training steps on windows of few, large slices, in mixed and in full precision.
THIN = """
import torch
from MaskSAMCore.modeling.layers import ConvolutionBlock

torch.manual_seed(0)
torch.set_num_threads(1)
for slices, inputs, size in ((8, 16, 96), (4, 1, 128)):
    block = ConvolutionBlock(inputs, 16)
    image = torch.randn(1, inputs, slices, size, size)
    gradients = []
    for mixed in (True, False):
        for _ in range(3):
            block.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                value = block(image)
            value.float().square().mul(image[:, :1]).sum().backward()
        gradients.append(block[0].weight.grad.clone())
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert difference < 0.05, float(difference)
print("survived")
"""


@pytest.mark.parametrize("slices", [3, 20])
@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": (1, 2, 2), "bias": False},
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), "groups": 2},
        {"kernel_size": (1, 3, 5), "padding": (0, 1, 2), "stride": (2, 1, 3)},
    ],
)
def test_a_convolution_and_its_gradients_equal_pytorchs(slices: int, shape: dict) -> None:
    torch.manual_seed(0)
    ours, theirs = Convolution3d(4, 6, **shape), nn.Conv3d(4, 6, **shape)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 4, slices, 12, 10)
    results = []
    for layer in (ours, theirs):
        given = image.clone().requires_grad_()
        found = layer(given)
        found.square().sum().backward()
        results.append((found, given.grad, layer.weight.grad))
    for mine, known in zip(*results, strict=True):
        torch.testing.assert_close(mine, known, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), results[1][0], rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            found = ours(image)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), results[1][0], rtol=0.05, atol=0.05)


def test_a_single_slice_is_convolved_without_memory_that_nothing_was_written_to() -> None:
    torch.manual_seed(0)
    layer = Convolution3d(1, 32, kernel_size=3, padding=1, bias=False)
    # The image has the strides of a window whose channels come last.
    image = torch.randn(1, 1, 40, 36, 1).permute(0, 4, 1, 2, 3)
    sizes = (864, 1440, 2880, 13_824, 27_648, 46_080)
    with torch.inference_mode():
        expected = layer(image)
        for _ in range(5):
            # The layer is likely to reuse the memory freed here, which is full of NaN.
            for _ in [torch.full((n,), torch.nan, dtype=torch.bfloat16) for n in sizes * 3]:
                pass
            with torch.autocast("cpu", torch.bfloat16):
                found = layer(image)
            torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


def test_thin_windows_can_be_trained_in_mixed_precision() -> None:
    done = subprocess.run(
        [sys.executable, "-c", THIN], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip() == "survived", done.stderr


@pytest.mark.parametrize("name", ["tiny", "acdc", "unet"])
def test_all_networks_use_the_convolution_that_is_safe_for_thin_windows(name: str) -> None:
    with torch.device("meta"):
        model = build_model(find_preset(name).network)
    plain = [
        key
        for key, module in model.named_modules()
        # Depthwise convolutions run as three in-plane ones, 1 x 1 x 1 ones as products.
        if type(module) is nn.Conv3d and module.groups == 1 and module.kernel_size != (1, 1, 1)
    ]
    assert plain == []


def test_channels_last_convolutions_equal_pytorchs() -> None:
    x = torch.randn(2, 3, 6, 8, 5)
    flat = x.flatten(0, 1).permute(0, 3, 1, 2)
    up = nn.ConvTranspose2d(5, 7, 2, 2)
    expected = up(flat).permute(0, 2, 3, 1).unflatten(0, (2, 3))
    found = unfold_pixels(pixels_of_tokens(up, x).flatten(-2), 7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    down = nn.Conv2d(5, 7, 2, 2)
    expected = down(flat).permute(0, 2, 3, 1).unflatten(0, (2, 3))
    torch.testing.assert_close(strided_convolution(down, x), expected, atol=1e-5, rtol=1e-5)
    assert Upsample(5, 7)(x).shape == (2, 3, 12, 16, 7)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_convolution_block_equals_its_layers_in_any_memory_format(
    count: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    block = ConvolutionBlock(6, 8)
    torch.nn.init.normal_(block[1].weight)
    torch.nn.init.normal_(block[1].bias)
    x = torch.randn(count, 6, 5, 7, 9)
    convolution, norm, activation = block
    expected = activation(norm(convolution(x)))
    torch.testing.assert_close(block(x.contiguous(memory_format=layout)), expected)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [5, 300])
def test_attention_among_few_and_many_tokens_equals_pytorchs(tokens: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, tokens, 12).unbind(0)
    v = torch.randn(2, 3, tokens, 8)
    known = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.3)
    torch.testing.assert_close(dot_product_attention(q, k, v, 0.3), known)


def test_scores_continue_by_one_voxel_beyond_their_region() -> None:
    scores = torch.zeros(5, 6, 7)
    scores[2:4, 2:4, 3:5] = torch.rand(2, 2, 2) + 0.1
    found = continued(scores)
    assert torch.equal(found[2:4, 2:4, 3:5], scores[2:4, 2:4, 3:5])
    assert torch.equal(found[1, 2:4, 3:5], scores[2, 2:4, 3:5])
    assert torch.equal(found[2:4, 4, 3:5], scores[2:4, 3, 3:5])
    assert torch.equal(found[2:4, 2:4, 5], scores[2:4, 2:4, 4])
    assert found[1, 1, 2] == scores[2, 2, 3]
    assert not found[0].any() and not found[:, 0].any() and not found[..., :2].any()
    assert (found > 0).sum() == 4 * 4 * 4
