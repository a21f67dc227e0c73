"""A small promptable SAM, trained on slices that are synthesised from labelmaps of anything."""

from MaskSAMCore.research.promptable_sam.config import PromptableSamConfig as Config
from MaskSAMCore.research.promptable_sam.network import PromptableSam as Network

__all__ = ["Config", "Network"]
