"""Layers shared by the networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# The oneDNN defect that Convolution3d avoids occurs in windows with fewer slices than this.
_FEW_SLICES = 16
# Up to this many tokens, CPU attention is faster without ``scaled_dot_product_attention``.
_FEW_TOKENS = 256


Result = TypeVar("Result")


class Checkpointed(nn.Module):
    """Base class of modules with gradient checkpointing.

    Attributes:
        gradient_checkpointing: True if the activations of the module's larger parts are recomputed
            in the backward pass instead of kept, which takes time and saves memory.
    """

    gradient_checkpointing = False

    def checkpointed(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return ``function(*arguments)``, with gradient checkpointing if that is on."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return function(*arguments)
        result: Result = checkpoint(function, *arguments, use_reentrant=False)
        return result


class Convolution3d(nn.Conv3d):
    """``nn.Conv3d`` that avoids three weaknesses of PyTorch on a CPU.

    In training, with windows of few, large slices, oneDNN's bfloat16 gradient of the weights (AMX,
    in PyTorch 2.13) writes beyond its buffers, and the process ends with "double free or
    corruption". Exchanging depth and rows avoids this; the result is the same and no slower.

    In inference, oneDNN's bfloat16 convolution of a single slice with one channel reads
    uninitialised memory, which the exchange of depth and rows avoids as well.

    In inference, PyTorch also computes small float32 inputs of one window with its own kernel,
    which is up to seven times slower than oneDNN's.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type != "cpu" or input.ndim != 5 or self.padding_mode != "zeros":
            return super()._conv_forward(input, weight, bias)
        assert not isinstance(self.padding, str)
        slices, trains = input.shape[2], torch.is_grad_enabled()
        # Mixed precision converts the arguments only inside conv3d, so they may still be float32.
        half = mixed_precision_on_cpu() or input.dtype != torch.float32
        if (trains and slices < _FEW_SLICES) or (half and slices == 1):
            stride, padding, dilation = (
                (rows, depth, columns)
                for depth, rows, columns in (self.stride, self.padding, self.dilation)
            )
            exchanged = nn.functional.conv3d(
                input.transpose(2, 3),
                weight.transpose(2, 3),
                bias,
                stride,
                padding,
                dilation,
                self.groups,
            )
            return exchanged.transpose(2, 3)
        if trains or half or not torch.backends.mkldnn.is_available():
            return super()._conv_forward(input, weight, bias)
        return torch.mkldnn_convolution(
            input, weight, bias, self.padding, self.stride, self.dilation, self.groups
        )


def mixed_precision_on_cpu() -> bool:
    """Return True within a context of mixed precision on the CPU."""
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # PyTorch before 2.4
        return torch.is_autocast_cpu_enabled()


class ConvolutionBlock(nn.Sequential):
    """Convolution, instance normalisation and LeakyReLU on (B, C, T, H, W).

    With ``stride`` 2 the output has half the resolution in-plane.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        convolution = Convolution3d(
            inputs, outputs, kernel_size=3, stride=(1, stride, stride), padding=1, bias=False
        )
        super().__init__(
            convolution, nn.InstanceNorm3d(outputs, affine=True), nn.LeakyReLU(0.01, inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, T, H, W) for x (B, inputs, T, H, W), in the memory format of x."""
        convolution, norm, activation = self
        assert isinstance(norm, nn.InstanceNorm3d)
        x = convolution(x)
        if len(x) > 1 or torch.is_grad_enabled():
            return activation(norm(x))
        # For one window, instance norm equals batch norm, which does not copy channels-last input.
        weight, bias, eps = norm.weight, norm.bias, norm.eps
        return activation(nn.functional.batch_norm(x, None, None, weight, bias, True, eps=eps))


class Upsample(nn.Module):
    """Transposed convolution with kernel and stride (1, 2, 2), written as a linear layer.

    Without overlap of the kernels it is one matrix product, which is faster on a CPU.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(inputs, 4 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, 2H, 2W, outputs) for x (B, T, H, W, inputs)."""
        # For other layouts PyTorch would copy the weights for every row of the image.
        return unfold_pixels(self.linear(x.contiguous()), self.outputs)


def unfold_pixels(x: Tensor, channels: int) -> Tensor:
    """Return (..., 2H, 2W, channels) for x (..., H, W, 4 channels), whose four groups of channels
    are the pixels at (row, column) offsets (0, 0), (0, 1), (1, 0) and (1, 1)."""
    *lead, height, width, _ = x.shape
    x = x.reshape(*lead, height, width, 2, 2, channels)
    order = [*range(len(lead)), *(len(lead) + i for i in (0, 2, 1, 3, 4))]
    return x.permute(order).reshape(*lead, 2 * height, 2 * width, channels)


