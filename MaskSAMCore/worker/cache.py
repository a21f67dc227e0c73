"""What is kept between requests: models that are loaded, and volumes that are held open."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from MaskSAMCore.geometry import Box, Volume

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmenter, Session


# Volumes that are held open at once; the client keeps as many on disk.
SESSIONS = 3


@dataclass(frozen=True)
class _Held:
    signature: Hashable
    session: Session
    segmenter: Segmenter


class Warm:
    """Segmenters and sessions, least recently used let go first.

    Args:
        limit: bytes that both may hold together; the model used last is always kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._segmenters: OrderedDict[tuple[str, int, str], tuple[Segmenter, str]] = OrderedDict()
        self._sessions: OrderedDict[str, _Held] = OrderedDict()

    def segmenter(self, model: str, device: str) -> Segmenter:
        """The model on the device, loaded where it is not warm.

        Raises:
            MaskSAMError: there is no such model, it is damaged, or the device is unusable.
        """
        from MaskSAMCore.inference import Segmenter

        key = model, _changed(model), device
        if key in self._segmenters:
            self._segmenters.move_to_end(key)
            return self._segmenters[key][0]
        segmenter = Segmenter.from_model(model, device=device)
        self._segmenters[key] = segmenter, str(segmenter.device.device)
        self.trim()
        return segmenter

    def session(
        self,
        key: str,
        signature: Hashable,
        segmenter: Segmenter,
        volumes: list[Volume],
        roi: Box | None,
        tta: Literal["none", "mirror"],
    ) -> tuple[Session, bool]:
        """The session of a key, and whether it had to be opened: because there is none, or because
        anything but the boxes is another."""
        from MaskSAMCore.inference.embedding_cache import CACHE_BYTES

        held = self._sessions.get(key)
        if held is not None and held.signature == signature and held.segmenter is segmenter:
            self._sessions.move_to_end(key)
            return held.session, False
        self.close_session(key)
        cache = min(CACHE_BYTES, self.limit // 2)
        session = segmenter.open(volumes, roi=roi, tta=tta, cache_bytes=cache)
        self._sessions[key] = _Held(signature, session, segmenter)
        while len(self._sessions) > SESSIONS:
            self.close_session(next(iter(self._sessions)))
        return session, True

    def close_session(self, key: str) -> None:
        """Let go of a session, if there is one of that key."""
        held = self._sessions.pop(key, None)
        if held is not None:
            held.session.close()

    def trim(self) -> None:
        """Let go of what exceeds the bound, and of models that fled from their GPU."""
        for key, (segmenter, device) in list(self._segmenters.items()):
            if str(segmenter.device.device) != device:
                self._drop(key)  # the next run tries the GPU again
        while len(self._sessions) > 1 and self.used > self.limit:
            self.close_session(next(iter(self._sessions)))
        while len(self._segmenters) > 1 and self.used > self.limit:
            self._drop(next(iter(self._segmenters)))
        if self._sessions and self.used > self.limit:
            self.forget_sessions()
        _empty_gpu_cache()

    def forget(self) -> None:
        """Let go of everything."""
        self.forget_sessions()
        self._segmenters.clear()
        _empty_gpu_cache()

    def forget_sessions(self) -> None:
        """Let go of all sessions."""
        for key in list(self._sessions):
            self.close_session(key)

    @property
    def used(self) -> int:
        """Bytes held, not counting files that are mapped."""
        seen: set[int] = set()
        return sum(
            _bytes_held(one, seen)
            for one in (
                *(held.session for held in self._sessions.values()),
                *(segmenter for segmenter, _ in self._segmenters.values()),
            )
        )

    def _drop(self, key: tuple[str, int, str]) -> None:
        segmenter, _ = self._segmenters.pop(key)
        for name, held in list(self._sessions.items()):
            if held.segmenter is segmenter:
                self.close_session(name)


def _changed(model: str) -> int:
    """When a model's files last changed, in nanoseconds."""
    from MaskSAMCore.models import find

    path = Path(model)
    if not path.exists():
        folder = find(model).folder
        if folder is None:
            return 0
        path = folder
    description = path / "masksam.json"
    return (description if description.is_file() else path).stat().st_mtime_ns


def _bytes_held(value: Any, seen: set[int]) -> int:
    """Memory of all tensors and arrays within an object of ours, each counted once."""
    import torch

    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return 0 if _is_mapped(value) else value.nbytes
    if isinstance(value, torch.nn.Module):
        parts: Any = (*value.parameters(), *value.buffers())
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif type(value).__module__.startswith("MaskSAMCore."):
        parts = vars(value).values() if hasattr(value, "__dict__") else ()
    else:
        parts = ()
    return sum(_bytes_held(part, seen) for part in parts)


def _is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def _empty_gpu_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
