"""Rate of each convolution and matrix product of a model, compared with the processor's rate.

    python -m Testing.benchmarks.layers brain
    ONEDNN_MAX_CPU_ISA=AVX2 python -m Testing.benchmarks.layers hippocampus

A window of random numbers is encoded and decoded on one thread, in the precision that inference
uses on the processor. Each row is an operation on tensors of given shapes: its share of the total
time, its arithmetic in GFLOP, and its rate, also as a fraction of the best rate of a large matrix
product. A convolution far below that rate runs in a slow kernel.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from MaskSAMCore.allocation import keep_freed_memory
from MaskSAMCore.inference.device import choose_device, mixed_precision
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.models import open_model

_SIZE = 2048
_REPETITIONS = 5


@dataclass
class Total:
    """Sums over the calls of an operation with the same shapes."""

    calls: int = 0
    seconds: float = 0.0
    flop: float = 0.0


class Recorder(TorchDispatchMode):
    """Times of all operations, by name and shapes of convolutions and matrix products.

    Attributes:
        totals: sums by name and shapes; all other operations are summed as "others".
    """

    def __init__(self) -> None:
        super().__init__()
        self.totals: defaultdict[str, Total] = defaultdict(Total)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call an operation and record its time."""
        began = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        seconds = time.perf_counter() - began
        name = function.overloadpacket.__name__
        tensors = [
            value
            for arg in args
            for value in (arg if isinstance(arg, list | tuple) else [arg])
            if isinstance(value, Tensor)
        ]
        flop = _flop(name, args, tensors, result)
        key = "others"
        if flop:
            shapes = ", ".join(" x ".join(map(str, x.shape)) for x in tensors if x.ndim > 1)
            key = f"{name} {shapes}"
        total = self.totals[key]
        total.calls += 1
        total.seconds += seconds
        total.flop += flop
        return result


def _flop(name: str, args: Any, tensors: list[Tensor], result: Any) -> float:
    """Return the floating-point operations of a convolution or a matrix product, else 0."""
    if name.startswith(("conv", "mkldnn_conv")):
        return 2.0 * result.numel() * tensors[1][0].numel()
    if name in ("linear", "matmul", "mm", "bmm"):
        return 2.0 * result.numel() * tensors[0].shape[-1]
    if name in ("addmm", "addmm_", "baddbmm"):
        return 2.0 * result.numel() * tensors[1].shape[-1]
    if name == "einsum":
        axes = args[0].split("->")[0].split(",")
        sizes = {
            a: n
            for x, t in zip(axes, tensors, strict=True)
            for a, n in zip(x, t.shape, strict=True)
        }
        return 2.0 * math.prod(sizes.values())
    return 0.0


def product_rate(dtype: torch.dtype) -> float:
    """Return the best rate of a large matrix product in FLOP per second."""
    x = torch.randn(_SIZE, _SIZE, dtype=dtype)
    seconds = min(_timed(lambda: x @ x) for _ in range(_REPETITIONS))
    return 2.0 * _SIZE**3 / seconds


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def print_table(title: str, totals: dict[str, Total], rate: float, rows: int) -> None:
    """Print the operations that take most of the time, and the sums.

    Args:
        title: part of the network.
        totals: sums by operation.
        rate: rate of a large matrix product in FLOP per second.
        rows: number of operations to print.
    """
    whole = sum(total.seconds for total in totals.values())
    print(f"\n{title}: {1e3 * whole / _REPETITIONS:.0f} ms\n")
    print("| operation | calls | share of time | GFLOP | GFLOP/s | of a large product |")
    print("|---|---|---|---|---|---|")
    counted = {name: total for name, total in totals.items() if total.flop}
    ordered = sorted(counted.items(), key=lambda item: -item[1].seconds)
    together = Total()
    convolutions = Total()
    for name, total in ordered:
        for group in (together, convolutions) if "convolution" in name else (together,):
            group.calls += total.calls
            group.seconds += total.seconds
            group.flop += total.flop
    sums = [("all convolutions", convolutions), ("all convolutions and products", together)]
    for name, total in [*ordered[:rows], *sums]:
        if total.calls:
            speed = total.flop / total.seconds
            calls, flop = total.calls // _REPETITIONS, total.flop / _REPETITIONS
            print(
                f"| {name} | {calls} | {total.seconds / whole:.1%} | {flop / 1e9:.2f} |"
                f" {speed / 1e9:.0f} | {speed / rate:.2f} |"
            )


def main() -> None:
    """Measure a model and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name or path of a model")
    parser.add_argument("--rows", type=int, default=12, help="operations in each table")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    runner = Runner(open_model(options.model)[0].build(None), choose_device("cpu"), 1)
    config = runner.model.config
    window = torch.randn(1, config.in_channels, *config.window)
    with mixed_precision(runner.device):
        encoded_in = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    rates = {dtype: product_rate(dtype) for dtype in {torch.float32, encoded_in}}
    for dtype, rate in rates.items():
        print(f"a product of {_SIZE} x {_SIZE} matrices, {dtype}: {rate / 1e9:.0f} GFLOP/s")
    embedding = runner.encode(window)
    runner.automatic(embedding)
    for title, call, dtype in (
        ("encode", lambda: runner.encode(window), encoded_in),
        ("decode", lambda: runner.automatic(embedding), torch.float32),
    ):
        with Recorder() as recorder:
            for _ in range(_REPETITIONS):
                call()
        print_table(
            f"{options.model}, {title}, {dtype}", dict(recorder.totals), rates[dtype], options.rows
        )


if __name__ == "__main__":
    main()
