"""Lightning callbacks: time budget, resumable checkpoints, validation and progress reports."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning
from lightning.pytorch.callbacks import Callback

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import write_json
from MaskSAMCore.modeling import Network
from MaskSAMCore.training.checkpoint import CHECKPOINTS
from MaskSAMCore.training.module import MaskSAMModule, uncompiled
from MaskSAMCore.training.plots import draw_curves
from MaskSAMCore.training.processes import STOPPING_SIGNALS, block_interrupts
from MaskSAMCore.training.run_folder import BEST, LAST, VALIDATION, save_weights
from MaskSAMCore.training.validation import Scores


class Budget(Callback):
    """Callback that stops a training after the step in which its budget is spent."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Stop all processes at the same step."""
        if module.within_step:
            return
        over = module.progress >= 1
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            trainer.should_stop = True


class EarlyStop(Callback):
    """Callback that ends a part of a training after a given time or on a signal.

    The present step is completed, and a checkpoint is saved; nothing is validated. SIGTERM and
    SIGUSR1 come from schedulers such as Slurm before a job's time is over, SIGINT from Ctrl-C. A
    second Ctrl-C ends the training at once.

    Args:
        minutes: time after which this part of the training ends, or None.

    Attributes:
        asked: True after a signal to stop.
        interrupted: True after Ctrl-C.
    """

    def __init__(self, minutes: float | None) -> None:
        self.minutes = minutes
        self.asked = False
        self.interrupted = False
        self._started = time.monotonic()
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Start the clock and handle signals in place of Lightning, which abandons the step."""
        self._started = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOPPING_SIGNALS:
            self._handlers[number] = signal.signal(number, self.ask)
        if self._is_spawned:
            block_interrupts(False)

    @property
    def _is_spawned(self) -> bool:
        return multiprocessing.parent_process() is not None

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Restore the former signal handlers.

        A spawned process is about to end by itself, so that Ctrl-C is blocked in it.
        """
        if self._is_spawned:
            block_interrupts(True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def ask(self, number: int, _: Any) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed a second time, and this process is not a spawned
                one, which its parent kills.
        """
        if number == signal.SIGINT:
            if self.interrupted and not self._is_spawned:
                raise KeyboardInterrupt
            self.interrupted = True
        self.asked = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Stop all processes at the same step when one of them is to stop."""
        if module.within_step:
            return
        over = self.minutes is not None and time.monotonic() - self._started >= 60 * self.minutes
        if trainer.strategy.reduce_boolean_decision(over or self.asked, all=False):
            module.stopped = module.progress < 1
            trainer.should_stop = True


class ResumableCheckpoints(Callback):
    """Callback that saves checkpoints at intervals, alternating between two files.

    If the process is killed while it writes one file, the other is intact. Each file is written
    under another name and then renamed, so that it is complete or absent.

    Args:
        folder: folder of the training.
        seconds: time between two checkpoints in seconds.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self._last = time.monotonic()
        self._next = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Save a checkpoint when one is due in any process."""
        if module.within_step:
            return
        due = time.monotonic() - self._last >= self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save a last checkpoint, from which a finished run can be continued."""
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Replace the older of the two checkpoints. All processes must call this.

        Raises:
            MaskSAMError: the file cannot be written, because the disk is full for example.
        """
        target = self.folder / CHECKPOINTS[self._next]
        self._next = 1 - self._next
        # The name is fixed, so that the next checkpoint overwrites the file of a killed process.
        temporary = target.with_suffix(".part")
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                temporary.replace(target)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise MaskSAMError(
                f"the checkpoint {target} cannot be written: free disk space, then continue with"
                " --resume"
            ) from error
        self._last = time.monotonic()


class ScoresReceiver(Protocol):
    """Receiver of the scores of each validation."""

    def save(self, module: MaskSAMModule, scores: Scores, best: bool) -> None:
        """Receive scores.

        Args:
            module: module of the training, with the averaged weights in its network.
            scores: scores of the averaged weights.
            best: True if the weights score higher than all earlier ones of the training.
        """
        ...


@dataclass
class BestWeightsSaver:
    """Writer of a validation's weights, scores and curves. It can be sent to spawned processes.

    Attributes:
        run: folder of the training.
        report: function that receives lines of text for the user.
    """

    run: Path
    report: Callable[[str], None]

    def save(self, module: MaskSAMModule, scores: Scores, best: bool) -> None:
        """Save the module's present weights as the last ones, and as the best if they are.

        Args:
            module: module of the training, with the averaged weights in its network.
            scores: scores of the averaged weights.
            best: True if the weights score higher than all earlier ones of the run.
        """
        dice = scores.mean
        facts = {"val_dice": f"{dice:.6f}", "iteration": str(module.global_step)}
        save_weights(module.model, self.run / LAST, facts)
        if best:
            save_weights(module.model, self.run / BEST, facts)
            values = {
                "dice": dice,
                "classes": scores.dice,
                "largest_component": list(scores.largest_component),
                "background_weight": scores.background_weight,
                "iteration": module.global_step,
                "minutes": module.minutes,
            }
            write_json(self.run / VALIDATION, values)
        for logger in module.loggers:
            logger.save()
        draw_curves(self.run)
        so_far = " (best so far)" if best else ""
        duration = format_duration(module.validation_seconds)
        self.report(f"validation Dice {dice:.4f}{so_far}, in {duration}")


class Validation(Callback):
    """Callback that validates the averaged weights on whole cases, at intervals and at the end.

    A validation of s seconds is followed by at least s (1 - share) / share seconds of training,
    even before the final validation. Only the first process validates; the others wait.

    Args:
        share: largest share of the time that validations may take.
        minutes: least time between two validations in minutes.
        evaluate: function that scores a network on a kind of device.
        saver: receiver of the scores, such as the writer of the weights.
        checkpoints: callback that saves a checkpoint before each validation but the last, because
            a validation may take long.
    """

    def __init__(
        self,
        share: float,
        minutes: float,
        evaluate: Callable[[Network, str], Scores],
        saver: ScoresReceiver,
        checkpoints: ResumableCheckpoints,
    ) -> None:
        self.share = share
        self.minutes = minutes
        self.evaluate = evaluate
        self.saver = saver
        self.checkpoints = checkpoints
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Validate when a validation is due in any process."""
        if module.within_step or module.stopped:
            return
        if module.generator_alone:
            self._last = time.monotonic()
        interval = self.interval(module)
        since = time.monotonic() - self._last
        # After a late validation, the final one would follow too soon to keep to the share.
        late = module.seconds_left < interval + module.validation_seconds
        due = since >= interval and not late
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self.checkpoints.save(trainer)
            self.run(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Validate the last weights of a training whose budget is spent."""
        if not module.stopped:
            self.run(trainer, module)

    def interval(self, module: MaskSAMModule) -> float:
        """Return the least time from the end of a validation to the next one in seconds."""
        rest = module.validation_seconds * (1 - self.share) / self.share
        return max(60 * self.minutes, rest)

    def run(self, trainer: lightning.Trainer, module: MaskSAMModule) -> None:
        """Validate once, and save and log the result."""
        began = time.monotonic()
        if trainer.is_global_zero:
            training = module.model.training
            module.model.eval()
            with module.averaged.applied(module.model), uncompiled(module.model):
                scores = self.evaluate(module.model, module.device.type)
                module.validation_seconds = time.monotonic() - began
                best = scores.mean > module.best_dice
                module.best_dice = max(scores.mean, module.best_dice)
                self.saver.save(module, scores, best)
            module.model.train(training)
            values = {f"val_dice_{name}": score for name, score in scores.dice.items()}
            values.update(val_dice=scores.mean, minutes=module.minutes)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
        trainer.strategy.barrier("validation")
        self._last = time.monotonic()
        module.validation_seconds = self._last - began


class ProgressLogger(Callback):
    """Callback that reports the progress, the loss and the time left at intervals.

    Args:
        report: function that receives lines of text for the user.
        seconds: time between two lines in seconds.
    """

    def __init__(self, report: Callable[[str], None], seconds: float) -> None:
        self.report = report
        self.seconds = seconds
        self._last = time.monotonic()
        self._loss: float | None = None
        self._start: tuple[float, float] | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Report when a line is due, with a running average of the loss."""
        if not trainer.is_global_zero or module.within_step:
            return
        loss = float(outputs["loss"])
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        if self._start is None:
            self._start = (time.monotonic(), module.progress)
        if time.monotonic() - self._last < self.seconds:
            return
        self._last = time.monotonic()
        start_time, start_progress = self._start
        done = module.progress - start_progress
        left = (1 - module.progress) * (self._last - start_time) / done if done > 0 else None
        best = f", best validation Dice {module.best_dice:.4f}" if module.best_dice >= 0 else ""
        self.report(
            f"{module.progress:4.0%}  iteration {trainer.global_step}, loss {self._loss:.3f}"
            f"{best}, {format_duration(left)} left"
        )


def format_duration(seconds: float | None) -> str:
    """Return a duration in words, such as "45 s", "12 min" or "3 h 05 min"."""
    if seconds is None:
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
