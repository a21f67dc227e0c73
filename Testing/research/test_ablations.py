"""Ablations B1 to B9 differ from each other only as Table 4 says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from MaskSAMCore.modeling import MaskSAM, build_model
from MaskSAMCore.modeling.masksam.adapters import DMLPAdapter, build_adapter
from MaskSAMCore.presets import find_preset
from MaskSAMCore.research.ablations import ablations
from Testing.helpers.networks import randomize_adapters, small_masksam_config

# Presets that the ablations change, by the prefix of the ablations' names.
ABLATED = {"ablation": "tiny", "acdc_ablation": "acdc"}
ADAPTERS = {"encoder_adapter", "decoder_adapter"}
# Fields that change from one line of Table 4 to another.
STEPS = {
    ("b1", "b2"): {"prompts"},
    ("b2", "b3"): {"prompts"},
    ("b3", "b4"): {"prompts"},
    ("b4", "b5"): {"depth_position"},
    ("b5", "b6"): ADAPTERS,
    ("b5", "b7"): ADAPTERS,
    ("b5", "b8"): ADAPTERS,
    ("b8", "b9"): {"encoder_adapter"},
}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all trained parameters by name."""
    with torch.device("meta"):
        model = build_model(find_preset(name).network)
    return {key: tuple(p.shape) for key, p in model.trained_parameters().items()}


@pytest.mark.parametrize("prefix", ABLATED)
@pytest.mark.parametrize(("before", "after"), STEPS)
def test_an_ablation_changes_only_the_fields_of_table_4(
    prefix: str, before: str, after: str
) -> None:
    one = find_preset(f"{prefix}_{before}").network.to_dict()
    other = find_preset(f"{prefix}_{after}").network.to_dict()
    assert {key for key in one if one[key] != other[key]} == STEPS[before, after]
    assert find_preset(f"{prefix}_{before}").training == find_preset(f"{prefix}_{after}").training


@pytest.mark.parametrize("prefix", ABLATED)
def test_the_last_ablation_is_the_whole_network(prefix: str) -> None:
    assert find_preset(f"{prefix}_b9").network == find_preset(ABLATED[prefix]).network
    assert find_preset(f"{prefix}_b9").training == find_preset(ABLATED[prefix]).training


@pytest.mark.parametrize("prefix", ABLATED)
def test_parameters_change_only_with_their_parts(prefix: str) -> None:
    found = {f"b{n}": shapes(f"{prefix}_b{n}") for n in range(1, 10)}
    # The form of the generator changes only the inputs of the prompt encoder.
    assert found["b1"] == found["b2"] == found["b3"] == found["b4"]
    positions = {"encoder.depth_position", "decoder.depth_position"}
    assert set(found["b5"]) - set(found["b4"]) == positions
    added = set(found["b6"]) - set(found["b5"])
    assert {key.split(".")[-2] for key in added} == {"expand", "contract"}
    adapters = {key.rsplit(".", 2)[0] for key in found["b5"] if ".down." in key}
    assert {key.rsplit(".", 2)[0] for key in added} == adapters
    # A depth MLP acts on T alone, so that its size does not depend on its position.
    assert found["b6"] == found["b7"] == found["b8"]
    changed = {key.rsplit(".", 2)[0] for key in set(found["b8"]) ^ set(found["b9"])}
    images = {"encoder.after_attention", "encoder.beside_mlp", "decoder.after_image_to_token"}
    assert {key.rsplit(".", 1)[0] for key in changed} == images
    common = set(found["b8"]) & set(found["b9"])
    assert all(found["b8"][key] == found["b9"][key] for key in common)


def test_the_depth_mlp_is_before_in_or_after_the_bottleneck() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 32)
    for kind in ("depth_mlp_before", "depth_mlp", "depth_mlp_after"):
        adapter = build_adapter(kind, 32, 5, 0.25)  # type: ignore[arg-type]
        assert isinstance(adapter, DMLPAdapter)
        assert torch.equal(adapter(x), torch.zeros_like(x))
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=0.5)

        def mixed(y: torch.Tensor, adapter: DMLPAdapter = adapter) -> torch.Tensor:
            inner = F.gelu(adapter.expand(y.transpose(1, -1)))
            return y + adapter.contract(inner).transpose(1, -1)

        start = mixed(x) if kind == "depth_mlp_before" else x
        hidden = F.gelu(adapter.down(start))
        hidden = mixed(hidden) if kind == "depth_mlp" else hidden
        expected = adapter.up(hidden)
        expected = mixed(expected) if kind == "depth_mlp_after" else expected
        torch.testing.assert_close(adapter(x), expected)


@pytest.mark.parametrize("name", [f"b{n}" for n in range(1, 10)])
def test_every_ablation_predicts_and_trains(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ablations(small_masksam_config())[name])
    assert isinstance(model, MaskSAM)
    randomize_adapters(model)
    prediction = model(torch.randn(1, 1, 5, 16, 20))
    (prediction.semantic().mean() + prediction.boxes.mean()).backward()
    adapters = [key for key in model.trained_parameters() if ".down." in key]
    assert adapters
    gradients = [dict(model.named_parameters())[key].grad for key in adapters]
    assert all(g is not None and float(g.abs().max()) > 0 for g in gradients)
