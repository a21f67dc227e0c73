"""Small layers shared by the channel adapter and the prompt generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Below this, windows are thin enough for what Convolution3d avoids.
_FEW_SLICES = 16


class Convolution3d(nn.Conv3d):
    """``nn.Conv3d``, safe to train with windows of few, large slices on a CPU.

    There oneDNN's bfloat16 gradient of the weights (AMX, as in PyTorch 2.13) writes beyond its
    buffers, and the process dies of it ("double free or corruption"). With depth and rows exchanged
    the result is the same, right, and no slower.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        thin = input.ndim == 5 and input.shape[2] < _FEW_SLICES and self.padding_mode == "zeros"
        if not thin or input.device.type != "cpu" or not torch.is_grad_enabled():
            return super()._conv_forward(input, weight, bias)
        assert not isinstance(self.padding, str)
        stride, padding, dilation = (
            (rows, depth, columns)
            for depth, rows, columns in (self.stride, self.padding, self.dilation)
        )
        turned = nn.functional.conv3d(
            input.transpose(2, 3),
            weight.transpose(2, 3),
            bias,
            stride,
            padding,
            dilation,
            self.groups,
        )
        return turned.transpose(2, 3)


class ConvolutionBlock(nn.Sequential):
    """Convolution, instance normalisation, LeakyReLU: (B, C, T, H, W) to the same grid, or half of
    it in-plane with ``stride`` 2."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        convolution = Convolution3d(
            inputs, outputs, kernel_size=3, stride=(1, stride, stride), padding=1, bias=False
        )
        super().__init__(
            convolution, nn.InstanceNorm3d(outputs, affine=True), nn.LeakyReLU(0.01, inplace=True)
        )


class Upsample(nn.Module):
    """A transposed convolution of kernel and stride (1, 2, 2), written as a linear layer.

    Equal to it and faster on a CPU: kernels that do not overlap are a matrix product a token.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(inputs, 4 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, inputs) to (B, T, 2H, 2W, outputs)."""
        return unfold_pixels(self.linear(x), self.outputs)


def unfold_pixels(x: Tensor, channels: int) -> Tensor:
    """(..., H, W, 4 channels) to (..., 2H, 2W, channels); the four are (row, column) offsets."""
    *lead, height, width, _ = x.shape
    x = x.reshape(*lead, height, width, 2, 2, channels)
    order = [*range(len(lead)), *(len(lead) + i for i in (0, 2, 1, 3, 4))]
    return x.permute(order).reshape(*lead, 2 * height, 2 * width, channels)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B, T, H, W, C), without a copy."""
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    """(B, T, H, W, C) to (B, C, T, H, W), without a copy."""
    return x.permute(0, 4, 1, 2, 3)


def transposed_convolution(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """SAM's 2 x 2, stride 2 transposed convolution on channels-last (..., H, W, C)."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = None if layer.bias is None else layer.bias.repeat(4)
    return unfold_pixels(nn.functional.linear(x, weight, bias), layer.out_channels)


def strided_convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """SAM's k x k, stride k convolution (patch embedding, mask downscaling) on channels-last
    (..., H, W, C)."""
    *lead, height, width, channels = x.shape
    k = layer.kernel_size[0]
    x = x.reshape(*lead, height // k, k, width // k, k, channels)
    order = [*range(len(lead)), *(len(lead) + i for i in (0, 2, 1, 3, 4))]
    patches = x.permute(order).flatten(-3)
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return nn.functional.linear(patches, weight, layer.bias)


def layer_norm_2d(norm: nn.Module, x: Tensor) -> Tensor:
    """SAM's LayerNorm2d on channels-last (..., C)."""
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor) and isinstance(eps, float)
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention on (B, heads, tokens, c), softmax(q k^T scale) v.

    ``scaled_dot_product_attention``, except while training on a CPU, where its backward pass is
    several times slower than the three operations written out.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        scores = (q * scale) @ k.transpose(-1, -2)
        # Mixed precision would write float32 and round it right after.
        with torch.autocast("cpu", enabled=False):
            weights = torch.softmax(scores, -1)
        return weights.to(v.dtype) @ v
    padding = q.shape[-1] - v.shape[-1]
    # Kernels want keys and values of one width; the padding is cut off again.
    out = nn.functional.scaled_dot_product_attention(
        q, k, nn.functional.pad(v, (0, padding)), scale=scale
    )
    return out[..., : v.shape[-1]]
