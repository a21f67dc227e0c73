"""Device of a network, its precision, and the fallback when its memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from MaskSAMCore.errors import MaskSAMError, OutOfMemory, is_out_of_memory
from MaskSAMCore.inference.parallel import cpu_threads

Result = TypeVar("Result")
KINDS = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class DeviceChoice:
    """A device and the reason for its choice.

    Attributes:
        device: device of PyTorch.
        reason: reason for the choice, in words.
    """

    device: torch.device
    reason: str

    def __str__(self) -> str:
        return f"{self.device} ({self.reason})"


def choose_device(wanted: str = "auto") -> DeviceChoice:
    """Choose the device to use.

    Args:
        wanted: "auto" for the fastest one, "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        MaskSAMError: the device is unknown, or not usable here.
    """
    kind, _, index = wanted.partition(":")
    if kind not in KINDS or (index and (kind != "cuda" or not index.isdigit())):
        raise MaskSAMError(f"unknown device '{wanted}': choose one of {', '.join(KINDS)}")
    if kind == "auto":
        return _fastest()
    if kind == "cpu":
        return DeviceChoice(torch.device("cpu"), "as requested")
    missing = _why_no_cuda() if kind == "cuda" else _why_no_mps()
    if missing:
        raise MaskSAMError(f"the device '{wanted}' cannot be used: {missing}; choose auto or cpu")
    if kind == "mps":
        return DeviceChoice(torch.device("mps"), "as requested")
    if int(index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise MaskSAMError(
            f"the device '{wanted}' does not exist: this machine has {count} CUDA device(s),"
            " numbered from 0"
        )
    device = torch.device(wanted)
    return DeviceChoice(device, f"{torch.cuda.get_device_name(device)}, as requested")


def _fastest() -> DeviceChoice:
    no_cuda, no_mps = _why_no_cuda(), _why_no_mps()
    if not no_cuda:
        return DeviceChoice(torch.device("cuda"), torch.cuda.get_device_name())
    if not no_mps:
        return DeviceChoice(torch.device("mps"), "Apple GPU")
    # If an Apple GPU was found, the reason explains why it is not used.
    reason = no_mps if torch.backends.mps.is_available() else no_cuda
    return DeviceChoice(torch.device("cpu"), reason)


def _why_no_cuda() -> str:
    """Return why CUDA (or ROCm, which has the same name in PyTorch) is unusable; "" if it works."""
    if not (torch.backends.cuda.is_built() or torch.version.hip):
        return "this PyTorch was built without GPU support"
    if not torch.cuda.is_available():
        return "PyTorch found no GPU with a working driver"
    return ""


def _why_no_mps() -> str:
    """Return why Apple GPUs are unusable; "" if they work."""
    if not torch.backends.mps.is_built():
        return "this PyTorch was built without support for Apple GPUs"
    if not torch.backends.mps.is_available():
        return "it needs an Apple GPU and macOS 12.3 or newer"
    failure = _failure_on_mps()
    return f"the networks do not run on this Apple GPU ({failure})" if failure else ""


@cache
def _failure_on_mps() -> str:
    """Return why an Apple GPU cannot run the networks; "" if it can.

    PyTorch reports the device as available even if operations are missing, such as 3D convolutions
    before PyTorch 2.3.
    """
    try:
        result = network_operations(torch.device("mps")).cpu()
    except RuntimeError as error:
        return f"PyTorch {torch.__version__}: {_first_line(error)}"
    correct = torch.allclose(result, network_operations(torch.device("cpu")), atol=1e-3)
    return "" if correct else f"PyTorch {torch.__version__} computes wrong values there"


def network_operations(device: torch.device) -> Tensor:
    """Return the result of a small example of the operations that the networks consist of."""
    x = torch.linspace(-1, 1, 2 * 3 * 8 * 8, device=device).cos().reshape(1, 2, 3, 8, 8)
    kernels = torch.linspace(-1, 1, 4 * 2 * 27, device=device).reshape(4, 2, 3, 3, 3)
    x = F.leaky_relu(F.instance_norm(F.conv3d(x, kernels, padding=1)), 0.01)
    slices = x[0].transpose(0, 1)
    each = torch.ones(4, 1, 3, 3, device=device)
    slices = F.gelu(F.conv2d(slices, each, padding=1, groups=4))
    tokens = F.layer_norm(F.adaptive_avg_pool2d(slices, 4).flatten(2).transpose(1, 2), [4])
    tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
    maps = tokens.transpose(1, 2).unflatten(2, (4, 4))
    return F.interpolate(maps, (8, 8), mode="bilinear", align_corners=False)


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return bfloat16 autocast for a device with bfloat16 units, else a context without effect.

    Emulated bfloat16 is three times slower than float32.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.autocast("cuda", torch.bfloat16)
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def cpu_has_bfloat16() -> bool:
    """Return True if the processor multiplies in bfloat16 (AMX or AVX-512) and oneDNN may do so.

    ``ONEDNN_MAX_CPU_ISA`` can forbid it; oneDNN would then emulate bfloat16.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    units = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return bool(units) and onednn_has_bfloat16()


