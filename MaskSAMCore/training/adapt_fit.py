"""Training of a refiner on corrected cases."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from MaskSAMCore.data.case_cache import StoredArrays
from MaskSAMCore.data.window_numbers import WindowNumbers
from MaskSAMCore.data.windows import CachedCase, WindowDataset
from MaskSAMCore.errors import Cancelled
from MaskSAMCore.modeling import MaskSAM
from MaskSAMCore.modeling.masksam.inheritance import inherited_network
from MaskSAMCore.modeling.masksam.network import set_trained_parts
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.adapt_preparation import minutes_left
from MaskSAMCore.training.adapt_task import AdaptationState, Task
from MaskSAMCore.training.callbacks import (
    Budget,
    ProgressLogger,
    ResumableCheckpoints,
    Validation,
)
from MaskSAMCore.training.checkpoint import checkpoint_path, next_restart, resumed_checkpoint
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.masksam import LossSettings
from MaskSAMCore.training.losses.prompting import PromptSettings
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.run_folder import CASES
from MaskSAMCore.training.trainer import build_trainer, interruptible
from MaskSAMCore.training.validation import Evaluator, Scores

_CHECKPOINT_SECONDS, _REPORT_SECONDS, _VALIDATION_MINUTES = 30.0, 15.0, 0.5
# Hyperparameters of every adaptation.
SETTINGS = TrainSettings(
    learning_rate=1e-3,
    warm_up=20,
    batch=2,
    clip=5.0,
    ema=0.99,
    foreground_share=0.9,
    loss=LossSettings(prompts=PromptSettings(share=0.2, jitter=0.05), affinity=4.0),
)

# Arguments: minutes since the start, mean Dice of the held-out cases.
ValidationCallback = Callable[[float, float], None]


class CorrectedWindows(WindowDataset):
    """Random augmented windows, in which the label of voxels of unknown class is -1.

    Args:
        classes: number K of corrected classes; voxels of unknown class have the value K + 1 in the
            labelmap of a case.
        arguments: arguments of :class:`WindowDataset`.
    """

    def __init__(self, classes: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.classes = classes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 (C, T, H, W), with their classes, int64 (T, H, W), -1 for unknown
        ones."""
        for image, labels in super().__iter__():
            yield image, labels.masked_fill(labels > self.classes, -1)


class Watch(Callback):
    """Callback that reports the progress and ends the training when the user cancels."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._on_sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Restore the former handler of SIGTERM, because Lightning's abandons the step."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and self._on_sigterm is not None:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Report, and stop if the user has cancelled."""
        if self.clock.is_cancelled():
            module.stopped = True
            trainer.should_stop = True
            return
        self.clock.show("Learning")


@dataclass
class ValidationReport:
    """Receiver of validation scores that passes the mean Dice to a callback."""

    clock: Clock
    on_validation: ValidationCallback | None

    def save(self, module: MaskSAMModule, scores: Scores, best: bool) -> None:
        """Pass on the mean Dice of the held-out cases."""
        if self.on_validation is not None:
            self.on_validation(self.clock.seconds / 60, scores.mean)


def held_out_evaluator(task: Task, state: AdaptationState, folder: Path) -> Evaluator:
    """Return the evaluator of the held-out cases, each with the classes that are checked in it.

    Args:
        task: model and corrected cases.
        state: state of the adaptation.
        folder: folder of the prepared cases.
    """
    cases = [CachedCase(StoredArrays(folder / name), True) for name in state.held_out]
    indices = {name: index for index, name in enumerate(state.classes, start=1)}
    checked = [{indices[each] for each in task.checked(name)} for name in state.held_out]
    return Evaluator(cases, state.classes, tuple(indices.values()), checked)


def fit_refiner(
    task: Task,
    state: AdaptationState,
    work: Path,
    clock: Clock,
    report: Callable[[str], None],
    on_validation: ValidationCallback | None,
) -> MaskSAM:
    """Train the refiner and return it.

    Raises:
        MaskSAMError: the minutes are too few.
        Cancelled: the user has cancelled; the training can be resumed.
    """
    options, count = task.options, len(state.classes)
    source, origins = task.source(state.origins)
    refiner = inherited_network(source, state.window, origins, state.queries)
    refiner.requires_grad_(True)
    set_trained_parts(refiner.sam, False)
    minutes = minutes_left(options, state)
    settings = SETTINGS.replace(
        mirror=task.inference.mirror, iterations=options.steps or SETTINGS.iterations
    )
    lightning.seed_everything(state.seed, verbose=False)
    module = MaskSAMModule(refiner, settings, minutes, state.seed)
    checkpoint = resumed_checkpoint(work)
    if checkpoint is not None:
        clock.before += 60 * checkpoint.minutes
    cache = work / CASES
    windows = CorrectedWindows(
        count,
        [CachedCase(StoredArrays(cache / name)) for name in state.train],
        replace(task.plan.divided(state.subdivision), window=state.window),
        settings.augmentation,
        settings.mirror,
        settings.foreground_share,
        state.seed + 15_485_863 * next_restart(checkpoint),
    )
    windows.numbers = WindowNumbers(settings.batch)
    module.windows = windows
    checkpoints = ResumableCheckpoints(work, _CHECKPOINT_SECONDS)
    callbacks: list[Callback] = [Budget(), Watch(clock), checkpoints]
    if state.held_out:
        evaluator = held_out_evaluator(task, state, cache)
        evaluate = partial(evaluator.score, cancelled=clock.is_cancelled)
        scores = ValidationReport(clock, on_validation)
        callbacks.append(
            Validation(
                settings.validation_share, _VALIDATION_MINUTES, evaluate, scores, checkpoints
            )
        )
    callbacks.append(ProgressLogger(report, _REPORT_SECONDS))
    trainer = build_trainer(task.device, work, callbacks, settings.clip)
    with warnings.catch_warnings(), interruptible():
        warnings.simplefilter("ignore")
        loader: DataLoader[Any] = DataLoader(windows, settings.batch)
        trainer.fit(module, loader, ckpt_path=checkpoint_path(checkpoint), weights_only=True)
    if module.stopped:
        raise Cancelled("the learning was cancelled: it can be continued")
    module.averaged.to(torch.device("cpu"))
    refiner.cpu()
    refiner.load_state_dict(module.averaged.values, strict=False)
    return refiner.eval()
