"""Configurations of MaskSAM that cannot work are refused."""

from __future__ import annotations

import pytest

from MaskSAMCore.presets.small import TINY
from Testing.helpers.networks import RESIDUAL_MASKS, small_masksam_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": (8, 41, 56)}, "multiple of the token size"),
        ({"window": (0, 40, 56)}, "window must be three positive numbers"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"upsampling": 2}, "upsampling must be 1 or 4"),
        ({"stem_channels": (8, 16)}, "stem_channels must be 3 widths"),
        ({"prototypes": 5}, "prototypes needs residual_masks"),
        ({"stem_pyramid": False, "detail_channels": 8}, "detail_channels needs stem_pyramid"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TINY.network.replace(**changes)


@pytest.mark.parametrize("changes", [{"detail_channels": 0}, {"prompts": "boxes"}])
def test_residual_masks_need_embeddings_and_mask_prompts(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="residual_masks needs"):
        small_masksam_config(**{**RESIDUAL_MASKS, **changes})
