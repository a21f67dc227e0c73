"""Costs derived without computing values, compared with those of a computed step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from MaskSAMCore.cli import main
from MaskSAMCore.data.case_cache import CaseCache
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import NetworkConfig, build_model
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.research.unet.loss import LossSettings as UNetLossSettings
from MaskSAMCore.training import cost_plan
from MaskSAMCore.training.cost import StepCost, fixed_bytes, step_cost
from MaskSAMCore.training.cost_plan import CostPlan, fit_line, plan_lines
from MaskSAMCore.training.data import prepare_training_data
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses import find_loss
from MaskSAMCore.training.losses.masam import LossSettings as MASamLossSettings
from MaskSAMCore.training.losses.masksam import LossSettings
from MaskSAMCore.training.losses.prompting import PromptSettings
from MaskSAMCore.training.preset import PlanConstraints
from Testing.helpers.generated import write_dataset
from Testing.helpers.networks import small_masam_config, small_masksam_config

GIB = 2**30
SMALL_UNET = UNetConfig(
    window=(8, 32, 32),
    num_classes=2,
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    kernels=((3, 3, 3),) * 3,
    features=8,
)


def computed_step(config: NetworkConfig, loss: object, batch: int) -> Callable[[], None]:
    """Return a function that computes a step of a network on windows with all classes."""
    torch.manual_seed(0)
    model = build_model(config)
    images = torch.randn(batch, 1, *config.window)
    labels = torch.randint(0, config.num_classes + 1, (batch, *config.window))

    def step() -> None:
        find_loss(config.kind).training_loss(model, images, labels, loss)[0].backward()

    return step


def allocated_peak(step: Callable[[], None], folder: Path) -> int:
    """Return the peak bytes that a step allocates, as counted by PyTorch's allocator."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    memory = [event["args"] for event in events if event["name"] == "[memory]"]
    totals = [int(values["Total Allocated"]) for values in memory]
    return max(totals) - (totals[0] - int(memory[0]["Bytes"]))


@pytest.mark.parametrize(
    ("config", "loss"),
    [
        pytest.param(
            small_masksam_config(queries=8, generator_channels=(32, 32, 32)),
            LossSettings(prompts=PromptSettings(share=0.0)),
            id="masksam",
        ),
        pytest.param(small_masam_config(), MASamLossSettings(box_share=0.0), id="masam"),
        pytest.param(SMALL_UNET, UNetLossSettings(), id="unet"),
    ],
)
def test_the_derived_cost_of_a_step_is_that_of_the_computed_one(
    config: NetworkConfig, loss: LossSettings, tmp_path: Path
) -> None:
    settings = TrainSettings(loss=loss)
    derived = step_cost(config, settings, 2, device="cpu", half=False)
    with FlopCounterMode(display=False) as counter:
        computed_step(config, loss, 2)()
    assert derived.operations == counter.get_total_flops()
    measured = allocated_peak(computed_step(config, loss, 2), tmp_path)
    assert derived.activations == pytest.approx(measured, rel=0.15)


def test_gradient_checkpointing_saves_memory_and_costs_operations() -> None:
    config = small_masksam_config(window=(5, 32, 40), queries=8)
    settings = TrainSettings()
    kept, again = (step_cost(config, settings, 1, active) for active in (False, True))
    assert again.activations < 0.8 * kept.activations
    assert kept.operations < again.operations < 1.5 * kept.operations
    full = step_cost(config, settings, 1, half=False)
    assert full.operations == kept.operations and full.activations > kept.activations


def test_a_decoder_that_is_trained_alone_costs_less() -> None:
    config = small_masksam_config(window=(2, 16, 16), queries=4)
    everything, alone = TrainSettings(), TrainSettings(decoder_alone=True)
    assert fixed_bytes(config, alone) < fixed_bytes(config, everything)
    whole, less = (step_cost(config, each, 1, half=False) for each in (everything, alone))
    assert less.activations < 0.9 * whole.activations
    assert less.operations < 0.9 * whole.operations


PLAN = CostPlan(
    trained=21_000_000,
    fixed=GIB,
    batch=4,
    iterations=3600,
    one=(StepCost(10 * GIB, 10**12), StepCost(4 * GIB, 2 * 10**12)),
    two=(StepCost(20 * GIB, 2 * 10**12), StepCost(7 * GIB, 4 * 10**12)),
)


