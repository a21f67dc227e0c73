"""Presets: each is complete, is read back from JSON, and has the figures of its paper."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import build_model, read_config
from MaskSAMCore.presets import all_presets, find_preset, preset_names
from MaskSAMCore.presets.masam import MASAM_B, MASAM_H, MASAM_TINY
from MaskSAMCore.presets.paper import ACDC, AMOS, SYNAPSE
from MaskSAMCore.presets.small import BRAIN, TINY
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.preset import PlanConstraints, Preset
from Testing.helpers.networks import small_masksam_config
from Testing.helpers.paths import ROOT


@pytest.mark.parametrize("preset", all_presets().values(), ids=lambda preset: preset.name)
def test_network_and_training_are_read_back_from_json(preset: Preset) -> None:
    network = json.loads(json.dumps(preset.network.to_dict()))
    assert read_config(network) == preset.network
    training = json.loads(json.dumps(preset.training.to_dict()))
    assert TrainSettings.from_dict(training, preset.network.kind) == preset.training


def test_an_unknown_preset_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(MaskSAMError, match="unknown preset 'mini': choose one of tiny, compact"):
        find_preset("mini")
    assert "unet, ablation_b1 to ablation_b9" in preset_names()


def test_presets_of_research_are_left_out_where_research_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "MaskSAMCore.research", None)
    assert "unet" not in all_presets() and find_preset("tiny") is TINY


@pytest.mark.parametrize(
    ("preset", "counts"),
    [
        (TINY, {1: 4, 2: 4, 3: 5, 5: 8}),
        (ACDC, {1: 8, 3: 8, 4: 8, 7: 11}),
        (SYNAPSE, {4: 8, 8: 24, 13: 20}),
        (AMOS, {4: 8, 15: 24, 16: 24}),
    ],
    ids=lambda value: value.name if isinstance(value, Preset) else "",
)
def test_the_number_of_queries_follows_the_number_of_classes(
    preset: Preset, counts: dict[int, int]
) -> None:
    def queries(classes: int) -> int:
        window = preset.network.window
        return preset.network.adapted(window, (1.0, 1.0, 1.0), classes, 1).queries

    assert {classes: queries(classes) for classes in counts} == counts
    # All classes and the background may lie in one slice.
    assert all(queries(classes) > classes for classes in range(1, 40))


def test_queries_chosen_by_the_user_are_kept() -> None:
    network = TINY.network.replace(queries=7)
    adapted = network.adapted((8, 40, 40), (1.0, 1.0, 1.0), 5, 1, chosen=("queries",))
    assert adapted.queries == 7


def optimizer(preset: Preset) -> torch.optim.Optimizer:
    model = build_model(small_masksam_config())
    return MaskSAMModule(model, preset.training, None, 0).configure_optimizers()


@pytest.mark.parametrize("preset", [ACDC, SYNAPSE], ids=["acdc", "synapse"])
def test_acdc_and_synapse_are_trained_by_sgd_as_in_the_paper(preset: Preset) -> None:
    found = optimizer(preset)
    assert isinstance(found, torch.optim.SGD)
    assert all(group["momentum"] == 0.99 and group["nesterov"] for group in found.param_groups)
    loss = preset.training.loss
    assert (loss.mask_bce, loss.mask_dice) == (1.5, 1.5)
    assert preset.training.learning_rate == 1e-3 and preset.training.weight_decay == 3e-5


@pytest.mark.parametrize(("preset", "epsilon"), [(AMOS, 1e-4), (TINY, 1e-6)], ids=["amos", "tiny"])
def test_amos_and_the_small_models_are_trained_by_adamw(preset: Preset, epsilon: float) -> None:
    found = optimizer(preset)
    assert isinstance(found, torch.optim.AdamW)
    assert {group["eps"] for group in found.param_groups} == {epsilon}


def test_the_training_of_the_paper_has_its_published_figures() -> None:
    for preset in (ACDC, SYNAPSE, AMOS):
        loss = preset.training.loss
        assert loss.classification == 0.2
        assert (loss.auxiliary_bce, loss.auxiliary_dice) == (0.5, 0.5)
        assert (loss.box_l1, loss.box_giou, loss.no_object) == (0.5, 0.2, 0.1)
        assert preset.training.clip == 12 and preset.training.schedule == "poly"
    assert TINY.training.loss.classification == 2.0
    assert (AMOS.training.loss.mask_bce, AMOS.training.loss.mask_dice) == (1.2, 1.2)
    assert (AMOS.training.learning_rate, AMOS.training.weight_decay) == (1e-3, 3e-5)
    assert ACDC.training.iterations == 250 * 500
    assert SYNAPSE.training.iterations == AMOS.training.iterations == 250 * 1000


def test_the_networks_of_masam_are_the_papers_and_a_small_one() -> None:
    for preset, sam in ((MASAM_B, "vit_b"), (MASAM_H, "vit_h")):
        assert preset.network.sam.name == sam and preset.network.sam.frozen
        assert preset.network.window == (5, 512, 512)
        assert preset.network.image_size == (512, 512)
    assert not MASAM_TINY.network.sam.frozen


PUBLISHED = [
    find_preset(name, "paper")
    for name in ("acdc", "synapse", "amos", "acdc_prompted", "synapse_prompted", "masam_b")
]


@pytest.mark.parametrize("preset", PUBLISHED, ids=lambda preset: preset.name)
def test_a_published_recipe_has_neither_averages_nor_our_augmentation(preset: Preset) -> None:
    training = preset.training
    assert preset.recipe == "paper" and find_preset(preset.name).recipe == "ours"
    assert (training.ema, training.decay_all) == (0.0, True)
    own = training.augmentation_kind == "masam"
    assert own == preset.name.startswith("masam") and (own or training.deformation == "nnunet")
    again = TrainSettings.from_dict(json.loads(json.dumps(training.to_dict())), preset.network.kind)
    assert again == training
    assert read_config(json.loads(json.dumps(preset.network.to_dict()))) == preset.network


def test_the_papers_recipe_is_equation_1_and_nothing_else() -> None:
    for name, mask in (("acdc", 1.5), ("synapse", 1.5), ("amos", 1.2)):
        ours, paper = find_preset(name), find_preset(name, "paper")
        loss = paper.training.loss
        assert (loss.semantic, loss.prompts.share, loss.each_window) == (0.0, 0.0, True)
        assert (loss.mask_bce, loss.mask_dice, loss.classification) == (mask, mask, 0.2)
        training = paper.training
        assert (training.epoch, training.batch, training.tta) == (250, 2, "mirror")
        assert training.mirror == (0, 1, 2) and training.beta2 == 0.999
        for field in ("optimizer", "learning_rate", "weight_decay", "iterations", "clip"):
            assert getattr(training, field) == getattr(ours.training, field)
        network = paper.network
        assert (network.mask_prompt, network.generator_grid) == ("binary", "window")
        assert network.stem_norms and network.dense_decoder_position
        assert not network.deep_supervision
        assert network.mask_upscaling == ("bilinear" if name == "acdc" else "learned")


@pytest.mark.parametrize(
    ("name", "recipe", "millions"),
    [
        ("acdc", "ours", 17.12),
        ("synapse", "ours", 64.26),
        ("amos", "ours", 64.20),
        ("acdc", "paper", 21.31),
        ("synapse", "paper", 66.32),
        ("amos", "paper", 66.92),
        ("acdc_prompted", "paper", 11.77),
        ("synapse_prompted", "paper", 55.29),
    ],
)
def test_the_documents_say_how_many_parameters_each_recipe_trains(
    name: str, recipe: str, millions: float
) -> None:
    with torch.device("meta"):
        model = build_model(find_preset(name, recipe).network)
    count = sum(p.numel() for p in model.trained_parameters().values())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)
    text = (ROOT / "Docs/training.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`, {recipe} |"))
    assert f"| {millions:.2f} M |" in row


def test_the_published_masam_has_a_global_batch_of_24_stacks_and_no_boxes() -> None:
    paper = find_preset("masam_h", "paper")
    assert paper.network.upscaling_norm and not MASAM_H.network.upscaling_norm
    training = paper.training
    assert (training.batch, training.clip, training.beta2, training.epsilon) == (24, 0, 0.999, 1e-8)
    assert (training.loss.box_share, training.loss.each_window) == (0.0, True)
    assert (training.learning_rate, training.weight_decay, training.exponent) == (8e-4, 0.1, 7.0)


def test_a_preset_without_a_publication_has_no_published_recipe() -> None:
    with pytest.raises(MaskSAMError, match="'tiny' has no published recipe: choose one of acdc,"):
        find_preset("tiny", "paper")


def test_plans_are_constrained_for_the_brain_and_for_abdominal_ct() -> None:
    assert BRAIN.plan == PlanConstraints(orientation="SAR", spacing=(2.0, 2.0, 2.0))
    for preset in (MASAM_TINY, MASAM_B, MASAM_H):
        assert preset.plan == PlanConstraints(ct_window=(-200.0, 250.0))
    assert TINY.plan == ACDC.plan == PlanConstraints()
