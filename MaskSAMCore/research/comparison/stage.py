"""One stage of a comparison: a training, or the segmentation of all cases by one system.

    python -m MaskSAMCore.research.comparison.stage JOB.json

Each stage runs in a separate process, so that a stage that fails or exhausts the memory does not
stop the others, and the peak memory of each stage can be measured.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.standard_streams import print_line
from MaskSAMCore.research.comparison import nnunet
from MaskSAMCore.research.comparison.folder import (
    Folder,
    made_by_others,
    read_record,
    weights_of,
    write_record,
)
from MaskSAMCore.research.comparison.prompts import reference_boxes, slice_axis
from MaskSAMCore.research.comparison.systems import System, Training

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmenter

# Signals that end a stage; Windows has fewer.
_STOPPING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@dataclass(frozen=True)
class Job:
    """Input of a stage.

    Attributes:
        stage: "train" or "segment".
        folder: the comparison's folder, or that of one of its seeds.
        dataset: the dataset's folder.
        split: JSON file with the training and validation cases.
        cache: folder of the preprocessed cases.
        cases: names of the cases to segment.
        device: "cpu", "cuda" or "mps".
        training: the training; None for a checkpoint.
        system: the system that segments; None for a training.
        max_minutes: time budget of the training; None for a budget of iterations.
        iterations: number of iterations of the training; None for a budget of time.
        settings: settings of the preset to change, "key=value".
        workers: processes that augment windows.
        seed: seed of the training.
        orientation: orientation of the plan, or None.
        sam_checkpoint: weights of a frozen SAM, or None.
    """

    stage: Literal["train", "segment"]
    folder: Path
    dataset: Path
    split: Path
    cache: Path
    cases: tuple[str, ...]
    device: str
    training: Training | None = None
    system: System | None = None
    max_minutes: float | None = 60.0
    iterations: int | None = None
    settings: tuple[str, ...] = ()
    workers: int = 1
    seed: int = 0
    orientation: str | None = None
    sam_checkpoint: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the job in plain types for JSON."""
        file = self.sam_checkpoint
        return {
            "stage": self.stage,
            "folder": str(self.folder),
            "dataset": str(self.dataset),
            "split": str(self.split),
            "cache": str(self.cache),
            "cases": list(self.cases),
            "device": self.device,
            "training": None if self.training is None else self.training.to_dict(),
            "system": None if self.system is None else asdict(self.system),
            "max_minutes": self.max_minutes,
            "iterations": self.iterations,
            "settings": list(self.settings),
            "workers": self.workers,
            "seed": self.seed,
            "orientation": self.orientation,
            "sam_checkpoint": None if file is None else str(file),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Build a job from the plain types of :meth:`to_dict`."""
        training, system, file = values["training"], values["system"], values["sam_checkpoint"]
        return cls(
            stage=values["stage"],
            folder=Path(values["folder"]),
            dataset=Path(values["dataset"]),
            split=Path(values["split"]),
            cache=Path(values["cache"]),
            cases=tuple(values["cases"]),
            device=values["device"],
            training=None if training is None else Training.from_dict(training),
            system=None if system is None else System(**system),
            max_minutes=values["max_minutes"],
            iterations=values["iterations"],
            settings=tuple(values["settings"]),
            workers=values["workers"],
            seed=values["seed"],
            orientation=values["orientation"],
            sam_checkpoint=None if file is None else Path(file),
        )


def train(job: Job) -> None:
    """Train, or continue a training that was stopped.

    Raises:
        MaskSAMError: the training fails, or a signal has stopped it before its budget was spent.
    """
    from MaskSAMCore.presets import find_preset
    from MaskSAMCore.training.checkpoint import is_stopped
    from MaskSAMCore.training.fit import FitOptions, fit
    from MaskSAMCore.training.overrides import change_preset

    assert job.training is not None
    settings = job.settings
    if job.iterations is not None:
        settings = (f"iterations={job.iterations}", *settings)
    folder = Folder(job.folder)
    run = folder.run(job.training.name)
    run.parent.mkdir(parents=True, exist_ok=True)
    options = FitOptions(
        dataset=job.dataset,
        run=run,
        preset=change_preset(find_preset(job.training.preset), settings),
        orientation=job.orientation,
        splits=job.split,
        max_minutes=job.max_minutes,
        resume=(run / "run.json").exists(),
        device=job.device,
        workers=job.workers,
        seed=job.seed,
        sam_checkpoint=job.sam_checkpoint,
        cache=job.cache,
    )
    best = fit(options, print_line)
    if is_stopped(run):
        raise MaskSAMError("its training was stopped: the same command continues it")
    write_record(folder.finished(job.training.name), {"best_validation_dice": best})


def segment(job: Job) -> None:
    """Segment the cases that are not segmented yet, and measure time and memory."""
    from MaskSAMCore.data.dataset import open_dataset
    from MaskSAMCore.io import read_volume, write_labelmap

    assert job.system is not None
    folder, system = Folder(job.folder), job.system
    dataset = open_dataset(job.dataset)
    segmenter, facts = _load(folder, job, system)
    orientation = None if segmenter.plan is None else segmenter.plan.orientation
    path = folder.facts(system.name)
    run = None if job.training is None else folder.run_of(job.training)
    known = read_record(path)
    if made_by_others(known, run):
        known = {}
    facts = {**facts, "weights": weights_of(run)}
    seconds: dict[str, float] = dict(known.get("seconds", {}))
    by_name = dict(zip(dataset.classes, dataset.values, strict=True))
    for number, case in enumerate(dataset.select(job.cases), start=1):
        target = folder.predictions(system.name) / f"{case.name}.nii.gz"
        if target.is_file() and case.name in seconds:
            continue
        volumes = [read_volume(image) for image in case.images]
        boxes = None
        if system.prompt != "none":
            reference = read_volume(case.labelmap)
            axis = slice_axis(reference, orientation)
            boxes = reference_boxes(reference, dataset.classes, dataset.values, system.prompt, axis)
        start = time.monotonic()
        found = None
        if boxes != []:
            found = segmenter.segment(volumes, boxes=boxes, tta=segmenter.tta)
        seconds[case.name] = time.monotonic() - start
        labelmap = volumes[0].array.astype("uint16") * 0
        if found is not None:
            for label in found.labels:
                labelmap[found.labelmap == label.value] = by_name[label.name]
        target.parent.mkdir(parents=True, exist_ok=True)
        write_labelmap(labelmap, volumes[0], target, list(segmenter.labels), overwrite=True)
        peak = max(float(known.get("peak_memory", 0)), peak_memory(segmenter.device.device.type))
        known = {**facts, "seconds": seconds, "peak_memory": peak, "device": str(segmenter.device)}
        write_record(path, known)
        print_line(f"{system.name}: {case.name}, {number} of {len(job.cases)}")


def peak_memory(device: str) -> float:
    """Return the peak memory of this process in bytes, or 0 if the system does not report it.

    Args:
        device: "cuda" for the GPU's memory; any other for resident memory.
    """
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():
        # The peak of getrusage would include the process that started this one.
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024.0 * float(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0.0
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else 1024 * peak


def _load(folder: Folder, job: Job, system: System) -> tuple[Segmenter, dict[str, Any]]:
    """Return the segmenter of a system, and its numbers of "tunable" and "total" parameters."""
    import torch

    from MaskSAMCore.inference import MaskSegmenter, SamSegmenter
    from MaskSAMCore.modeling import build_model
    from MaskSAMCore.models import open_model
    from MaskSAMCore.training.export import export_run

    if job.training is None:
        sam = SamSegmenter.from_model(system.checkpoint, job.device)
        return sam, {"tunable": 0, "total": sum(p.numel() for p in sam.model.parameters())}
    name = job.training.name
    export_run(folder.run_of(job.training), folder.model(name), overwrite=True)
    bundle, installed = open_model(folder.model(name))
    sam_checkpoint = job.sam_checkpoint or installed
    segmenter = MaskSegmenter.from_bundle(bundle, sam_checkpoint, job.device)
    with torch.device("meta"):
        model = build_model(bundle.config)
    tunable = sum(p.numel() for p in model.trained_parameters().values())
    return segmenter, {"tunable": tunable, "total": sum(p.numel() for p in model.parameters())}


def run_stage(job: Job) -> None:
    """Run a job, through nnU-Net's own commands if the system is nnU-Net."""
    if job.training is not None and job.training.is_nnunet:
        (nnunet.train if job.stage == "train" else nnunet.segment)(job)
    else:
        (train if job.stage == "train" else segment)(job)


def main(arguments: list[str]) -> int:
    """Run the job of a file and return the exit status; an error is written beside the file."""
    job_file = Path(arguments[0])
    try:
        job = Job.from_dict(read_record(job_file))
        run_stage(job)
    except MaskSAMError as error:
        problem = str(error)
    except MemoryError:
        problem = "the memory is exhausted"
    except ImportError as error:
        problem = f"training needs '{error.name}': pip install masksam[train]"
    except KeyboardInterrupt:
        return 130  # the parent process reports the interruption
    else:
        return 0
    write_record(job_file.with_suffix(".error"), {"error": problem})
    return 2


def _stop(*_: object) -> None:
    """Handle a signal, and ignore further ones, which must not interrupt the end of nnU-Net.

    Raises:
        KeyboardInterrupt: always.
    """
    for number in _STOPPING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in _STOPPING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is under nohup
            signal.signal(number, _stop)
    sys.exit(main(sys.argv[1:]))
