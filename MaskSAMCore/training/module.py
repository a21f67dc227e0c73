"""Lightning module: loss, optimizer, schedule, averaged weights and time budget of a training."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from MaskSAMCore.data.synthesis.windows import SynthesizedWindows
from MaskSAMCore.data.windows import WindowDataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import Network
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses import find_loss


class AveragedWeights:
    """Exponential moving average of a network's trained parameters.

    The decay grows to its final value, so that the first steps have no lasting influence.

    Args:
        model: network whose parameters are averaged.
        decay: final decay of the average in each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.restart(model)

    def restart(self, model: nn.Module) -> None:
        """Start a new average at the model's present parameters."""
        self.steps = 0
        self.values: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present parameters."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = dict(model.named_parameters())
        names = list(self.values)
        averages = [self.values[name] for name in names]
        torch._foreach_lerp_(averages, [current[name].detach() for name in names], 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Replace the model's parameters by their average within a ``with`` block."""
        current = dict(model.named_parameters())
        kept = {name: current[name].data for name in self.values}
        for name, value in self.values.items():
            current[name].data = value
        try:
            yield
        finally:
            for name, value in kept.items():
                current[name].data = value

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self.values = {name: value.to(device) for name, value in self.values.items()}

    def state_dict(self) -> dict[str, object]:
        """Return the state for a checkpoint: tensors and a number."""
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the state of :meth:`state_dict`."""
        values = state["values"]
        assert isinstance(values, dict) and isinstance(state["steps"], int)
        self.steps = state["steps"]
        self.values = {name: value.clone() for name, value in values.items()}


class MaskSAMModule(lightning.LightningModule):
    """A network with its loss, optimizer, schedule, averaged weights and time budget.

    Args:
        model: network to train.
        settings: hyperparameters.
        max_minutes: time budget over all parts of the training in minutes; None trains for the
            iterations of the settings.
        seed: seed of the random prompts.

    Attributes:
        averaged: averaged weights, which are validated and saved.
        minutes_before: duration of the earlier parts of a resumed training in minutes.
        restarts: number of times that the training has been resumed.
        best_dice: best mean Dice of a validation so far, or -1.
        validation_seconds: duration of the last validation in seconds, 0 before the first.
        compiled: compile the network's training methods before the first step.
        accumulate: number of parts of each step, whose gradients are summed.
        stopped: the training was asked to end before its budget was spent.
        windows: windows of the training, of which each process prepares its share; None if another
            object prepares them.
        synthesis_contrasts: share of synthesised images with a common contrast, float32 (1,) in
            memory shared with the processes that synthesise them; None without synthesised images.
        decoder_start: first step in which the decoder was trained; None before it.
    """

    def __init__(
        self, model: Network, settings: TrainSettings, max_minutes: float | None, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.max_minutes = max_minutes
        self.seed = seed
        self.averaged = AveragedWeights(model, settings.ema)
        self.minutes_before = 0.0
        self.restarts = 0
        self.best_dice = -1.0
        self.validation_seconds = 0.0
        self.compiled = False
        self.accumulate = 1
        self.stopped = False
        self.windows: WindowDataset | SynthesizedWindows | None = None
        self.synthesis_contrasts: Tensor | None = None
        self.decoder_start: int | None = None
        self._started = time.monotonic()
        # Set in on_fit_start, because the loss, a Python module, cannot be sent to a process.
        self._loss: Any = None
        self._rng: torch.Generator | None = None
        self._parts: list[dict[str, float]] = []

    @property
    def minutes(self) -> float:
        """Duration of the training so far, earlier parts included, in minutes."""
        return self.minutes_before + (time.monotonic() - self._started) / 60

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        if self.max_minutes is not None:
            return min(1.0, self.minutes / self.max_minutes)
        return min(1.0, self.global_step / self.settings.iterations)

    @property
    def seconds_left(self) -> float:
        """Expected time until the end of the training in seconds."""
        progress = max(self.progress, 1e-9)
        return 60 * self.minutes * (1 - progress) / progress

    @property
    def within_step(self) -> bool:
        """True between two parts of a step."""
        return bool(self._parts)

    @property
    def generator_alone(self) -> bool:
        """True while only the encoder and the prompt generator are trained."""
        return self.progress < self.settings.generator_first

    @property
    def common_contrasts(self) -> float:
        """Share of synthesised images that should have a common contrast at present."""
        settings = self.settings
        ramp = settings.contrast_ramp
        random = min(1.0, self.progress / ramp) if ramp else 1.0
        return 1 - random * (1 - settings.common_contrasts)

    def on_fit_start(self) -> None:
        """Prepare the clock, the loss and the random generator; compile the network if chosen."""
        self._started = time.monotonic()
        seed = self.seed + 7919 * self.restarts + 104729 * self.global_rank
        self._rng = torch.Generator().manual_seed(seed)
        self._loss = find_loss(self.model.config.kind)
        self.averaged.to(self.device)
        if self.windows is not None:
            self.windows.numbers = replace(
                self.windows.numbers, process=self.global_rank, processes=self.trainer.world_size
            )
        if self.compiled:
            compile_steps(self.model)

    def learning_rate(self, begin: float = 0.0, first_step: int = 0) -> float:
        """Return the present learning rate of the schedule.

        Args:
            begin: share of the training after which the parameters begin to be trained.
            first_step: first step in which the parameters are trained, where the warm-up starts.
        """
        settings = self.settings
        done = self.progress
        if self.max_minutes is None:
            step = self.global_step - self.global_step % settings.epoch
            done = min(1.0, step / settings.iterations)
        progress = max(0.0, (done - begin) / (1 - begin))
        if settings.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            factor = (1 - progress) ** settings.exponent
        if settings.warm_up:
            factor *= min(1.0, (self.global_step - first_step + 1) / settings.warm_up)
        return settings.learning_rate * factor

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the settings.

        Biases and norms have no weight decay unless ``decay_all`` is set. A decoder whose training
        begins later has separate parameter groups.
        """
        trained = list(self.model.trained_parameters().values())
        parts = [(0.0, trained)]
        if self.settings.generator_first:
            late = self.model.decoder_parameters()
            late_ids = {id(p) for p in late}
            parts = [(0.0, [p for p in trained if id(p) not in late_ids])]
            parts.append((self.settings.generator_first, late))
        groups: list[dict[str, Any]] = []
        for begin, parameters in parts:
            groups.append({"params": [p for p in parameters if p.ndim > 1], "begin": begin})
            without_decay = [p for p in parameters if p.ndim <= 1]
            decay = self.settings.weight_decay if self.settings.decay_all else 0.0
            groups.append({"params": without_decay, "begin": begin, "weight_decay": decay})
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        if self.settings.optimizer == "sgd":
            return torch.optim.SGD(groups, rate, momentum=0.99, nesterov=True, weight_decay=decay)
        betas, epsilon = (0.9, self.settings.beta2), self.settings.epsilon
        return torch.optim.AdamW(groups, rate, betas=betas, eps=epsilon, weight_decay=decay)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of a batch, and log the loss and its parts when a step is complete.

        Args:
            batch: images (B, C, T, H, W) and class indices (B, T, H, W).

        Raises:
            MaskSAMError: the loss is not finite, or the network cannot be compiled.
        """
        alone = self.generator_alone
        if self.decoder_start is None and not alone:
            self.decoder_start = self.global_step
            if self.decoder_start:
                # The decoder of initial weights may have been trained with another generator.
                self.model.reset_decoder()
                self.averaged.restart(self.model)
        rate = self.learning_rate()
        for group in self.trainer.optimizers[0].param_groups:
            begin = group.get("begin", 0.0)
            group["lr"] = self.learning_rate(begin, self.decoder_start or 0) if begin else rate
        if self.synthesis_contrasts is not None:
            self.synthesis_contrasts.fill_(self.common_contrasts)
        images, labels = batch
        try:
            if alone:
                loss, parts = self._loss.generator_loss(
                    self.model, images, labels, self.settings.loss
                )
            else:
                loss, parts = self._loss.training_loss(
                    self.model, images, labels, self.settings.loss, self._rng
                )
            if not torch.isfinite(loss):
                raise FloatingPointError
        except FloatingPointError as error:
            raise MaskSAMError(
                f"the loss is not finite at iteration {self.global_step}, learning rate {rate:.1e}:"
                " continue from the last checkpoint with --resume; if that fails again, start a new"
                " training with another seed"
            ) from error
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise MaskSAMError(
                f"the network cannot be compiled here ({_first_line(error)}): train without"
                " --compile"
            ) from error
        values = {"loss": float(loss.detach()), "learning_rate": rate, "minutes": self.minutes}
        values.update({f"loss_{name}": float(value) for name, value in parts.items()})
        self._parts.append(values)
        if len(self._parts) == self.accumulate:
            self.log_dict(self._step_means(), batch_size=len(images))
            self._parts = []
        return loss

    def _step_means(self) -> dict[str, float]:
        """Return the means of a step's values over its parts and the processes."""
        names = list(self._parts[0])
        means = torch.tensor([[part[name] for name in names] for part in self._parts]).mean(0)
        if self.trainer.world_size > 1:
            gathered = self.all_gather(means.to(self.device))
            assert isinstance(gathered, Tensor)
            means = gathered.mean(0)
        return dict(zip(names, means.tolist(), strict=True))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step and update the averaged weights, before any callback uses them."""
        super().optimizer_step(*args, **kwargs)
        self.averaged.update(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the averaged weights, the clock and the best Dice to a checkpoint."""
        checkpoint["masksam"] = {
            "averaged": self.averaged.state_dict(),
            "minutes": self.minutes,
            "restarts": self.restarts,
            "best_dice": self.best_dice,
            "validation_seconds": self.validation_seconds,
            "joined": self.decoder_start,
            "stopped": self.stopped,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state that :meth:`on_save_checkpoint` added."""
        saved = checkpoint["masksam"]
        self.averaged.load_state_dict(saved["averaged"])
        self.minutes_before = float(saved["minutes"])
        self.restarts = int(saved["restarts"]) + 1
        # Older checkpoints lack this key: their decoder was trained from the first step.
        self.decoder_start = saved.get("joined", 0)
        self.validation_seconds = float(saved.get("validation_seconds", 0.0))
        if self.accumulate > 1:
            # Lightning counts batches: recount them, because ``accumulate`` may have changed.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            progress.update(dict.fromkeys(progress, checkpoint["global_step"] * self.accumulate))
        # A validation after this checkpoint may have found better weights.
        self.best_dice = max(self.best_dice, float(saved["best_dice"]))


def compile_steps(model: Network, backend: str = "inductor") -> None:
    """Compile the methods that take most of a training step.

    Args:
        model: network whose methods are replaced by compiled ones.
        backend: backend of torch.compile.
    """
    for name in model.training_methods:
        setattr(model, name, torch.compile(getattr(model, name), dynamic=False, backend=backend))


@contextmanager
def uncompiled(model: Network) -> Iterator[None]:
    """Undo :func:`compile_steps` within a ``with`` block.

    Whole volumes are segmented in other batch sizes, each of which would be compiled anew.
    """
    compiled = [name for name in model.training_methods if name in model.__dict__]
    kept = {name: model.__dict__.pop(name) for name in compiled}
    try:
        yield
    finally:
        model.__dict__.update(kept)


@contextmanager
def compiler_cache(folder: Path) -> Iterator[None]:
    """Keep the files of torch.compile in a folder, and remove it at the end of a ``with`` block.

    After an interruption the folder is kept, so that a resumed training compiles faster. A cache
    that the user has chosen by ``TORCHINDUCTOR_CACHE_DIR`` is used instead.
    """
    variable = "TORCHINDUCTOR_CACHE_DIR"
    if variable in os.environ:
        yield
        return
    os.environ[variable] = str(folder)
    try:
        yield
    finally:
        del os.environ[variable]
    shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
