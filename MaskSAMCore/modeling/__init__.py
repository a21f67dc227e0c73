"""Networks, which depend on PyTorch and segment-anything but on no other part of MaskSAMCore."""

from MaskSAMCore.modeling.base import (
    ClassScores,
    Network,
    NetworkConfig,
    SamNetworkConfig,
    WindowPrediction,
)
from MaskSAMCore.modeling.box_prompts import BoxPrompts
from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.masam.network import MASam
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.network import (
    MaskPrediction,
    MaskSAM,
    MaskSAMEmbedding,
    semantic_scores,
)
from MaskSAMCore.modeling.registry import build_limited, build_model, expected_state, read_config
from MaskSAMCore.modeling.sam.checkpoint import load_sam_checkpoint
from MaskSAMCore.modeling.sam.config import SAM_CONFIGS, SamConfig

__all__ = [
    "SAM_CONFIGS",
    "BoxPrompts",
    "ClassScores",
    "MASam",
    "MASamConfig",
    "MaskPrediction",
    "MaskSAM",
    "MaskSAMConfig",
    "MaskSAMEmbedding",
    "Network",
    "NetworkConfig",
    "SamConfig",
    "SamNetworkConfig",
    "WindowPrediction",
    "build_limited",
    "build_model",
    "expected_state",
    "load_sam_checkpoint",
    "read_config",
    "semantic_scores",
]
