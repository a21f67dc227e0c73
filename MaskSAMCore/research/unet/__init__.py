"""A U-Net with nnU-Net's planning rules, as a baseline."""

from MaskSAMCore.research.unet.config import UNetConfig as Config
from MaskSAMCore.research.unet.network import UNet as Network

__all__ = ["Config", "Network"]
