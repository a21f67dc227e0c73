"""Accelerator, numerical precision and multi-process strategy of a training."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference.device import cpu_has_bfloat16

# All processes wait while the first one validates, which takes hours with many large cases.
COLLECTIVE_TIMEOUT = timedelta(days=2)


def accelerator(device: str, devices: int = 1) -> str:
    """Return the kind of device to train on: "cuda", "mps" or "cpu".

    Args:
        device: "auto", "cuda", "mps" or "cpu"; "auto" takes the first one that is available.
        devices: number of devices to train on; on a CPU, the number of processes.

    Raises:
        MaskSAMError: the device is not available, or there are fewer of them than asked for.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        kind = next(kind for kind, usable in available.items() if usable)
    else:
        kind = device.split(":")[0]
    if not available.get(kind, False):
        choices = ", ".join(kind for kind, usable in available.items() if usable)
        raise MaskSAMError(f"device '{device}' is not available here: choose auto or {choices}")
    count = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)
    if count is not None and devices > count:
        raise MaskSAMError(f"there are no {devices} devices '{kind}' here, only {count}")
    return kind


def precision(kind: str) -> Any:
    """Return Lightning's precision for a kind of device: mixed where the hardware supports it.

    A CPU without bfloat16 instructions would emulate them and be many times slower.
    """
    if kind == "cuda":
        return "bf16-mixed" if _gpu_has_bfloat16() else "16-mixed"
    if kind == "cpu" and cpu_has_bfloat16():
        return "bf16-mixed"
    return "32-true"


def _gpu_has_bfloat16() -> bool:
    try:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # Older versions of PyTorch lack the argument and never count emulation.
        return torch.cuda.is_bf16_supported()


def strategy(kind: str, processes: int, external: bool = False) -> Any:
    """Return Lightning's strategy: data parallel with one process per device if there are several.

    Args:
        kind: kind of the devices.
        processes: number of processes.
        external: True if torchrun started the processes.
    """
    if processes == 1:
        return "auto"
    return DDPStrategy(
        start_method="popen" if external else "spawn",
        process_group_backend="nccl" if kind == "cuda" else "gloo",
        find_unused_parameters=True,
        timeout=COLLECTIVE_TIMEOUT,
    )
