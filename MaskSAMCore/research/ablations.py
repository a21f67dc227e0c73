"""The paper's ablations B1 to B9 (Table 4): the whole network with parts of it taken back.

The generator has its heads for masks and for boxes in every one of them; its form decides what the
prompt encoder receives.
"""

from __future__ import annotations

from MaskSAMCore.modeling.masksam.config import AdapterKind, MaskSAMConfig, PromptForm

# Form of the generator, adapter of image and of prompt embeddings, depth position embeddings.
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


def ablations(prefix: str, base: MaskSAMConfig) -> dict[str, MaskSAMConfig]:
    """``{prefix}_b1`` to ``{prefix}_b9`` on the sizes of another configuration."""
    return {
        f"{prefix}_{name}": base.replace(
            prompts=prompts,
            encoder_adapter=images,
            decoder_adapter=tokens,
            depth_position=depth_position,
        )
        for name, (prompts, images, tokens, depth_position) in _TABLE.items()
    }
