"""What a training runs on, how precisely, and how several processes work together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference.device import cpu_has_bfloat16

# Processes wait for the first one while it validates, hours with many large cases.
PATIENCE = timedelta(days=2)


def accelerator(device: str, devices: int = 1) -> str:
    """ "cuda", "mps" or "cpu"; "auto" takes the first there is.

    Raises:
        MaskSAMError: a device that is not there, or more of them than there are.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        kind = next(kind for kind, there in available.items() if there)
    else:
        kind = device.split(":")[0]
    if not available.get(kind, False):
        there = ", ".join(k for k, yes in available.items() if yes)
        raise MaskSAMError(f"device '{device}' is not available here: choose auto or {there}")
    count = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)
    if count is not None and devices > count:
        raise MaskSAMError(f"there are no {devices} devices '{kind}' here, only {count}")
    return kind


def precision(kind: str) -> Any:
    """Lightning's precision for a device: mixed where the device computes it natively. A CPU
    without bf16 instructions would emulate them, many times slower."""
    if kind == "cuda":
        return "bf16-mixed" if _gpu_bf16() else "16-mixed"
    if kind == "cpu" and cpu_has_bfloat16():
        return "bf16-mixed"
    return "32-true"


def _gpu_bf16() -> bool:
    try:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # older versions of PyTorch never counted emulation
        return torch.cuda.is_bf16_supported()


def strategy(kind: str, devices: int) -> Any:
    """Lightning's strategy: processes of their own for several devices."""
    if devices == 1:
        return "auto"
    return DDPStrategy(
        start_method="spawn",
        process_group_backend="nccl" if kind == "cuda" else "gloo",
        find_unused_parameters=True,
        timeout=PATIENCE,
    )
