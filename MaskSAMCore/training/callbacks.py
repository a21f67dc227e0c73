"""What happens beside the steps: stopping, resumable checkpoints, validation, progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from MaskSAMCore.training.module import MaskSAMModule, uncompiled
from MaskSAMCore.training.validation import Scores

SLOTS = ("resume-a.ckpt", "resume-b.ckpt")


class Budget(Callback):
    """Ends the training when its time or its iterations are over, after a last full step."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """All processes stop at the same step."""
        over = module.progress >= 1
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            trainer.should_stop = True


class ResumableCheckpoints(Callback):
    """A checkpoint every so many seconds, in two slots used in turn.

    A kill while one is written leaves the other; files are written beside and renamed, so that a
    slot is whole or absent.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self._last = time.monotonic()
        self._slot = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Saves when the time has come; all processes agree on it."""
        due = time.monotonic() - self._last >= self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """So that a finished run can be prolonged."""
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Writes the older slot."""
        target = self.folder / SLOTS[self._slot]
        self._slot = 1 - self._slot
        beside = target.with_suffix(".part")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            beside.replace(target)
        self._last = time.monotonic()


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest slot that can be read, or None. Read without unpickling anything."""
    found = [folder / slot for slot in SLOTS if (folder / slot).is_file()]
    for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:
            continue
        return path
    return None


class Validation(Callback):
    """Whole validation cases through the inference engine, with the averaged weights, every so many
    minutes and at the end. Only the first process works; the others wait.

    Args:
        minutes: between two validations.
        evaluate: gives the scores on the validation cases.
        keep: called with the scores and whether they are the best so far, averaged weights in
            place.
        checkpoints: saved before each validation, which may take long; the end has its own.
    """

    def __init__(
        self,
        minutes: float,
        evaluate: Callable[[MaskSAMModule], Scores],
        keep: Callable[[MaskSAMModule, Scores, bool], None],
        checkpoints: ResumableCheckpoints,
    ) -> None:
        self.minutes = minutes
        self.evaluate = evaluate
        self.keep = keep
        self.checkpoints = checkpoints
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Validates when the time has come."""
        if module.generator_alone:
            self._last = time.monotonic()
        due = time.monotonic() - self._last >= 60 * self.minutes
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.checkpoints.save(trainer)
            self.run(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """The last weights are always validated."""
        self.run(trainer, module)

    def run(self, trainer: lightning.Trainer, module: MaskSAMModule) -> None:
        """One validation."""
        if trainer.is_global_zero:
            training = module.model.training
            module.model.eval()
            with module.averaged.applied(module.model), uncompiled(module.model):
                scores = self.evaluate(module)
                best = scores.mean > module.best_dice
                module.best_dice = max(scores.mean, module.best_dice)
                self.keep(module, scores, best)
            module.model.train(training)
            values = {f"val_dice_{name}": score for name, score in scores.dice.items()}
            values.update(val_dice=scores.mean, minutes=module.minutes)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
        trainer.strategy.barrier("validation")
        self._last = time.monotonic()


class Progress(Callback):
    """Tells how far the training is and how much time is left.

    Args:
        report: receives a line of text.
        seconds: between two lines.
    """

    def __init__(self, report: Callable[[str], None], seconds: float) -> None:
        self.report = report
        self.seconds = seconds
        self._last = time.monotonic()
        self._loss: float | None = None
        self._began: tuple[float, float] | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """A line every ``seconds``, with the loss averaged over the last steps."""
        if not trainer.is_global_zero:
            return
        loss = float(outputs["loss"])
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        if self._began is None:
            self._began = (time.monotonic(), module.progress)
        if time.monotonic() - self._last < self.seconds:
            return
        self._last = time.monotonic()
        begun, share = self._began
        done = module.progress - share
        left = (1 - module.progress) * (self._last - begun) / done if done > 0 else float("nan")
        best = f", best validation Dice {module.best_dice:.4f}" if module.best_dice >= 0 else ""
        self.report(
            f"{module.progress:4.0%}  iteration {trainer.global_step}, loss {self._loss:.3f}"
            f"{best}, {duration(left)} left"
        )


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "3 h 05 min"."""
    if seconds != seconds:
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
