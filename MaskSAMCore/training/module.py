"""One training step for Lightning."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import Network
from MaskSAMCore.training.averaging import AveragedWeights
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses import find_loss


class MaskSAMModule(lightning.LightningModule):
    """Optimiser, schedule, averaged weights and the time budget around a model.

    Args:
        model: what is trained.
        settings: how.
        max_minutes: time budget over all resumed parts together, or None to go by iterations.
        seed: of the drawn prompts.
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
        self.compiled = False
        self.common: Tensor | None = None
        # The step at which the decoder joined.
        self.joined: int | None = None
        self._started = time.monotonic()
        self._loss = find_loss(model.config.kind)
        self._rng: torch.Generator | None = None

    @property
    def minutes(self) -> float:
        """Training time so far, earlier parts included."""
        return self.minutes_before + (time.monotonic() - self._started) / 60

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        if self.max_minutes is not None:
            return min(1.0, self.minutes / self.max_minutes)
        return min(1.0, self.global_step / self.settings.iterations)

    @property
    def generator_alone(self) -> bool:
        """Whether the decoder waits still."""
        return self.progress < self.settings.generator_first

    @property
    def common_contrasts(self) -> float:
        """Share of synthesised images that have a well-known contrast at present."""
        settings = self.settings
        ramp = settings.contrast_ramp
        random = min(1.0, self.progress / ramp) if ramp else 1.0
        return 1 - random * (1 - settings.common_contrasts)

    def on_fit_start(self) -> None:
        """The clock starts here, not while data were prepared."""
        self._started = time.monotonic()
        seed = self.seed + 7919 * self.restarts + 104729 * self.global_rank
        self._rng = torch.Generator().manual_seed(seed)
        self.averaged.to(self.device)
        if self.compiled:
            compile_steps(self.model)

    def learning_rate(self, begin: float = 0.0, first_step: int = 0) -> float:
        """The schedule's present value, for what is trained from a share of the progress on, which
        came with a step."""
        settings = self.settings
        progress = max(0.0, (self.progress - begin) / (1 - begin))
        if settings.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            factor = (1 - progress) ** settings.exponent
        if settings.warm_up:
            factor *= min(1.0, (self.global_step - first_step + 1) / settings.warm_up)
        return settings.learning_rate * factor

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Weights decay; biases, norms and position embeddings of one axis do not. A decoder that
        joins later has groups of its own."""
        trained = list(self.model.trained_parameters().values())
        parts = [(0.0, trained)]
        if self.settings.generator_first:
            late = self.model.decoder_parameters()
            if not late:
                raise MaskSAMError(
                    f"the network '{self.model.config.kind}' has no prompt generator to train"
                    " first: set generator_first to 0"
                )
            known = {id(p) for p in late}
            parts = [(0.0, [p for p in trained if id(p) not in known])]
            parts.append((self.settings.generator_first, late))
        groups: list[dict[str, Any]] = []
        for begin, some in parts:
            groups.append({"params": [p for p in some if p.ndim > 1], "begin": begin})
            few = [p for p in some if p.ndim <= 1]
            groups.append({"params": few, "begin": begin, "weight_decay": 0.0})
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        if self.settings.optimizer == "sgd":
            return torch.optim.SGD(groups, rate, momentum=0.99, nesterov=True, weight_decay=decay)
        epsilon = self.settings.epsilon
        return torch.optim.AdamW(groups, rate, betas=(0.9, 0.99), eps=epsilon, weight_decay=decay)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Images (B, C, T, H, W) and labels (B, T, H, W)."""
        alone = self.generator_alone
        if self.joined is None and not alone:
            self.joined = self.global_step
            if self.joined:
                # What it learned with another generator, whose weights this training began with.
                self.model.reset_decoder()
                self.averaged.restart(self.model)
        rate = self.learning_rate()
        for group in self.trainer.optimizers[0].param_groups:
            late = group.get("begin", 0.0)
            group["lr"] = self.learning_rate(late, self.joined or 0) if late else rate
        if self.common is not None:
            self.common.fill_(self.common_contrasts)
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
                " try --resume, which goes on from the last checkpoint; if that fails again, start"
                " anew with another seed"
            ) from error
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise MaskSAMError(
                f"the network cannot be compiled here ({_first_line(error)}): train without"
                " --compile"
            ) from error
        values = {"loss": float(loss.detach()), "learning_rate": rate, "minutes": self.minutes}
        values.update({f"loss_{name}": value for name, value in parts.items()})
        self.log_dict(values, batch_size=len(images))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Averages right after every step, before any callback looks at the weights."""
        super().optimizer_step(*args, **kwargs)
        self.averaged.update(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside Lightning's own: the averages, the clock and the best so far."""
        checkpoint["masksam"] = {
            "averaged": self.averaged.state_dict(),
            "minutes": self.minutes,
            "restarts": self.restarts,
            "best_dice": self.best_dice,
            "joined": self.joined,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues the averages and the clock."""
        kept = checkpoint["masksam"]
        self.averaged.load_state_dict(kept["averaged"])
        self.minutes_before = float(kept["minutes"])
        self.restarts = int(kept["restarts"]) + 1
        self.joined = kept.get("joined", 0)
        # A validation after this checkpoint may have kept better weights already.
        self.best_dice = max(self.best_dice, float(kept["best_dice"]))


def compile_steps(model: Network, backend: str = "inductor") -> None:
    """Compiles what a training step spends its time in, with one of torch.compile's backends."""
    for name in model.training_methods:
        setattr(model, name, torch.compile(getattr(model, name), dynamic=False, backend=backend))


@contextmanager
def uncompiled(model: Network) -> Iterator[None]:
    """The model as it was, for as long as the block lasts: whole volumes come in other shapes,
    each of which would be compiled anew."""
    compiled = [name for name in model.training_methods if name in model.__dict__]
    kept = {name: model.__dict__.pop(name) for name in compiled}
    try:
        yield
    finally:
        model.__dict__.update(kept)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
