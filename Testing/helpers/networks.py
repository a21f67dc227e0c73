"""Small networks with random weights, and box prompts for them."""

from __future__ import annotations

import dataclasses

import torch

from MaskSAMCore.modeling import BoxPrompts, MASamConfig, MaskSAMConfig, SamConfig

SMALL_SAM = SamConfig(
    "small",
    patch_size=4,
    embed_dim=32,
    depth=6,
    num_heads=2,
    window_size=3,
    global_attn_indexes=(1, 3, 4, 5),
    prompt_dim=32,
    decoder_mlp_dim=64,
    decoder_heads=2,
    frozen=False,
)
FROZEN_SMALL_SAM = dataclasses.replace(SMALL_SAM, frozen=True)
# With these settings, MaskSAM's decoder adds a residual to the masks of the prompt generator.
RESIDUAL_MASKS = {
    "stem_pyramid": True,
    "stem_channels": (4, 8, 16),
    "detail_channels": 6,
    "residual_masks": True,
}


def small_masksam_config(**changes: object) -> MaskSAMConfig:
    """Return a MaskSAM configuration that runs in milliseconds on a (5, 16, 20) window."""
    values = {
        "num_classes": 2,
        "window": (5, 16, 20),
        "queries": 4,
        "sam": SMALL_SAM,
        "stem_channels": (8,),
        "upsampling": 1,
        "generator_channels": (16, 16, 8),
        "head_channels": 16,
    }
    return MaskSAMConfig(**{**values, **changes})  # type: ignore[arg-type]


def small_masam_config(**changes: object) -> MASamConfig:
    """Return a MA-SAM configuration that runs in milliseconds on a (5, 16, 20) window."""
    values = {
        "num_classes": 2,
        "window": (5, 16, 20),
        "sam": SMALL_SAM,
        "pixels": None,
        "rank": 4,
        "adapter_dim": 16,
    }
    return MASamConfig(**{**values, **changes})  # type: ignore[arg-type]


def randomize_adapters(module: torch.nn.Module) -> None:
    """Give adapters an effect; a fresh adapter is the zero map."""
    for name, parameter in module.named_parameters():
        if ".up." in name:
            torch.nn.init.normal_(parameter, std=0.3)


def class_box_prompts(
    class_index: int, box: list[float], slices: list[int], depth: int = 5
) -> BoxPrompts:
    """Return the box prompt of one of three classes.

    Args:
        class_index: index of the class in the network.
        box: left, top, right and bottom edge as fractions of a slice.
        slices: indices of the slices that show the box.
        depth: number of slices in the window.
    """
    boxes = torch.zeros(1, 3, depth, 4)
    present = torch.zeros(1, 3, depth, dtype=torch.bool)
    given = torch.zeros(1, 3, dtype=torch.bool)
    given[0, class_index] = True
    boxes[0, class_index, slices] = torch.tensor(box)
    present[0, class_index, slices] = True
    return BoxPrompts(boxes, given, present)
