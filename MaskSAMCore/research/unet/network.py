"""A U-Net in the manner of nnU-Net, from ``dynamic-network-architectures``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from MaskSAMCore.modeling.layers import Convolution3d
from MaskSAMCore.research.class_logits import ClassLogitsNetwork
from MaskSAMCore.research.unet.config import UNetConfig


class UNet(ClassLogitsNetwork):
    """U-Net behind the interface of the other networks.

    Raises:
        ValueError: ``dynamic-network-architectures`` is not installed.
    """

    config: UNetConfig

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        try:
            from dynamic_network_architectures.architectures.unet import PlainConvUNet
        except ImportError as error:
            raise ValueError(
                f"the U-Net needs '{error.name}': pip install masksam[train]"
            ) from error
        stages = len(config.strides)
        self.network: Any = PlainConvUNet(
            input_channels=config.in_channels,
            n_stages=stages,
            features_per_stage=list(config.stage_features),
            conv_op=nn.Conv3d,
            kernel_sizes=[list(kernel) for kernel in config.kernels],
            strides=[list(stride) for stride in config.strides],
            n_conv_per_stage=[config.convolutions] * stages,
            num_classes=config.num_classes + 1,
            n_conv_per_stage_decoder=[config.convolutions] * (stages - 1),
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
        self.network.apply(self.network.initialize)
        replace_convolutions(self.network)

    def supervised_logits(self, images: Tensor) -> list[Tensor]:
        """Return class logits (B, K + 1, T, H, W) of images (B, C, T, H, W), fine to coarse."""
        self.network.decoder.deep_supervision = True
        logits: list[Tensor] = self.network(images)
        return logits

    def encode(self, images: Tensor) -> Tensor:
        """Return the class logits (B, K + 1, T, H, W) of windows (B, C, T, H, W)."""
        self.check_window(images)
        self.network.decoder.deep_supervision = False
        logits: Tensor = self.network(images)
        return logits


def replace_convolutions(network: nn.Module) -> None:
    """Replace every ``nn.Conv3d`` of a network by a ``Convolution3d`` with the same weights.

    A layer that several parts of the network share stays shared.
    """
    replaced: dict[nn.Module, Convolution3d] = {}
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv3d:
                if child not in replaced:
                    replaced[child] = _as_convolution3d(child)
                parent.register_module(name, replaced[child])


def _as_convolution3d(layer: nn.Conv3d) -> Convolution3d:
    copy = Convolution3d(
        layer.in_channels,
        layer.out_channels,
        kernel_size=layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=layer.groups,
        bias=layer.bias is not None,
        device="meta",
    )
    copy.weight, copy.bias = layer.weight, layer.bias
    return copy
