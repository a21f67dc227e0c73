"""MaskSAM: SAM with 3D adapters that proposes its own prompts and classifies the masks."""

from MaskSAMCore.modeling.masksam.config import MaskSAMConfig as Config
from MaskSAMCore.modeling.masksam.network import MaskSAM as Network

__all__ = ["Config", "Network"]