def onednn_has_bfloat16() -> bool:
    """Return True if oneDNN, which computes PyTorch's convolutions, may use bfloat16 units."""
    available = torch.backends.mkldnn.is_available()
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class MemoryFallback:
    """Fallback to smaller batches, and then to the CPU, when memory runs out.

    An Apple GPU is also replaced by the CPU if an operation fails, because PyTorch lacks some
    operations there.

    Args:
        choice: device to begin with.
        move: function that moves the network to a device.
        unit: name of one item of a batch in messages, such as "window".
        batch_size: items that are processed together on the first device.

    Attributes:
        choice: device in use and the reason for it.
        batch_size: items to process together now; 1 on the CPU after a GPU's memory ran out.
        notes: messages about the changes so far.
    """

    def __init__(
        self,
        choice: DeviceChoice,
        move: Callable[[torch.device], object],
        unit: str,
        batch_size: int = 1,
    ) -> None:
        self.choice = choice
        self.batch_size = batch_size
        self.notes: list[str] = []
        self._move = move
        self._unit = unit
        move(choice.device)

    def run(
        self, work: Callable[[], Result], notify: Callable[[str], None] | None = None
    ) -> Result:
        """Return the result of `work`, which is called again after each change.

        Args:
            work: function that uses the present `choice` and `batch_size`.
            notify: called with the message about each change.

        Raises:
            OutOfMemory: memory is too small even for one item on the CPU.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                failure = ""
                if not is_out_of_memory(error):
                    if self.choice.device.type != "mps":
                        raise
                    failure = _first_line(error)
            # This is done outside the handler, whose exception keeps the failed attempt's tensors.
            self.notes.append(self._leave_mps(failure) if failure else self._reduce())
            if notify is not None:
                notify(self.notes[-1])

    def _leave_mps(self, failure: str) -> str:
        """Move from an Apple GPU to the CPU, and return the message about it."""
        self.choice = DeviceChoice(torch.device("cpu"), "the Apple GPU failed")
        # On a CPU the items of a batch are processed on threads, each with memory of its own.
        self.batch_size = min(self.batch_size, cpu_threads())
        self._move(self.choice.device)
        return f"the Apple GPU failed ({failure}): continuing on the CPU"

    def _reduce(self) -> str:
        """Halve the batches or move to the CPU, and return the message about it."""
        device = self.choice.device
        if self.batch_size > 1:
            self.batch_size //= 2
            change = f"with {self.batch_size} {self._unit}(s) at a time"
        elif device.type != "cpu":
            self.choice = DeviceChoice(torch.device("cpu"), f"{device} ran out of memory")
            self._move(self.choice.device)
            change = "on the CPU"
        else:
            raise OutOfMemory(
                f"this computer's memory is too small for one {self._unit} of this model: close"
                " other programs or choose a smaller model"
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return f"{device} ran out of memory: continuing {change}"


def _first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if the message is empty."""
    return next(iter(str(error).splitlines()), type(error).__name__)
