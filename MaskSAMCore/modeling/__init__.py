"""The networks. Imports torch, and nothing of this package outside this room."""

from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.masam.network import MASam
from MaskSAMCore.modeling.masksam.config import SAM_CONFIGS, MaskSAMConfig, SamConfig
from MaskSAMCore.modeling.masksam.network import Embedding, MaskSAM, Prediction, semantic_scores
from MaskSAMCore.modeling.presets import PRESETS, paper_parity, preset
from MaskSAMCore.modeling.registry import (
    Network,
    NetworkConfig,
    build_model,
    kept_names,
    read_config,
)
from MaskSAMCore.modeling.sam.build import load_sam_checkpoint
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.research.unet.network import UNet

__all__ = [
    "PRESETS",
    "SAM_CONFIGS",
    "BoxPrompts",
    "Embedding",
    "MASam",
    "MASamConfig",
    "MaskSAM",
    "MaskSAMConfig",
    "Network",
    "NetworkConfig",
    "Prediction",
    "SamConfig",
    "UNet",
    "UNetConfig",
    "build_model",
    "kept_names",
    "load_sam_checkpoint",
    "paper_parity",
    "preset",
    "read_config",
    "semantic_scores",
]
