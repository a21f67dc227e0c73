"""The networks. Imports torch, and nothing of this package outside this room."""

from .config import SAM_CONFIGS, MaskSAMConfig, SamConfig
from .masksam import Embedding, MaskSAM, Prediction, build_model, semantic_scores
from .presets import PRESETS, paper_parity, preset
from .prompts import BoxPrompts
from .sam import load_sam_checkpoint

__all__ = [
    "PRESETS",
    "SAM_CONFIGS",
    "BoxPrompts",
    "Embedding",
    "MaskSAM",
    "MaskSAMConfig",
    "Prediction",
    "SamConfig",
    "build_model",
    "load_sam_checkpoint",
    "paper_parity",
    "preset",
    "semantic_scores",
]
