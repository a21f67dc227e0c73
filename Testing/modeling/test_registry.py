"""Networks by name, and descriptions in saved files."""

from __future__ import annotations

import json
import sys

import pytest

from MaskSAMCore.modeling import MASamConfig, MaskSAMConfig, SamConfig, build_model, read_config
from MaskSAMCore.modeling.registry import build_limited, network_packages
from MaskSAMCore.research.unet.config import UNetConfig
from Testing.helpers.networks import small_masam_config, small_masksam_config

# "architecture" of a masksam.json written before SAM's own names were adopted.
FORMER = json.loads(
    """{
 "num_classes": 2, "in_channels": 1, "window": [16, 40, 56], "queries": 4,
 "sam": {
  "name": "vit_t", "patch": 4, "embed_dim": 192, "depth": 4, "heads": 6, "window": 3,
  "global_blocks": [0, 1, 2, 3], "prompt_dim": 128, "decoder_mlp_dim": 256, "decoder_heads": 4,
  "frozen": false
 },
 "stem_channels": [32, 64, 128], "upsampling": 1, "stem_pyramid": true, "detail_channels": 0,
 "prompts": "average", "mask_prompt": "logits", "generator_channels": [128, 64, 32],
 "head_channels": 128, "adapter_ratio": 0.25, "encoder_adapter": "depth_convolution",
 "decoder_adapter": "depth_mlp", "depth_position": true, "dense_decoder_position": false
}"""
)


def test_former_names_of_sams_numbers_in_masksam_are_read() -> None:
    config = read_config(FORMER)
    assert isinstance(config, MaskSAMConfig)
    assert config.window == (16, 40, 56) and config.stem_channels == (32, 64, 128)
    assert config.sam == SamConfig(
        "vit_t",
        patch_size=4,
        embed_dim=192,
        depth=4,
        num_heads=6,
        window_size=3,
        global_attn_indexes=(0, 1, 2, 3),
        prompt_dim=128,
        decoder_mlp_dim=256,
        decoder_heads=4,
        frozen=False,
    )
    sam = config.to_dict()["sam"]
    assert not {"patch", "heads", "window", "global_blocks"} & sam.keys()


def test_former_names_in_masam_are_read() -> None:
    values = {"network": "masam", "num_classes": 2, "sam": {**FORMER["sam"], "window": 0}}
    config = read_config(values)
    assert isinstance(config, MASamConfig)
    assert config.sam.window_size == 0 and config.sam.patch_size == 4


def test_a_description_names_its_network() -> None:
    for config in (small_masksam_config(), small_masam_config()):
        values = json.loads(json.dumps(config.to_dict()))
        assert values["network"] == config.kind and read_config(values) == config
        assert build_model(config).config == config


def test_an_unknown_network_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ValueError, match="unknown network 'mixer': choose one of masam, masksam"):
        read_config({**FORMER, "network": "mixer"})


@pytest.mark.parametrize("name", ["sam", "comparison", "layers", "masam.config", "..masam"])
def test_packages_without_a_network_are_not_networks(name: str) -> None:
    with pytest.raises(ValueError, match="unknown network"):
        read_config({**FORMER, "network": name})


def test_networks_of_research_are_left_out_where_research_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(network_packages()) == {
        "masam",
        "masksam",
        "promptable_sam",
        "prompted",
        "refined",
        "sam_baselines",
        "unet",
    }
    monkeypatch.setitem(sys.modules, "MaskSAMCore.research", None)
    assert set(network_packages()) == {"masam", "masksam", "prompted", "refined"}


def test_unknown_fields_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown MaskSAMConfig field\(s\): width"):
        read_config({**FORMER, "width": 3})
    with pytest.raises(ValueError, match=r"unknown SamConfig field\(s\): size"):
        read_config({**FORMER, "sam": {**FORMER["sam"], "size": 3}})
    with pytest.raises(ValueError, match=r"unknown MASamConfig field\(s\): width"):
        read_config({**small_masam_config().to_dict(), "width": 3})


def test_a_network_that_sets_its_parameters_again_is_built_within_the_limit_of_a_bundle() -> None:
    config = UNetConfig(num_classes=2, window=(16, 16, 16), features=8)
    values = sum(each.numel() for each in build_model(config).parameters())
    build_limited(config, 2 * values)
    with pytest.raises(ValueError, match=f"more than {values - 1} values"):
        build_limited(config, values - 1)
