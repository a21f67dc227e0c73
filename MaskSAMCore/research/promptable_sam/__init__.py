"""A small SAM that is trained to segment anything by prompts, from labelmaps of anything."""

from MaskSAMCore.research.promptable_sam.config import PromptableSamConfig as Config
from MaskSAMCore.research.promptable_sam.network import PromptableSam as Network

__all__ = ["Config", "Network"]
