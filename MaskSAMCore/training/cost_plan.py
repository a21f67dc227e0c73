"""Cost of a planned training, and the options with which it fits a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.training.cost import StepCost, fixed_bytes, shapes_of_network, step_cost
from MaskSAMCore.training.devices import accelerator, precision
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.processes import divided_batch

_GIB = 2**30
# Share of a device's memory that a training may take: the rest is for the driver, the libraries'
# buffers and fragmentation.
_USABLE = 0.9


@dataclass(frozen=True)
class CostPlan:
    """Costs of a training on one kind of device.

    Attributes:
        trained: number of trained parameters.
        fixed: bytes for weights, gradients and the optimizer.
        batch: number of windows per step.
        iterations: number of training steps.
        one, two: costs of one and of two windows at a time, each as a pair without and with
            gradient checkpointing; the latter is None if the network does not support it.
    """

    trained: int
    fixed: int
    batch: int
    iterations: int
    one: tuple[StepCost, StepCost | None]
    two: tuple[StepCost, StepCost | None]

    def memory(self, windows: int, checkpointing: bool) -> int | None:
        """Return the bytes for a number of windows at a time.

        None if checkpointing is requested and the network does not support it.
        """
        one, two = self.one[checkpointing], self.two[checkpointing]
        if one is None or two is None:
            return None
        return self.fixed + one.activations + (windows - 1) * (two.activations - one.activations)

    def operations(self, checkpointing: bool) -> int | None:
        """Return the floating-point operations per step; None as for :meth:`memory`."""
        one = self.one[checkpointing]
        return None if one is None else self.batch * one.operations

    def sizes(self) -> list[int]:
        """Return the numbers of windows at a time that divide a step, in ascending order."""
        return [size for size in range(1, self.batch + 1) if self.batch % size == 0]

    def fit(self, memory: int, processes: int = 1) -> tuple[int, bool] | None:
        """Return the largest number of windows at a time that fits a device, and whether it needs
        gradient checkpointing; None if nothing fits.

        Gradient checkpointing is used only if no number of windows fits without it.

        Args:
            memory: bytes of the device.
            processes: number of devices, each of which computes an equal share of a step.

        Raises:
            MaskSAMError: the windows of a step cannot be divided among the devices.
        """
        share = divided_batch(self.batch, processes, 1)
        for checkpointing in (False, True):
            for size in reversed(self.sizes()):
                needed = self.memory(size, checkpointing)
                if share % size == 0 and needed is not None and needed <= _USABLE * memory:
                    return size, checkpointing
        return None


def plan_costs(config: NetworkConfig, settings: TrainSettings, device: str) -> CostPlan:
    """Return the costs of a training.

    Args:
        config: network.
        settings: hyperparameters.
        device: "cuda" or "cpu".
    """
    model = shapes_of_network(config, settings)
    half = device != "cpu" or precision("cpu") != "32-true"
    costs: list[tuple[StepCost, StepCost | None]] = []
    for windows in (1, 2):
        plain = step_cost(config, settings, windows, False, device, half)
        again = None
        if model.has_gradient_checkpointing:
            again = step_cost(config, settings, windows, True, device, half)
        costs.append((plain, again))
    return CostPlan(
        sum(p.numel() for p in model.trained_parameters().values()),
        fixed_bytes(config, settings),
        settings.batch,
        settings.iterations,
        *costs,
    )


def device_memory(kind: str) -> int | None:
    """Return the memory of a CUDA device, else of the computer, in bytes; None if it is unknown,
    as on Windows."""
    if kind == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def plan_lines(plan: CostPlan, rate: float) -> Iterator[str]:
    """Yield the plan's table as lines of Markdown.

    Args:
        plan: costs.
        rate: sustained floating-point operations per second of the device.
    """
    yield f"{plan.trained / 1e6:.2f} M trained parameters; a step has {plan.batch} windows"
    yield (
        f"{plan.fixed / _GIB:.1f} GiB for weights, gradients and optimizer, and for activations:"
    )
    yield ""
    yield "| windows at a time | GiB kept | GiB with --gradient-checkpointing |"
    yield "|---|---|---|"
    for size in plan.sizes():
        found = [plan.memory(size, checkpointing) for checkpointing in (False, True)]
        cells = ["-" if n is None else f"{(n - plan.fixed) / _GIB:.1f}" for n in found]
        yield f"| {size} | {' | '.join(cells)} |"
    yield ""
    for checkpointing in (False, True):
        operations = plan.operations(checkpointing)
        if operations is not None:
            hours = plan.iterations * operations / rate / 3600
            yield (
                f"{operations / 1e12:.1f} TFLOP a step"
                f"{' with --gradient-checkpointing' if checkpointing else ''},"
                f" {plan.iterations} steps: {hours:.0f} hours at {rate / 1e12:g} TFLOP/s"
            )


def fit_line(plan: CostPlan, device: str, processes: int) -> str:
    """Return a line with the command-line options with which a training fits the device.

    Args:
        plan: costs on the kind of device.
        device: "auto", "cpu", "cuda" or "mps".
        processes: number of devices.

    Raises:
        MaskSAMError: nothing fits, or the windows of a step cannot be divided among the devices.
    """
    kind = accelerator(device, processes)
    memory = device_memory(kind)
    name = torch.cuda.get_device_name(0) if kind == "cuda" else kind
    if memory is None:
        return "the memory of this computer is unknown: compare yours with the table"
    found = plan.fit(memory, processes)
    if found is None:
        needed = min(n for again in (False, True) if (n := plan.memory(1, again)) is not None)
        raise MaskSAMError(
            f"nothing fits {name} with {memory / _GIB:.0f} GiB: one window at a time needs"
            f" {needed / _USABLE / _GIB:.0f} GiB; choose a larger device, or a smaller --patch or"
            " SAM"
        )
    size, checkpointing = found
    parts = plan.batch // (size * processes)
    options = [f"--devices {processes}"] if processes > 1 else []
    options += [f"--accumulate {parts}"] if parts > 1 else []
    options += ["--gradient-checkpointing"] if checkpointing else []
    return (
        f"{name} with {memory / _GIB:.0f} GiB: {size} window(s) at a time fit,"
        f" {' '.join(options) or 'without further options'}"
    )
