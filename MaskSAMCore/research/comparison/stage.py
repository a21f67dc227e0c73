"""One stage of a comparison, in a process of its own: a training, or a system on all cases.

    python -m MaskSAMCore.research.comparison.stage JOB.json

A process of its own, so that one that fails, or is killed for want of memory, loses no other, and
so that its peak memory is its own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.research.comparison.folder import Folder, read_record, write_record
from MaskSAMCore.research.comparison.prompts import reference_boxes, slice_axis

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmenter


def train(job: dict[str, Any]) -> None:
    """Trains, or goes on with a training that was stopped."""
    from MaskSAMCore.training.fit import FitOptions, fit

    folder = Folder(Path(job["folder"]))
    name = str(job["training"]["name"])
    run = folder.run(name)
    run.parent.mkdir(parents=True, exist_ok=True)
    options = FitOptions(
        dataset=Path(job["dataset"]),
        run=run,
        preset=job["training"]["preset"],
        splits=folder.root / "split.json",
        max_minutes=job["max_minutes"],
        resume=(run / "run.json").exists(),
        device=job["device"],
        workers=job["workers"],
        seed=job["seed"],
        sam_checkpoint=None if job["sam_checkpoint"] is None else Path(job["sam_checkpoint"]),
    )
    orientation = job["orientation"]
    best = fit(options, _say, {} if orientation is None else {"orientation": orientation})
    write_record(folder.finished(name), {"best_validation_dice": best})


def segment(job: dict[str, Any]) -> None:
    """Segments the cases that were not segmented yet, and measures it."""
    from MaskSAMCore.data.dataset import open_dataset
    from MaskSAMCore.io import read_volume, write_labelmap

    folder = Folder(Path(job["folder"]))
    system = job["system"]
    dataset = open_dataset(Path(job["dataset"]))
    segmenter, facts = _load(folder, job)
    orientation = None if segmenter.plan is None else segmenter.plan.orientation
    path = folder.facts(system["name"])
    known = read_record(path)
    seconds: dict[str, float] = dict(known.get("seconds", {}))
    by_name = dict(zip(dataset.classes, dataset.values, strict=True))
    for number, case in enumerate(dataset.select(job["cases"]), start=1):
        target = folder.predictions(system["name"]) / f"{case.name}.nii.gz"
        if target.is_file() and case.name in seconds:
            continue
        volumes = [read_volume(image) for image in case.images]
        boxes = None
        if system["prompt"] != "none":
            reference = read_volume(case.labelmap)
            axis = slice_axis(reference, orientation)
            boxes = reference_boxes(
                reference, dataset.classes, dataset.values, system["prompt"], axis
            )
        start = time.monotonic()
        found = segmenter.segment(volumes, boxes=boxes) if boxes != [] else None
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
        _say(f"{system['name']}: {case.name}, {number} of {len(job['cases'])}")


def peak_memory(device: str) -> float:
    """Most bytes that this process held: of the GPU where it works on one, else resident; 0 where
    the system does not tell."""
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage's: that one remembers the process which started this one.
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024.0 * float(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0.0
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else 1024 * peak


def _load(folder: Folder, job: dict[str, Any]) -> tuple[Segmenter, dict[str, float]]:
    """The segmenter of a system, and how many parameters it has."""
    import torch

    from MaskSAMCore.inference import MaskSegmenter, SamSegmenter
    from MaskSAMCore.modeling import build_model
    from MaskSAMCore.models import open_model
    from MaskSAMCore.training.export import export_run

    system, device = job["system"], job["device"]
    if system["checkpoint"]:
        boxed = SamSegmenter.from_model(system["checkpoint"], device)
        return boxed, {"tunable": 0, "total": sum(p.numel() for p in boxed.model.parameters())}
    given = job["training"]["given"]
    name = str(job["training"]["name"])
    run = folder.run(name) if given is None else Path(given)
    export_run(run, folder.model(name), overwrite=True)
    bundle, installed = open_model(folder.model(name))
    file = job["sam_checkpoint"]
    sam_checkpoint = installed if file is None else Path(file)
    segmenter = MaskSegmenter.from_bundle(bundle, sam_checkpoint, device)
    with torch.device("meta"):
        model = build_model(bundle.config)
    tunable = sum(p.numel() for p in model.trained_parameters().values())
    return segmenter, {"tunable": tunable, "total": sum(p.numel() for p in model.parameters())}


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """Does a job; what went wrong is written beside it for the process that waits."""
    job_file = Path(arguments[0])
    job = read_record(job_file)
    try:
        (train if job["stage"] == "train" else segment)(job)
    except MaskSAMError as error:
        write_record(job_file.with_suffix(".error"), {"error": str(error)})
        return 2
    except MemoryError:
        write_record(job_file.with_suffix(".error"), {"error": "the memory ran out"})
        return 2
    except ImportError as error:
        told = f"training needs '{error.name}': pip install masksam[train]"
        write_record(job_file.with_suffix(".error"), {"error": told})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
