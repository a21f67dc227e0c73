"""The networks. Imports torch, and nothing of this package outside this room."""

from .config import SAM_CONFIGS, MaskSAMConfig, SamConfig
from .masam import MASam
from .masam_config import MASamConfig
from .masksam import Embedding, MaskSAM, Prediction, semantic_scores
from .networks import Network, NetworkConfig, build_model, kept_names, read_config
from .presets import PRESETS, paper_parity, preset
from .prompts import BoxPrompts
from .sam import load_sam_checkpoint
from .unet import UNet
from .unet_config import UNetConfig

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
