"""Ablations B1 to B9 of the paper's Table 4: MaskSAM with some of its parts replaced.

The prompt generator has heads for masks and for boxes in all ablations; its form decides which
of their outputs reach the prompt encoder.
"""

from __future__ import annotations

from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.modeling.masksam.config import AdapterKind, PromptForm

# Prompt form, adapter for image embeddings, adapter for prompt embeddings, depth position.
_TABLE: dict[str, tuple[PromptForm, AdapterKind, AdapterKind, bool]] = {
    "b1": ("masks", "plain", "plain", False),
    "b2": ("boxes", "plain", "plain", False),
    "b3": ("both", "plain", "plain", False),
    "b4": ("average", "plain", "plain", False),
    "b5": ("average", "plain", "plain", True),
    "b6": ("average", "depth_mlp_after", "depth_mlp_after", True),
    "b7": ("average", "depth_mlp_before", "depth_mlp_before", True),
    "b8": ("average", "depth_mlp", "depth_mlp", True),
    "b9": ("average", "depth_convolution", "depth_mlp", True),
}


def ablations(base: NetworkConfig) -> dict[str, NetworkConfig]:
    """Return the configurations "b1" to "b9", derived from a MaskSAM configuration."""
    return {
        name: base.replace(
            prompts=prompts,
            encoder_adapter=encoder_adapter,
            decoder_adapter=decoder_adapter,
            depth_position=depth_position,
        )
        for name, (prompts, encoder_adapter, decoder_adapter, depth_position) in _TABLE.items()
    }
