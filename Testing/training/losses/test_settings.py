"""Loss settings of each network, and of older runs, in which all networks shared them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses import find_loss, masam, masksam, read_loss_settings
from MaskSAMCore.training.losses.prompting import PromptSettings

# "settings" of a run.json as it was written while all networks had the same loss settings.
FORMER = json.loads(
    """{
 "optimizer": "adamw", "epsilon": 1e-06, "learning_rate": 0.002, "weight_decay": 0.05,
 "schedule": "cosine", "exponent": 0.9, "warm_up": 200, "iterations": 60000, "batch": 1,
 "clip": 5.0, "ema": 0.998, "foreground_share": 0.8, "augmentation": 1.0, "contrast": 0.0,
 "mirror": [0, 2], "generator_first": 0.7, "common_contrasts": 0.5, "contrast_ramp": 0.25,
 "loss": {
  "weights": {
   "classification": 2.5, "mask_bce": 1.6, "mask_dice": 1.7, "auxiliary_bce": 0.4,
   "auxiliary_dice": 0.6, "box_l1": 0.3, "box_giou": 0.1, "no_object": 0.2, "semantic": 0.9,
   "cross_entropy": 0.3, "dice": 0.7
  },
  "prompts": {"share": 0.3, "loose": 0.45, "drop_mask": 0.35, "jitter": 0.05},
  "affinity": 4.0,
  "rarity": 0.0
 }
}"""
)


def former_loss(kind: str) -> Any:
    return TrainSettings.from_dict(FORMER, kind).loss


def test_former_settings_of_masksam_keep_all_but_the_other_networks_weights() -> None:
    settings = TrainSettings.from_dict(FORMER)
    assert settings.loss == masksam.LossSettings(
        classification=2.5,
        mask_bce=1.6,
        mask_dice=1.7,
        auxiliary_bce=0.4,
        auxiliary_dice=0.6,
        box_l1=0.3,
        box_giou=0.1,
        no_object=0.2,
        semantic=0.9,
        affinity=4.0,
        rarity=0.0,
        prompts=PromptSettings(share=0.3, loose=0.45, drop_mask=0.35, jitter=0.05),
    )
    assert settings.mirror == (0, 2) and settings.warm_up == 200
    assert (settings.generator_first, settings.contrast_ramp) == (0.7, 0.25)


def test_former_settings_of_masam_become_its_weights_and_boxes() -> None:
    assert former_loss("masam") == masam.LossSettings(
        cross_entropy=0.3, dice=0.7, box_share=0.3, box_jitter=0.05
    )


def test_former_settings_of_the_unet_become_its_weights() -> None:
    assert former_loss("unet") == find_loss("unet").LossSettings(cross_entropy=0.3, dice=0.7)


def test_former_settings_without_the_newer_keys_get_the_defaults() -> None:
    loss = {key: FORMER["loss"][key] for key in ("weights", "prompts")}
    settings = read_loss_settings(loss, "masksam")
    assert (settings.affinity, settings.rarity) == (0.0, 0.5)


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown TrainSettings field\(s\): speed"):
        TrainSettings.from_dict({**FORMER, "speed": 1})
    with pytest.raises(ValueError, match=r"unknown LossSettings field\(s\): queries"):
        read_loss_settings({"cross_entropy": 1.0, "queries": 3}, "masam")
    with pytest.raises(ValueError, match="unknown network 'mixer'"):
        read_loss_settings({}, "mixer")
