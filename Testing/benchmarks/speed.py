"""Times of this code and of another commit, measured alternately in one run.

    git worktree add ../before 8d1575a
    python -m Testing.benchmarks.speed ../before --dataset DATASET --case hippocampus_007

Each workload runs in a new process, alternately with the code of either folder. The table gives the
median, smallest and largest wall time, and the ratio of the medians. The machine should be idle.
`--workload NAME` measures only workloads whose name contains NAME; `--repetitions` is 5 by default.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from MaskSAMCore.inference.device import cpu_has_bfloat16
from Testing.helpers.paths import ROOT

# The command line as a program, because a folder of code has no command of its own.
SHELL = """
import sys
from MaskSAMCore.cli import main
sys.argv[0] = "masksam"
sys.exit(main())
"""
# The worker keeps freed memory, for which older code has no function.
KEEP = """
try:
    from MaskSAMCore.allocation import keep_freed_memory
    keep_freed_memory()
except ImportError:
    pass
"""
WARM = (
    KEEP
    + """
import json, statistics, sys, time
from MaskSAMCore import Segmenter, read_volume
segmenter = Segmenter.from_model("hippocampus", device="cpu")
volume = read_volume(sys.argv[1])
segmenter.segment(volume)
times = []
for _ in range(5):
    began = time.perf_counter()
    segmenter.segment(volume)
    times.append(time.perf_counter() - began)
print(json.dumps(statistics.median(times)))
"""
)
MOVED = (
    KEEP
    + """
import json, statistics, sys, time
from dataclasses import replace
from MaskSAMCore import Segmenter, read_volume
segmenter = Segmenter.from_model("brain", device="cpu")
times = []
with segmenter.open(read_volume(sys.argv[1])) as session:
    found = session.segment().instances
    box = next(each.box for each in found if each.name == "left hippocampus")
    for step in range(6):
        moved = replace(box, upper=tuple(edge + 1 + step for edge in box.upper))
        began = time.perf_counter()
        session.segment(boxes=[moved])
        times.append(time.perf_counter() - began)
print(json.dumps(statistics.median(times)))
"""
)
STEPS = (
    KEEP
    + """
import json, statistics, sys, time
import torch
from MaskSAMCore.inference.device import cpu_has_bfloat16
from MaskSAMCore.models import open_model
try:
    from MaskSAMCore.training.losses.masksam import LossSettings, generator_loss, training_loss
except ImportError:
    from MaskSAMCore.training.losses import LossSettings, generator_loss
    from MaskSAMCore.training.objective import training_loss
model = open_model(sys.argv[1])[0].build(None).train().requires_grad_(True)
alone, batch = sys.argv[2] == "generator", int(sys.argv[3])
torch.manual_seed(0)
window, classes = model.config.window, model.config.num_classes
images = torch.randn(batch, 1, *window)
labels = torch.randint(0, classes + 1, (batch, 1, 4, 4, 4)).float()
labels = torch.nn.functional.interpolate(labels, window).long()[:, 0]
settings, rng = LossSettings(), torch.Generator().manual_seed(0)
optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
times = []
for _ in range(5):
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        if alone:
            loss, _ = generator_loss(model, images, labels, settings)
        else:
            loss, _ = training_loss(model, images, labels, settings, rng)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - began)
print(json.dumps(statistics.median(times[1:])))
"""
)


def run(code: Path, program: str, arguments: list[str]) -> tuple[float, float]:
    """Run a program with the code of a folder.

    Returns:
        Seconds, those that the program prints or else those of the process, and the peak of its
        memory in GiB.
    """
    report = [sys.executable, "-c", _MEASURE, program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(report, env=environment, cwd=code, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{code}: {done.stderr.strip().splitlines()[-1]}")
    values = json.loads(done.stdout.splitlines()[-1])
    return values["seconds"], values["gib"]


# Runs a program in a child process, so that the peak of its memory can be read.
_MEASURE = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(
    [sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
)
seconds = time.perf_counter() - began
sys.stderr.write(done.stderr)
if done.returncode:
    sys.exit(done.returncode)
try:
    seconds = float(done.stdout.splitlines()[-1])
except (IndexError, ValueError):
    pass
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
print(json.dumps({"seconds": seconds, "gib": peak}))
"""


def workloads(dataset: Path, case: str, folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Return the program and its arguments for each workload.

    Args:
        dataset: hippocampus dataset in nnU-Net's format.
        case: name of a case in it.
        folder: folder for inputs and outputs.
    """
    import numpy as np
    from nilearn.datasets.struct import MNI152_FILE_PATH

    from MaskSAMCore import Volume
    from MaskSAMCore.io import write_volume

    cube = folder / "cube.nii.gz"
    noise = np.random.default_rng(0).normal(500, 100, (32, 32, 32)).astype(np.float32)
    write_volume(Volume(noise, np.eye(4)), cube)
    head, image = str(MNI152_FILE_PATH), str(dataset / "imagesTr" / f"{case}_0000.nii.gz")
    to_file = ["-o", str(folder / "out.nii.gz"), "--overwrite", "--device", "cpu", "-m"]
    return {
        "predict --help": (SHELL, ["predict", "--help"]),
        "predict a 32-cube": (SHELL, ["predict", str(cube), *to_file, "hippocampus"]),
        "predict the MNI152 head": (SHELL, ["predict", head, *to_file, "brain"]),
        "a hippocampus volume, warm": (WARM, [image]),
        "a moved box on the head": (MOVED, [head]),
        "a training step of tiny": (STEPS, ["hippocampus", "all", "2"]),
        "a training step of brain": (STEPS, ["brain", "all", "1"]),
        "a step of brain's generator": (STEPS, ["brain", "generator", "1"]),
    }


def main() -> None:
    """Measure the workloads and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="folder with the code of the other commit")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--case", default="hippocampus_007")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--workload", action="append", help="name, or a part of it")
    options = parser.parse_args()
    units = "with" if cpu_has_bfloat16() else "without"
    print(f"{_processor()}, {torch.get_num_threads()} threads, {units} bfloat16 units")
    print("\n| workload | before | now | ratio | memory before, now |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        chosen = workloads(options.dataset, options.case, Path(folder))
        for name, (program, arguments) in chosen.items():
            if options.workload and not any(part in name for part in options.workload):
                continue
            results: dict[Path, list[tuple[float, float]]] = {options.before: [], ROOT: []}
            for _ in range(options.repetitions):
                for code, measured in results.items():
                    measured.append(run(code.resolve(), program, arguments))
            _print_row(name, results[options.before], results[ROOT])


def _print_row(
    name: str, before: list[tuple[float, float]], now: list[tuple[float, float]]
) -> None:
    cells, memory, medians = [], [], []
    for measured in (before, now):
        seconds = [each[0] for each in measured]
        medians.append(statistics.median(seconds))
        cells.append(f"{medians[-1]:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
        memory.append(f"{max(each[1] for each in measured):.2f}")
    ratio = f"{medians[0] / medians[1]:.2f}"
    print(f"| {name} | {cells[0]} | {cells[1]} | {ratio} | {', '.join(memory)} GiB |", flush=True)


def _processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
