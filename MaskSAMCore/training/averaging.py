"""Averaged weights: an exponential moving average of what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The average of a model's trained parameters over the last steps.

    The decay grows from 0 to its value, so that the first steps do not weigh on the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.restart(model)

    def restart(self, model: nn.Module) -> None:
        """From the model's present parameters on."""
        self.steps = 0
        self.values: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model's present parameters."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        current = dict(model.named_parameters())
        names = list(self.values)
        averages = [self.values[name] for name in names]
        torch._foreach_lerp_(averages, [current[name].detach() for name in names], 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with averaged weights, for as long as the block lasts."""
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
        """Moves the averages to where the model is."""
        self.values = {name: value.to(device) for name, value in self.values.items()}

    def state_dict(self) -> dict[str, object]:
        """Tensors and a number, for a checkpoint."""
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`state_dict`."""
        values = state["values"]
        assert isinstance(values, dict) and isinstance(state["steps"], int)
        self.steps = state["steps"]
        self.values = {name: value.clone() for name, value in values.items()}
