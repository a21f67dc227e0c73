"""Two halves of a batch that are trained at the same time on a CPU, on half of the cores each.

Most operations of a window are too small to be divided well among cores: two windows on a core each
take less time than both on two cores, one operation after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from MaskSAMCore.inference.embedding_cache import map_tensors
from MaskSAMCore.inference.parallel import results_in_order
from MaskSAMCore.modeling import Network
from MaskSAMCore.modeling.layers import mixed_precision_on_cpu

Work = Callable[[list[Tensor]], list[Tensor]]


def halve_steps(model: Network) -> None:
    """Make the methods that take most of a training step compute both halves of a batch at once.

    The results and the gradients are those of the whole batch but for rounding.

    Args:
        model: network whose methods are replaced; windows of a batch must not depend on each other
            in them.
    """
    anchor = next(p for p in model.parameters() if p.requires_grad)
    for name in model.training_methods:
        setattr(model, name, _in_halves(getattr(model, name), anchor))


def _in_halves(method: Callable[..., Any], anchor: Tensor) -> Callable[..., Any]:
    """Return a method that computes both halves of a batch at once.

    Args:
        method: function of nested structures of tensors, all of them of whole batches.
        anchor: a tensor that needs a gradient, without which none would reach the method.
    """

    @wraps(method)
    def run(*arguments: Any, **named: Any) -> Any:
        given = _tensors((arguments, named))
        if not torch.is_grad_enabled() or len(given[0]) < 2:
            return method(*arguments, **named)
        results: list[Any] = []

        def work(tensors: list[Tensor]) -> list[Tensor]:
            some, some_named = _with_tensors((arguments, named), tensors)
            result = method(*some, **some_named)
            results.append(result)
            return _tensors(result)

        found = _Halves.apply(work, anchor, *given)
        return _with_tensors(results[0], list(found))

    return run


class _Halves(torch.autograd.Function):
    """A function of batches whose halves are computed, and differentiated, on a thread each."""

    @staticmethod
    def forward(ctx: Any, work: Work, anchor: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        batch = len(given[0])
        parts = slice(0, (batch + 1) // 2), slice((batch + 1) // 2, batch)
        mixed = mixed_precision_on_cpu()

        def compute(part: slice) -> tuple[list[Tensor], list[Tensor]]:
            # Gradients and mixed precision are settings of a thread.
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                inputs = [x[part].detach().requires_grad_(x.requires_grad) for x in given]
                return inputs, work(inputs)

        ctx.parts = parts
        with results_in_order(compute, parts, 2) as halves:
            ctx.halves = list(halves)
        (_, first), (_, second) = ctx.halves
        found = tuple(torch.cat(pair).detach() for pair in zip(first, second, strict=True))
        fixed = [x for x, half in zip(found, first, strict=True) if not half.requires_grad]
        ctx.mark_non_differentiable(*fixed)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        def differentiate(index: int) -> list[Tensor | None]:
            inputs, outputs = ctx.halves[index]
            pairs = [
                (output, gradient[ctx.parts[index]])
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            if pairs:
                torch.autograd.backward(*zip(*pairs, strict=True))
            return [x.grad for x in inputs]

        with results_in_order(differentiate, (0, 1), 2) as halves:
            first, second = halves
        joined = [
            None if a is None or b is None else torch.cat((a, b))
            for a, b in zip(first, second, strict=True)
        ]
        return (None, None, *joined)


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a nested structure."""
    found: list[Tensor] = []

    def collect(x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_tensors(value, collect)
    return found


def _with_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """Return a nested structure with other tensors, in the order of :func:`_tensors`."""
    rest = iter(tensors)
    return map_tensors(value, lambda _: next(rest))
