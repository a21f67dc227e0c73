"""MaskSAM without the prompt generator, for accurate boxes of every class."""

from MaskSAMCore.modeling.prompted.config import PromptedConfig as Config
from MaskSAMCore.modeling.prompted.network import PromptedMaskSAM as Network

__all__ = ["Config", "Network"]
