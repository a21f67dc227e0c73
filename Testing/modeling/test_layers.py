"""Layers shared by the networks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from MaskSAMCore.modeling import build_model
from MaskSAMCore.modeling.layers import Convolution3d
from MaskSAMCore.presets import find_preset

# A step of training with windows of few, large slices, in the precision that a CPU trains in.
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
    "how",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": (1, 2, 2), "bias": False},
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), "groups": 2},
        {"kernel_size": (1, 3, 5), "padding": (0, 1, 2), "stride": (2, 1, 3)},
    ],
)
def test_a_convolution_is_pytorchs_own_with_its_gradients(slices: int, how: dict):
    torch.manual_seed(0)
    ours, theirs = Convolution3d(4, 6, **how), nn.Conv3d(4, 6, **how)
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


def test_thin_windows_can_be_trained_in_mixed_precision():
    done = subprocess.run(
        [sys.executable, "-c", THIN], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip() == "survived", done.stderr


@pytest.mark.parametrize("name", ["tiny", "acdc", "unet"])
def test_networks_convolve_so_that_thin_windows_can_be_trained(name: str):
    with torch.device("meta"):
        model = build_model(find_preset(name).network)
    plain = [
        key
        for key, module in model.named_modules()
        # Depthwise ones are written as three in-plane convolutions, 1 x 1 x 1 ones are products.
        if type(module) is nn.Conv3d and module.groups == 1 and module.kernel_size != (1, 1, 1)
    ]
    assert plain == []
