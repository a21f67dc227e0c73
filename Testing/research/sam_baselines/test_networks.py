"""Networks on SAM that the paper compares with: sizes, adapted parts, and trained parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from MaskSAMCore.modeling import build_model
from MaskSAMCore.presets import find_preset
from MaskSAMCore.research.presets import BASELINES, SMALL_BASELINES
from MaskSAMCore.research.sam_baselines.config import BaselineConfig
from MaskSAMCore.research.sam_baselines.loss import LossSettings, training_loss
from MaskSAMCore.research.sam_baselines.network import SamBaseline
from MaskSAMCore.training.preset import Preset
from Testing.helpers.networks import SMALL_SAM, class_box_prompts

NAMES = ("samed", "med_sa", "3dsam_adapter", "sam3d")
SIZES = {
    "samed": {"rank": 2},
    "med_sa": {"adapter_dim": 8},
    "3dsam_adapter": {"adapter_dim": 8, "token_slices": 2, "cube": 3, "channels": (8,)},
    "sam3d": {"channels": (16, 8, 8, 4)},
}


def small_config(name: str, **changes: object) -> BaselineConfig:
    """Return the configuration of a network that runs in milliseconds on a (5, 16, 20) window."""
    network = find_preset(name).network
    assert isinstance(network, BaselineConfig)
    values = {"num_classes": 2, "window": (5, 16, 20), "sam": SMALL_SAM, "pixels": None}
    return network.replace(**{**values, **SIZES[name], **changes})


def randomized(model: SamBaseline) -> SamBaseline:
    """Randomize the parameters that are zero before training, so that they have an effect."""
    for name, parameter in model.named_parameters():
        if not parameter.any() and "rel_pos" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "trained", "total"),
    [
        ("samed", 4.58, 638),
        ("med_sa", 13.0, 651),
        ("3dsam_adapter", 22.3, 114),
        ("sam3d", 1.88, 92),
    ],
)
def test_the_counts_are_those_of_the_documents(name: str, trained: float, total: float) -> None:
    """Docs/papers.md says by how much the counts differ from the paper's Table 6, and why."""
    with torch.device("meta"):
        model = build_model(find_preset(name).network)
    counts = [sum(p.numel() for p in model.trained_parameters().values())]
    counts += [sum(p.numel() for p in model.parameters())]
    assert counts[0] / 1e6 == pytest.approx(trained, rel=0.01)
    assert counts[1] / 1e6 == pytest.approx(total, rel=0.01)


def test_the_small_forms_have_the_scale_and_the_training_of_tiny() -> None:
    tiny = find_preset("tiny")
    for preset, small in zip(BASELINES, SMALL_BASELINES, strict=True):
        assert small.name == f"{preset.name}_tiny"
        assert small.network.window == tiny.network.window
        assert small.network.sam == tiny.network.sam  # type: ignore[attr-defined]
        assert small.training.replace(loss=tiny.training.loss) == tiny.training
        with torch.device("meta"):
            model = build_model(small.network)
        trained = sum(p.numel() for p in model.trained_parameters().values())
        assert 2.5e6 < trained < 6.5e6


@pytest.mark.parametrize("name", NAMES)
def test_logits_lie_on_the_windows_grid_and_every_trained_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    sam = replace(SMALL_SAM, frozen=True)
    model = randomized(build_model(small_config(name, sam=sam, in_channels=2)))
    images, labels = torch.randn(2, 2, 5, 16, 20), torch.randint(0, 3, (2, 5, 16, 20))
    stages = model.supervised_logits(images)
    assert stages[0].shape == (2, 3, 5, 16, 20)
    assert len(stages) == (3 if name == "sam3d" else 1)
    loss, parts = training_loss(model, images, labels, LossSettings())
    loss.backward()
    assert float(parts["dice"]) > 0 and float(parts["cross_entropy"]) > 0
    learning = {key for key, p in model.named_parameters() if p.grad is not None}
    trained = set(model.trained_parameters())
    assert learning == trained
    encoder = [key for key in trained if key.startswith("sam.image_encoder.")]
    assert all(".norm" in key for key in encoder) and bool(encoder) == (name == "3dsam_adapter")
    # Frozen weights come from the SAM checkpoint and are not saved again.
    kept = set(model.kept_names())
    assert trained <= kept
    assert len([key for key in kept if key.startswith("sam.image_encoder.")]) == len(encoder)


@pytest.mark.parametrize("name", ["samed", "med_sa", "sam3d"])
def test_before_training_the_encoder_is_sams(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(small_config(name)).eval()
    encoder = model.sam.image_encoder
    for key, parameter in encoder.named_parameters():
        if "rel_pos" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    slices = torch.randn(2, 5, 16, 20, 3)
    with torch.no_grad():
        ours = model.encoder(encoder, slices)
        theirs = encoder(slices.flatten(0, 1).permute(0, 3, 1, 2))
    torch.testing.assert_close(ours.flatten(0, 1).permute(0, 3, 1, 2), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "reached"),
    [("samed", [2]), ("med_sa", [0, 1, 2, 3, 4]), ("sam3d", [0, 1, 2, 3, 4])],
)
def test_a_changed_slice_reaches_the_slices_that_the_network_joins(
    name: str, reached: list[int]
) -> None:
    torch.manual_seed(0)
    model = randomized(build_model(small_config(name)))
    images = torch.randn(1, 1, 5, 16, 20)
    changed = images.clone()
    changed[:, :, 2] = torch.randn(16, 20)
    with torch.no_grad():
        moved = (model.encode(images) - model.encode(changed)).abs().amax((0, 1, 3, 4))
    assert (moved > 1e-6).nonzero()[:, 0].tolist() == reached


def test_boxes_clip_their_class() -> None:
    torch.manual_seed(0)
    model = build_model(small_config("samed")).eval()
    prompts = class_box_prompts(1, [0.25, 0.25, 0.75, 0.75], [1, 2])
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        free, held = (model.decode(embedding, p).semantic()[0] for p in (None, prompts))
    assert float(held[1, [0, 3, 4]].max()) == 0 and torch.equal(held[2], free[2])


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    images = torch.randn(1, 1, 5, 16, 20)
    gradients = []
    for active in (False, True):
        torch.manual_seed(0)
        model = randomized(build_model(small_config(name)))
        model.set_gradient_checkpointing(active)
        model.supervised_logits(images)[0].square().mean().backward()
        gradients.append([p.grad for p in model.trained_parameters().values()])
    for one, other in zip(*gradients, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "levels"}, "need each other"),
        ({"rank": 0}, "at least 1"),
        ({"decoder": "convolutions", "channels": (8,)}, "a level for each doubling"),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config("samed", **changes)


def test_every_baseline_is_a_preset() -> None:
    for preset in (*BASELINES, *SMALL_BASELINES):
        assert isinstance(preset, Preset) and find_preset(preset.name) == preset