def test_the_plan_is_a_table_of_memory_operations_and_hours() -> None:
    lines = list(plan_lines(PLAN, 4e12))
    assert lines[0] == "21.00 M trained parameters; a step has 4 windows"
    assert "| 1 | 10.0 | 4.0 |" in lines and "| 4 | 40.0 | 13.0 |" in lines
    assert "4.0 TFLOP a step, 3600 steps: 1 hours at 4 TFLOP/s" in lines
    assert any(line.startswith("8.0 TFLOP a step with --gradient-checkpointing") for line in lines)


@pytest.mark.parametrize(
    ("gib", "processes", "options"),
    [
        (80, 1, "4 window(s) at a time fit, without further options"),
        (24, 1, "2 window(s) at a time fit, --accumulate 2"),
        (24, 2, "2 window(s) at a time fit, --devices 2"),
        (24, 4, "1 window(s) at a time fit, --devices 4"),
        (10, 1, "2 window(s) at a time fit, --accumulate 2 --gradient-checkpointing"),
        (6, 2, "1 window(s) at a time fit, --devices 2 --accumulate 2 --gradient-checkpointing"),
    ],
)
def test_the_plan_names_the_options_that_fit_the_device(
    gib: int, processes: int, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_plan, "device_memory", lambda _: gib * GIB)
    assert fit_line(PLAN, "cpu", processes).endswith(options)


def test_each_device_computes_equal_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_plan, "device_memory", lambda _: 48 * GIB)
    # Four windows would fit at a time, but each device's six are divided into two parts of three.
    line = fit_line(replace(PLAN, batch=12), "cpu", 2)
    assert line.endswith("3 window(s) at a time fit, --devices 2 --accumulate 2")
    with pytest.raises(MaskSAMError, match="a step of 4 windows cannot be divided among 3 device"):
        fit_line(PLAN, "cpu", 3)


def test_the_plan_says_so_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_plan, "device_memory", lambda _: 4 * GIB)
    with pytest.raises(MaskSAMError, match=r"nothing fits cpu with 4 GiB: one window .* 6 GiB"):
        fit_line(PLAN, "cpu", 1)


def test_the_plan_says_so_where_the_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no sysconf."""
    monkeypatch.delattr("os.sysconf")
    assert "memory of this computer is unknown" in fit_line(PLAN, "cpu", 1)


def test_the_shell_prints_a_plan_without_a_dataset_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost_plan, "plan_costs", lambda *_: PLAN)
    monkeypatch.setattr(cost_plan, "device_memory", lambda _: 4 * GIB)
    assert main(["train", "--preset", "acdc", "--recipe", "paper", "--plan"]) == 2
    found = capfd.readouterr()
    assert "acdc, recipe paper, on a GPU with bfloat16:" in found.out
    assert found.err.startswith("masksam: error: nothing fits") and not list(tmp_path.iterdir())


def test_a_plan_with_a_dataset_has_the_grid_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "data", 5)
    planned: list[NetworkConfig] = []

    def costs(config: NetworkConfig, *_: object) -> CostPlan:
        planned.append(config)
        return PLAN

    monkeypatch.setattr(cost_plan, "plan_costs", costs)
    monkeypatch.setattr(cost_plan, "device_memory", lambda _: 80 * GIB)
    for more, spacing in (([], None), (["--spacing", "2,2,2"], (2.0, 2.0, 2.0))):
        assert main(["train", str(dataset), "--preset", "tiny", "--plan", *more]) == 0
        title = capfd.readouterr().out.splitlines()[0]
        preset = replace(TINY, plan=PlanConstraints(spacing=spacing))
        cache = CaseCache(tmp_path / "cache")
        data = prepare_training_data(dataset, None, preset, lambda _: None, cache)
        assert planned[-1] == data.config
        voxels = " x ".join(map(str, data.plan.window))
        mm = " x ".join(f"{size:g}" for size in data.plan.spacing)
        assert f"windows of {voxels} voxels of {mm} mm ({data.plan.orientation})" in title
    # Larger voxels make the window smaller in voxels.
    assert planned[-1].window != planned[0].window
