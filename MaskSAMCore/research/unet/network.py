"""A U-Net in the manner of nnU-Net, to compare with: ``dynamic-network-architectures``' own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from MaskSAMCore.modeling.box_prompts import BoxPrompts, inside_boxes
from MaskSAMCore.modeling.layers import Convolution3d
from MaskSAMCore.modeling.masam.network import ClassScores
from MaskSAMCore.research.unet.config import UNetConfig


class UNet(nn.Module):
    """The network behind the interface of the others.

    Raises:
        ValueError: the package with the network is not installed.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        try:
            from dynamic_network_architectures.architectures.unet import PlainConvUNet
        except ImportError as error:
            raise ValueError(
                f"the U-Net needs '{error.name}': pip install masksam[train]"
            ) from error
        self.config = config
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
        for module in self.network.modules():
            if type(module) is nn.Conv3d:
                # The package asks for PyTorch's own class by name.
                module.__class__ = Convolution3d

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by name."""
        return dict(self.named_parameters())

    def supervised_logits(self, images: Tensor) -> list[Tensor]:
        """Class logits (B, K + 1, T, H, W) of images (B, C, T, H, W), and those of the coarser
        stages, fine first."""
        self.network.decoder.deep_supervision = True
        logits: list[Tensor] = self.network(images)
        return logits

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, T, H, W) to class logits (B, K + 1, T, H, W): all of its work."""
        self.network.decoder.deep_supervision = False
        logits: Tensor = self.network(images)
        return logits

    def decode(self, embedding: Tensor, prompts: BoxPrompts | None = None) -> ClassScores:
        """Class probabilities. It does not listen to boxes: they clip their class and no more."""
        scores = embedding.float().softmax(1)
        if prompts is None:
            return ClassScores(scores)
        boxes = prompts.boxes.float()
        inside = inside_boxes(boxes.flatten(0, 2), *scores.shape[-2:]).unflatten(0, boxes.shape[:3])
        inside = inside & prompts.present[..., None, None]
        return ClassScores(scores * (inside | ~prompts.given[..., None, None, None]))

    def forward(self, images: Tensor) -> ClassScores:
        """Images (B, C, T, H, W) to a prediction."""
        return self.decode(self.encode(images))
