"""SAMs with the parameters of the official models, and the alias of segment-anything."""

from __future__ import annotations

import sys

import pytest
import torch

from MaskSAMCore.modeling import SAM_CONFIGS
from MaskSAMCore.modeling.sam.build import build_sam
from MaskSAMCore.modeling.sam.package import segment_anything


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_are_those_of_the_official_models(name: str) -> None:
    with torch.device("meta"):
        official = getattr(segment_anything("build_sam"), f"build_sam_{name}")()
        ours = build_sam(SAM_CONFIGS[name], (64, 64))
    expected = {key: value.shape for key, value in official.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    parameters = {key: value.shape for key, value in official.named_parameters()}
    assert {key: value.shape for key, value in ours.named_parameters()} == parameters


def test_the_alias_does_not_import_the_package_itself() -> None:
    before = "segment_anything" in sys.modules
    assert segment_anything("modeling.common").MLPBlock.__module__.startswith("MaskSAMCore")
    assert ("segment_anything" in sys.modules) == before


def test_the_small_sam_is_trained_and_the_official_ones_are_frozen() -> None:
    assert not SAM_CONFIGS["vit_t"].frozen
    assert all(SAM_CONFIGS[name].frozen for name in ("vit_b", "vit_l", "vit_h"))
