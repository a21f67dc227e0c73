"""Models and open volumes that are kept between requests."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.worker.protocol import MAX_SESSIONS

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmenter, Session

# Name or path of a model, modification times of its files, and device.
_SegmenterKey = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class _OpenSession:
    """An open session with the segmenter that it belongs to.

    Attributes:
        key: key of the session's input: files, ROI and test-time augmentation.
        session: open session.
        segmenter: segmenter that opened the session.
    """

    key: Hashable
    session: Session
    segmenter: Segmenter


def load_segmenter(model: str, device: str) -> Segmenter:
    """Load a model by its name in the catalog or the path of its bundle.

    Raises:
        MaskSAMError: there is no such model, it is damaged, or the device is unusable.
    """
    from MaskSAMCore.inference import Segmenter

    return Segmenter.from_model(model, device=device)


LoadSegmenter = Callable[[str, str], "Segmenter"]


class ModelCache:
    """Least-recently-used cache of segmenters and sessions.

    Args:
        limit: bytes that segmenters and sessions together may use between requests; the segmenter
            used last is kept in any case.
        load: function that loads the segmenter of a model on a device.
    """

    def __init__(self, limit: int, load: LoadSegmenter = load_segmenter) -> None:
        self.limit = limit
        self._load = load
        self._segmenters: OrderedDict[_SegmenterKey, tuple[Segmenter, str]] = OrderedDict()
        self._sessions: OrderedDict[str, _OpenSession] = OrderedDict()

    def segmenter(self, model: str, device: str) -> Segmenter:
        """Return the segmenter of a model on a device; load it if it is not in the cache.

        Raises:
            MaskSAMError: there is no such model, it is damaged, or the device is unusable.
        """
        key = model, _times_changed(model), device
        if key in self._segmenters:
            self._segmenters.move_to_end(key)
            return self._segmenters[key][0]
        segmenter = self._load(model, device)
        self._segmenters[key] = segmenter, str(segmenter.device.device)
        self.trim()
        return segmenter

    def session(
        self,
        name: str,
        files: Hashable,
        segmenter: Segmenter,
        channels: Callable[[], list[Volume]],
        roi: Box | None,
        tta: Literal["none", "mirror"],
    ) -> tuple[Session, bool]:
        """Return the session with a name, and whether it had to be opened.

        Args:
            name: name that the client gave the session.
            files: key that changes with the content of the image files.
            segmenter: segmenter that opens the session.
            channels: function that returns the channels of the volume, all on one grid; called only
                if the session has to be opened.
            roi: region to process, in IJK voxel edges; None for the whole volume.
            tta: test-time augmentation.
        """
        from MaskSAMCore.inference.embedding_cache import CACHE_BYTES

        key, kept = (files, roi, tta), self._sessions.get(name)
        if kept is not None and kept.key == key and kept.segmenter is segmenter:
            self._sessions.move_to_end(name)
            return kept.session, False
        self.close_session(name)
        cache = min(CACHE_BYTES, self.limit // 2)
        session = segmenter.open(channels(), roi=roi, tta=tta, cache_bytes=cache)
        self._sessions[name] = _OpenSession(key, session, segmenter)
        while len(self._sessions) > MAX_SESSIONS:
            self.close_session(next(iter(self._sessions)))
        return session, True

    def close_session(self, name: str) -> None:
        """Close a session, if it exists."""
        kept = self._sessions.pop(name, None)
        if kept is not None:
            kept.session.close()

    def close_sessions(self) -> None:
        """Close all sessions."""
        for name in list(self._sessions):
            self.close_session(name)

    def clear(self) -> None:
        """Close all sessions and drop all segmenters."""
        self.close_sessions()
        self._segmenters.clear()
        _empty_gpu_cache()

    def trim(self) -> None:
        """Drop models and sessions above the limit, and models that fell back to the CPU."""
        for key, (segmenter, device) in list(self._segmenters.items()):
            if str(segmenter.device.device) != device:
                self._drop(key)  # the next run tries the GPU again
        while len(self._sessions) > 1 and self.used > self.limit:
            self.close_session(next(iter(self._sessions)))
        while len(self._segmenters) > 1 and self.used > self.limit:
            self._drop(next(iter(self._segmenters)))
        if self._sessions and self.used > self.limit:
            self.close_sessions()
        _empty_gpu_cache()

    @property
    def used(self) -> int:
        """Bytes in memory, without memory-mapped files."""
        sessions = sum(kept.session.memory_bytes for kept in self._sessions.values())
        return sessions + sum(one.memory_bytes for one, _ in self._segmenters.values())

    def _drop(self, key: _SegmenterKey) -> None:
        segmenter, _ = self._segmenters.pop(key)
        for name, kept in list(self._sessions.items()):
            if kept.segmenter is segmenter:
                self.close_session(name)


def _times_changed(model: str) -> tuple[int, ...]:
    """Return the modification times of a model's files in nanoseconds."""
    from MaskSAMCore.models.catalog import DESCRIPTION, find, is_path
    from MaskSAMCore.models.expected_dice import QUALITY

    path = Path(model)
    if not is_path(model):
        folder = find(model).folder
        if folder is None:
            return ()
        path = folder
    # The estimator of the Dice may be fitted, or fitted again, after the model was loaded.
    described = [file for file in (path / DESCRIPTION, path / QUALITY) if file.is_file()]
    return tuple(file.stat().st_mtime_ns for file in described or [path])


def _empty_gpu_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
