"""Cache of the embeddings of windows, in memory up to a limit and in files beyond it.

An embedding is the result of a network's `encode`: any dataclass, sequence or mapping whose tensors
have the batch first.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from MaskSAMCore.io.files import EMBEDDINGS_PREFIX

# Bytes of memory for the embeddings of a session; further embeddings go to files.
CACHE_BYTES = 1 << 30
# Bytes that stay free on the disk, and largest total size of the files: embeddings only save time.
FREE_DISK = 2 << 30
SPILL_LIMIT = 8 << 30


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of a nested structure with `function` applied to each of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)}
        return replace(value, **changes)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [map_tensors(item, function) for item in value]
        # The constructor of a named tuple takes the items one by one.
        return type(value)(items) if type(value) in (list, tuple) else type(value)(*items)
    return value


def copy_window(embedding: Any, index: int) -> Any:
    """Copy the embedding of one window of a batch to the CPU, as a batch of one."""
    return map_tensors(embedding, lambda t: t[index : index + 1].detach().to("cpu", copy=True))


def size_in_bytes(embedding: Any) -> int:
    """Return the memory of an embedding's tensors in bytes."""
    sizes: list[int] = []

    def measure(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_tensors(embedding, measure)
    return sum(sizes)


@dataclass(frozen=True)
class _Spilled:
    """An embedding on disk: its structure with empty tensors, and one file per tensor."""

    structure: Any
    files: tuple[Path, ...]


class EmbeddingCache:
    """Embeddings by key, in memory up to a limit and in files beyond it.

    The files are NumPy arrays without pickles, in a private folder within the folder for temporary
    files. The folder is created when it is first needed and removed by :meth:`clear`, at the latest
    when the process ends. Files are memory-mapped when they are read. An embedding is not kept if
    it would leave less than FREE_DISK on the disk, or if the files would become too large.

    Args:
        limit: bytes of embeddings in memory; 0 keeps none, not even in files.
        spill_limit: bytes of embeddings in files at most; None for no limit.

    Attributes:
        limit: bytes of embeddings in memory at most.
        used: bytes of embeddings in memory.
        spilled: bytes of embeddings in files.
    """

    def __init__(self, limit: int, spill_limit: int | None = SPILL_LIMIT) -> None:
        self.limit = limit
        self._spill_limit = spill_limit
        self.used = 0
        self.spilled = 0
        self._kept: dict[Hashable, Any] = {}
        self._folder: Path | None = None
        self._remove: weakref.finalize[..., EmbeddingCache] | None = None
        self._written = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Hashable, embedding: Any) -> None:
        """Keep an embedding, unless its key is in the cache already or there is no room."""
        if key in self._kept or not self.limit:
            return
        size = size_in_bytes(embedding)
        if self.used + size <= self.limit:
            self._kept[key] = embedding
            self.used += size
            return
        if self._spill_limit is not None and self.spilled + size > self._spill_limit:
            return
        written = self._write(embedding, size)
        if written is not None:
            self._kept[key] = written
            self.spilled += size

    def get(self, key: Hashable, device: torch.device) -> Any | None:
        """Return an embedding on a device, or None if it was not kept."""
        kept = self._kept.get(key)
        if isinstance(kept, _Spilled):
            try:
                kept = _read(kept)
            except (OSError, ValueError):
                # If another program has deleted the files, the window is encoded again.
                del self._kept[key]
                return None
        return None if kept is None else map_tensors(kept, lambda t: t.to(device))

    def clear(self) -> None:
        """Remove all embeddings and their files."""
        self._kept.clear()
        self.used = self.spilled = 0
        if self._remove is not None:
            self._remove()
        self._folder = self._remove = None

    def _write(self, embedding: Any, size: int) -> _Spilled | None:
        tensors: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor.new_empty(0)

        structure = map_tensors(embedding, take)
        files: list[Path] = []
        try:
            folder = self._private_folder()
            if shutil.disk_usage(folder).free - size < FREE_DISK:
                return None
            for tensor in tensors:
                self._written += 1
                files.append(folder / f"{self._written}.npy")
                np.save(files[-1], tensor.numpy(), allow_pickle=False)
        except OSError:
            for path in files:
                path.unlink(missing_ok=True)
            return None
        return _Spilled(structure, tuple(files))

    def _private_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=EMBEDDINGS_PREFIX))
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, True)
        return self._folder


def _read(spilled: _Spilled) -> Any:
    """Return an embedding with memory-mapped tensors; writing to them does not change the files."""
    arrays: Iterator[Any] = (
        np.load(path, mmap_mode="c", allow_pickle=False) for path in spilled.files
    )
    return map_tensors(spilled.structure, lambda _: torch.from_numpy(next(arrays)))
