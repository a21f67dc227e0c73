"""Embeddings of windows, kept within a bound of memory.

An embedding is whatever a model's `encode` returns: a dataclass, sequence or mapping whose
tensors have the batch first. Nothing here depends on which.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with `function` applied to each of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)}
        return replace(value, **changes)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def item(embedding: Any, index: int) -> Any:
    """One window of a batch as a batch of one: a copy on the CPU that outlives the batch."""
    return map_tensors(embedding, lambda t: t[index : index + 1].detach().to("cpu", copy=True))


def size_in_bytes(embedding: Any) -> int:
    """Memory held by an embedding's tensors."""
    sizes: list[int] = []

    def measure(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_tensors(embedding, measure)
    return sum(sizes)


class EmbeddingCache:
    """Embeddings by key, up to a number of bytes; one that does not fit is not kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._kept: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Hashable, embedding: Any) -> None:
        """Keep an embedding where it still fits."""
        size = size_in_bytes(embedding)
        if key not in self._kept and self.used + size <= self.limit:
            self._kept[key] = embedding
            self.used += size

    def get(self, key: Hashable, device: torch.device) -> Any | None:
        """The embedding on the device, or None where it was not kept."""
        kept = self._kept.get(key)
        return None if kept is None else map_tensors(kept, lambda t: t.to(device))

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()
        self.used = 0
