"""Replacement for ``MaskSAMCore.training.adapt`` in the known worker, with known results.

The folder name of the model to adapt selects the behaviour, see :func:`adapt`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.errors import Cancelled, CannotResume, MaskSAMError
from MaskSAMCore.models.unfinished import STATE, learning_folder

BEFORE = {"Anterior": 0.71, "Posterior": 0.802}
AFTER = {"Anterior": 0.845, "Posterior": 0.8}
# Seconds; no test waits this long.
_HANG_SECONDS = 600.0
# Dice at each validation.
DICE = (0.756, 0.79, 0.82)


@dataclass(frozen=True)
class AdaptOptions:
    """Options of the real ``AdaptOptions`` that the worker sets."""

    model: Path
    cases: Path
    output: Path
    name: str
    minutes: float
    device: str
    resume: bool


@dataclass(frozen=True)
class AdaptResult:
    """Result with the fields of the real ``AdaptResult``."""

    kept: bool
    before: Mapping[str, float]
    after: Mapping[str, float]
    held_out: tuple[str, ...]
    bundle: Path | None
    message: str


def adapt(
    options: AdaptOptions,
    progress: ProgressCallback,
    cancelled: CancelledCallback,
    on_validation: Callable[[float, float], None],
    report: Callable[[str], None],
) -> AdaptResult:
    """Return a better model at once, unless the name of the model selects another behaviour.

    "hanging" runs until it is cancelled, "crashing" crashes the process, "coarse" raises
    MaskSAMError, and "sided" finds no better model. A resumed run ignores the name. All cases are
    held out.
    """
    folder, behaviour = learning_folder(options.output), options.model.name
    if folder.is_dir() and not options.resume:
        shutil.rmtree(folder)
    going_on = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    cases = tuple(sorted(path.name.split(".")[0] for path in options.cases.glob("labelsTr/*")))
    if going_on and json.loads((folder / STATE).read_text()) != list(cases):
        raise CannotResume("the cases have changed: start anew without --resume")
    (folder / STATE).write_text(json.dumps(cases))
    report(f"priority {os.nice(0)}, {'going on' if going_on else 'anew'}, {options.minutes:g} min")
    progress("Learning", 0.25, 8.0)
    if going_on:
        behaviour = ""
    if behaviour == "hanging":
        while not cancelled():
            time.sleep(0.01)
        raise Cancelled
    if behaviour == "crashing":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(_HANG_SECONDS)  # another thread may get the signal first
    if behaviour == "coarse":
        raise MaskSAMError(f"the disk is full: free some space ({folder})")
    for number, dice in enumerate(DICE):
        on_validation(0.5 * number, dice)
    shutil.rmtree(folder)
    if behaviour == "sided":
        text = "'sided' is not better after learning: nothing was changed"
        return AdaptResult(False, BEFORE, BEFORE, cases, None, text)
    shutil.copytree(options.model, options.output)
    described = options.output / "masksam.json"
    values = json.loads(described.read_text())
    described.write_text(json.dumps({**values, "name": options.name, "title": "Learnt"}))
    text = f"'{options.name}' is better: Dice 0.823 instead of 0.756 on {len(cases)} case(s)"
    return AdaptResult(True, BEFORE, AFTER, cases, options.output, text)
