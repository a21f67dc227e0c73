"""nnU-Net itself as a system of a comparison, run through its own commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from MaskSAMCore.data.dataset import Case, open_dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import read_json, write_json
from MaskSAMCore.research.comparison.folder import Folder, read_record, write_record

if TYPE_CHECKING:
    from MaskSAMCore.research.comparison.stage import Job

_DATASET = "Dataset001_Compared"
_NUMBER = "1"
_CONFIGURATION = "3d_fullres"
_TRAINER = "MaskSAMBudgetTrainer"
_TRAINER_FOLDER = Path(__file__).parent / "nnunet_trainer"
# Last line of a traceback.
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
_REASON_LETTERS = 200
_MODEL = f"{_TRAINER}__nnUNetPlans__{_CONFIGURATION}"


def train(job: Job) -> None:
    """Plan, preprocess and train with nnU-Net's commands. A stopped training starts over.

    Raises:
        MaskSAMError: nnU-Net is not installed, or a command fails.
    """
    assert job.training is not None
    folder = Folder(job.folder)
    run = folder.run(job.training.name)
    find_program("nnUNetv2_train")
    dataset = open_dataset(job.dataset)
    shutil.rmtree(run, ignore_errors=True)
    split = read_record(job.split)
    raw = run / "raw" / _DATASET
    cases = dataset.select([*split["train"], *split["val"]])
    _place(cases, raw / "imagesTr", raw / "labelsTr")
    description = {
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": {"background": 0, **dict(zip(dataset.classes, dataset.values, strict=True))},
        "numTraining": len(cases),
        "file_ending": read_json(job.dataset / "dataset.json")["file_ending"],
    }
    write_json(raw / "dataset.json", description)
    for name in ("preprocessed", "results"):
        (run / name).mkdir()
    command = ["nnUNetv2_plan_and_preprocess", "-d", _NUMBER, "-c", _CONFIGURATION, "-np", "1"]
    _call(run, [*command, "--verify_dataset_integrity"])
    folds = [{"train": split["train"], "val": split["val"]}]
    write_json(run / "preprocessed" / _DATASET / "splits_final.json", folds)
    budget = {"MASKSAM_MINUTES": str(job.max_minutes)}
    if job.iterations is not None:
        budget = {"MASKSAM_ITERATIONS": str(job.iterations)}
    budget["nnUNet_n_proc_DA"] = str(job.workers)
    command = ["nnUNetv2_train", _NUMBER, _CONFIGURATION, "0", "-tr", _TRAINER]
    _call(run, [*command, "-device", job.device], budget)
    facts = read_json(run / "results" / _DATASET / _MODEL / "fold_0" / "masksam.json")
    write_record(folder.finished(job.training.name), facts)


def segment(job: Job) -> None:
    """Segment the cases with nnU-Net's command, including its mirrored passes, in one process.

    Raises:
        MaskSAMError: nnU-Net is not installed, or its command fails.
    """
    assert job.system is not None and job.training is not None
    folder, name = Folder(job.folder), job.system.name
    run = folder.run(job.training.name)
    images, found = run / "images", run / "predictions"
    for path in (images, found):
        shutil.rmtree(path, ignore_errors=True)
    _place(open_dataset(job.dataset).select(job.cases), images)
    start = time.monotonic()
    command = ["nnUNetv2_predict", "-i", str(images), "-o", str(found), "-d", _NUMBER]
    command += ["-c", _CONFIGURATION, "-f", "0", "-tr", _TRAINER, "-npp", "1", "-nps", "1"]
    _call(run, [*command, "-device", job.device])
    seconds = (time.monotonic() - start) / len(job.cases)
    ending = read_json(run / "raw" / _DATASET / "dataset.json")["file_ending"]
    predictions = folder.predictions(name)
    predictions.mkdir(parents=True, exist_ok=True)
    for case in job.cases:
        _write_labelmap(found / f"{case}{ending}", predictions / f"{case}.nii.gz")
    tunable = read_record(folder.finished(job.training.name))["tunable"]
    facts = {
        "tunable": tunable,
        "total": tunable,
        "seconds": dict.fromkeys(job.cases, seconds),
        "peak_memory": _peak_memory_of_children(),
        "device": job.device,
    }
    write_record(folder.facts(name), facts)


def find_program(name: str) -> str:
    """Return the path of one of nnU-Net's commands, on PATH or beside this Python.

    Raises:
        MaskSAMError: nnU-Net is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise MaskSAMError(
            f"nnU-Net is not installed ({name} is not on PATH): pip install nnunetv2 into an"
            " environment of its own, and add its folder of commands to PATH"
        )
    return found


def _place(cases: Sequence[Case], images: Path, labels: Path | None = None) -> None:
    """Copy images, and labelmaps if wanted, to folders in nnU-Net's layout."""
    images.mkdir(parents=True)
    for case in cases:
        for path in case.images:
            shutil.copyfile(path, images / path.name)
    if labels is not None:
        labels.mkdir(parents=True)
        for case in cases:
            shutil.copyfile(case.labelmap, labels / case.labelmap.name)


def _write_labelmap(source: Path, target: Path) -> None:
    """Copy a labelmap of nnU-Net to a NIfTI file."""
    if source.name.endswith(".nii.gz"):
        shutil.copyfile(source, target)
        return
    from MaskSAMCore.io import read_volume, write_labelmap

    volume = read_volume(source)
    write_labelmap(volume.array.astype("uint16"), volume, target, [], overwrite=True)


def _call(run: Path, command: list[str], more: dict[str, str] | None = None) -> None:
    """Run one of nnU-Net's commands with its output in ``log.txt``.

    Raises:
        MaskSAMError: nnU-Net is not installed, or the command fails.
    """
    program = find_program(command[0])
    environment = {
        **os.environ,
        "nnUNet_raw": str(run / "raw"),
        "nnUNet_preprocessed": str(run / "preprocessed"),
        "nnUNet_results": str(run / "results"),
        "nnUNet_extTrainer": str(_TRAINER_FOLDER),
        **(more or {}),
    }
    log = run / "log.txt"
    start = log.stat().st_size if log.is_file() else 0
    with (
        log.open("ab") as stream,
        subprocess.Popen(
            [program, *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise
    if status != 0:
        reason = _reason(log.read_bytes()[start:].decode("utf-8", "replace"))
        raise MaskSAMError(f"{command[0]} failed with status {status}: {reason} (see {log})")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and all processes that it has started."""
    if sys.platform == "win32":
        process.terminate()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def _reason(output: str) -> str:
    """Return the first error in the output of a command, else its last line."""
    lines = [line.strip() for line in output.split("\n") if line.strip()]
    # The first error ends nnU-Net's other processes, which then report further errors.
    errors = [line for line in lines if _ERROR.match(line)]
    return [*errors, *lines[-1:], "no output"][0][:_REASON_LETTERS]


def _peak_memory_of_children() -> float:
    """Return the peak memory in bytes of child processes that have ended, or 0 if unknown."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = float(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return peak if sys.platform == "darwin" else 1024 * peak
