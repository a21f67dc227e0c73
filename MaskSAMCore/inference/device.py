"""Where the network runs: the choice, its reason in words, and what to do when memory runs out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from MaskSAMCore.errors import MaskSAMError

KINDS = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class DeviceChoice:
    """A device and why it was chosen, for people to read."""

    device: torch.device
    reason: str

    def __str__(self) -> str:
        return f"{self.device} ({self.reason})"


def choose_device(wanted: str = "auto") -> DeviceChoice:
    """The device to use.

    Args:
        wanted: "auto" (the fastest present), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        MaskSAMError: the device is unknown, or not usable here.
    """
    kind, _, index = wanted.partition(":")
    if kind not in KINDS or (index and (kind != "cuda" or not index.isdigit())):
        raise MaskSAMError(f"unknown device '{wanted}': choose one of {', '.join(KINDS)}")
    if kind == "auto":
        return _fastest()
    if kind == "cpu":
        return DeviceChoice(torch.device("cpu"), "as asked")
    missing = _why_no_cuda() if kind == "cuda" else _why_no_mps()
    if missing:
        raise MaskSAMError(f"the device '{wanted}' cannot be used: {missing}; choose auto or cpu")
    if kind == "mps":
        return DeviceChoice(torch.device("mps"), "as asked")
    if int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise MaskSAMError(
            f"the device '{wanted}' does not exist: this machine has {count} CUDA device(s),"
            " numbered from 0"
        )
    device = torch.device(wanted)
    return DeviceChoice(device, f"{torch.cuda.get_device_name(device)}, as asked")


def _fastest() -> DeviceChoice:
    no_cuda, no_mps = _why_no_cuda(), _why_no_mps()
    if not no_cuda:
        return DeviceChoice(torch.device("cuda"), torch.cuda.get_device_name())
    if not no_mps:
        return DeviceChoice(torch.device("mps"), "Apple GPU")
    return DeviceChoice(torch.device("cpu"), no_cuda)


def _why_no_cuda() -> str:
    """Empty where CUDA (or ROCm, which goes by the same name) works."""
    if not (torch.backends.cuda.is_built() or torch.version.hip):
        return "this PyTorch was built without GPU support"
    if not torch.cuda.is_available():
        return "PyTorch found no GPU with a working driver"
    return ""


def _why_no_mps() -> str:
    if not torch.backends.mps.is_built():
        return "this PyTorch was built without support for Apple GPUs"
    if not torch.backends.mps.is_available():
        return "it needs an Apple GPU and macOS 12.3 or newer"
    return ""


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where the device computes in it natively; float32 elsewhere, for emulated
    it is three times slower."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.autocast("cuda", torch.bfloat16)
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 (AMX or AVX-512), as far as PyTorch can tell."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch means that a device's memory ran out."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    # Apple GPUs and the CPU allocator raise a bare RuntimeError.
    messages = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in messages)