def fold_pixels(x: Tensor, size: int = 2) -> Tensor:
    """Return (..., H, W, size^2, channels) for x (..., size H, size W, channels): the pixels of
    each cell, row by row as in :func:`unfold_pixels`."""
    *lead, height, width, channels = x.shape
    x = x.reshape(*lead, height // size, size, width // size, size, channels)
    order = [*range(len(lead)), *(len(lead) + i for i in (0, 2, 1, 3, 4))]
    return x.permute(order).flatten(-3, -2)


def unfold_twice(x: Tensor) -> Tensor:
    """Return (..., 4H, 4W) for x (..., H, W, 16), the pixels of two successive 2 x 2 upscalings."""
    *lead, height, width, _ = x.shape
    x = x.reshape(*lead, height, width, 2, 2, 2, 2)
    order = [*range(len(lead)), *(len(lead) + i for i in (0, 2, 4, 1, 3, 5))]
    return x.permute(order).reshape(*lead, 4 * height, 4 * width)


def channels_last(x: Tensor) -> Tensor:
    """Return (B, C, T, H, W) as (B, T, H, W, C), without a copy."""
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    """Return (B, T, H, W, C) as (B, C, T, H, W), without a copy."""
    return x.permute(0, 4, 1, 2, 3)


def pixels_of_tokens(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Return the 2 x 2 pixels (..., 4, channels) that SAM's transposed convolution with stride 2
    computes from each embedding in x (..., C), in the order of :func:`unfold_pixels`."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias = None if layer.bias is None else layer.bias.repeat(4)
    return nn.functional.linear(x, weight, bias).unflatten(-1, (4, layer.out_channels))


def strided_convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply SAM's k x k convolution with stride k (patch embedding, mask downscaling) to
    channels-last x (..., H, W, C)."""
    patches = fold_pixels(x, layer.kernel_size[0]).flatten(-2)
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return nn.functional.linear(patches, weight, layer.bias)


def layer_norm_2d(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply SAM's LayerNorm2d to channels-last x (..., C)."""
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor) and isinstance(eps, float)
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def apply_neck(layers: Any, x: Tensor) -> Tensor:
    """Apply the neck of SAM's image encoder, channels-last.

    Args:
        layers: ``image_encoder.neck``.
        x: (B, T, h, w, D) output of the last transformer block.

    Returns:
        (B, T, h, w, C) image embedding.
    """
    x = nn.functional.linear(x, layers[0].weight.flatten(1))
    x = layer_norm_2d(layers[1], x)
    batch, slices = x.shape[:2]
    x = layers[2](x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return layer_norm_2d(layers[3], x.unflatten(0, (batch, slices)))


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Return softmax(q k^T scale) v for q, k and v of shape (B, heads, tokens, c).

    It is computed by ``scaled_dot_product_attention``, except on a CPU for few tokens or in
    training, where its backward pass is several times slower than that of separate operations.
    """
    if q.device.type == "cpu" and (torch.is_grad_enabled() or k.shape[-2] <= _FEW_TOKENS):
        return softmax((q * scale) @ k.transpose(-1, -2), -1) @ v
    padding = q.shape[-1] - v.shape[-1]
    # The kernels need keys and values of equal width: values are padded and the result is cropped.
    out = nn.functional.scaled_dot_product_attention(
        q, k, nn.functional.pad(v, (0, padding)), scale=scale
    )
    return out[..., : v.shape[-1]]


def full_precision(x: Tensor) -> torch.autocast:
    """Return a context without mixed precision for computations with a tensor.

    The meta device has no mixed precision; the estimate of a training's cost uses the CPU's
    instead.
    """
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def softmax(scores: Tensor, dim: int) -> Tensor:
    """Return the softmax of scores in their own precision.

    Mixed precision would return float32, which the matrix product after it rounds again.
    """
    with full_precision(scores):
        return torch.softmax(scores, dim)


def add(x: Tensor, y: Tensor) -> Tensor:
    """Return x + y, in the memory of x if no gradient is needed; x must not be used afterwards."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def continued(scores: Tensor) -> Tensor:
    """Return scores extended by one voxel along each axis: zeros get the larger adjacent score.

    Interpolated scores then do not fall towards zero between the outermost voxel centres in a box
    and the sides of the box.

    Args:
        scores: (..., depth, rows, columns), 0 for voxels without a score.
    """
    for axis in (-1, -2, -3):
        count = scores.shape[axis] - 1
        nearest = torch.zeros_like(scores)
        nearest.narrow(axis, 1, count).copy_(scores.narrow(axis, 0, count))
        ahead = nearest.narrow(axis, 0, count)
        torch.maximum(ahead, scores.narrow(axis, 1, count), out=ahead)
        scores = torch.where(scores > 0, scores, nearest)
    return scores


def linear_weights(length: int, wanted: int, device: torch.device | None = None) -> Tensor:
    """Return the matrix (wanted, length) that interpolates linearly between cells of an axis.

    Both grids cover the same extent: the edges of their first and last cells coincide.
    """
    position = ((torch.arange(wanted, device=device) + 0.5) * (length / wanted) - 0.5).clamp(
        0, length - 1
    )
    return (1 - (position[:, None] - torch.arange(length, device=device)).abs()).clamp(min=0)


def repeated(x: Tensor, times: int) -> Tensor:
    """Repeat a batch (B, ...) along its first axis: (times B, ...)."""
    return x.repeat(times, *[1] * (x.ndim - 1))
