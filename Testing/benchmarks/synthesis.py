"""Processor seconds and memory of training from labelmaps: synthesis, and a step of a preset.

    python -m Testing.benchmarks.synthesis DATASET --targets Docs/brain/labels.json

Processor seconds of one thread change little with other load on the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

from MaskSAMCore.data.dataset import examine_dataset, load_cases
from MaskSAMCore.data.planning import case_fingerprint, make_plan
from MaskSAMCore.data.synthesis.windows import IndexedLabelmap, SynthesizedWindows
from MaskSAMCore.modeling import build_model
from MaskSAMCore.presets import find_preset
from MaskSAMCore.training.devices import precision
from MaskSAMCore.training.losses.masksam import training_loss
from Testing.benchmarks.peak_memory import peak_bytes


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the mean processor seconds of a function; a first run is not measured."""
    work()
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def main() -> None:
    """Print a line for synthesis and one for training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--targets", type=Path)
    parser.add_argument("--preset", default="brain")
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset, _ = examine_dataset(options.dataset, options.targets)
    assert dataset.scheme is not None
    (case,) = load_cases(dataset, [dataset.cases[0].name])
    preset = find_preset(options.preset)
    config = preset.network.replace(num_classes=len(dataset.classes))
    settings = preset.training
    prints = [case_fingerprint(case.channels, case.labelmap, 0)]
    plan = make_plan(
        prints,
        dataset.channels,
        config.token_voxels,
        config.window,
        preset.plan.orientation,
        preset.plan.spacing,
    )
    sources = [IndexedLabelmap.from_case(case, dataset.scheme, plan.orientation)]
    windows = iter(SynthesizedWindows(sources, dataset.scheme, plan, settings.foreground_share, 0))
    one = seconds(lambda: next(windows), 4 * options.repeats)
    voxels = plan.window[0] * plan.window[1] * plan.window[2]
    print(f"window {plan.window} at {plan.spacing} mm")
    print(f"synthesis: {one:.3f} s a window, {voxels / one:,.0f} voxels a second")
    model = build_model(config.replace(window=plan.window)).train()
    batch = [torch.stack(part) for part in zip(*islice(windows, settings.batch), strict=True)]
    optimizer = torch.optim.AdamW(model.trained_parameters().values(), 1e-4)
    bf16 = precision("cpu") == "bf16-mixed"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = training_loss(model, batch[0], batch[1], settings.loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    each = seconds(step, options.repeats)
    voxels *= settings.batch
    print(f"training: {each:.2f} s a step, {voxels / each:,.0f} voxels a second")
    print(f"peak memory {peak_bytes() / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
