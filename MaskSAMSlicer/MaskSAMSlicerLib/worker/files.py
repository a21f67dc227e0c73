"""The private folder through which volumes go to the worker and labelmaps come back."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMSlicerLib.worker.jobs import SegmentRequest, WorkerError
from MaskSAMSlicerLib.worker.jobs import cancelled as stopped

_PREFIX = "masksam"
_NAME = re.compile(rf"{_PREFIX}-(?P<host>[\w.]+)-(?P<pid>\d+)-(?P<began>\d+)-")
# What is written, or compared, between two looks at whether it is still wanted.
_PIECE_BYTES = 8 << 20
# Sessions whose volumes stay on disk; the worker forgets old ones too.
_SESSIONS = 3


class SharedFiles:
    """Raw files in a folder that only this process, and its worker, know.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        began = process_began(os.getpid()) or 0
        prefix = f"{_PREFIX}-{_host()}-{os.getpid()}-{began}-"
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = threading.Lock()
        self._written = 0
        self._files: set[Path] = set()
        self._held: dict[int, list[Path]] = {}
        self._sessions: dict[str, list[dict[str, Any]]] = {}

    def made(self) -> Path:
        """The folder, made anew where something that tidies temporary files has removed it."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return self.folder

    def share(
        self, number: int, request: SegmentRequest, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Write a request's volumes; the protocol's `images` and `output`.

        A session's volume is not written again where it is still the same.

        Raises:
            WorkerError: the disk is full or cannot be written, the arrays are no volumes, or it was
                cancelled.
        """
        if not request.arrays:
            raise WorkerError("refused", "there is no volume to segment")
        with self._lock:
            known = self._sessions.get(request.session or "", [])
            held = self._held.setdefault(number, [])
            images = []
            for index in range(len(request.arrays)):
                array = _native(request.arrays[index])
                same = known[index] if index < len(known) else None
                if same is None or not _is_same(array, same, cancelled):
                    path = self._write(array, held, cancelled)
                else:
                    path = Path(same["path"])
                    held.append(path)
                images.append(_description(array, path, request, index))
            if request.session:
                self._sessions.pop(request.session, None)
                self._sessions[request.session] = images
                while len(self._sessions) > _SESSIONS:
                    del self._sessions[next(iter(self._sessions))]
            output = self._new_path("labelmap")
            held.append(output)
        return {"images": images, "output": str(output)}

    def read_labelmap(self, described: dict[str, Any]) -> np.ndarray:
        """A labelmap in memory.

        Raises:
            WorkerError: the file is not what the worker said.
        """
        try:
            values = np.fromfile(described["path"], dtype=np.dtype(described["dtype"]))
            return values.reshape([int(n) for n in described["shape"]])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise WorkerError(
                "internal", f"the labelmap that was computed cannot be read: {error}"
            ) from error

    def forget_session(self, session: str) -> None:
        """Let go of a session's volumes."""
        with self._lock:
            self._sessions.pop(session, None)
            self._remove_unused()

    def release(self, number: int) -> None:
        """Remove the files of a request that has ended, but for those of sessions."""
        with self._lock:
            self._held.pop(number, None)
            self._remove_unused()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _new_path(self, what: str) -> Path:
        self._written += 1
        path = self.folder / f"{what}-{self._written}.raw"
        self._files.add(path)
        return path

    def _write(self, array: np.ndarray, held: list[Path], cancelled: Callable[[], bool]) -> Path:
        path = self._new_path("volume")
        held.append(path)
        try:
            self.made()
            with open(path, "wb") as stream:
                for part in _pieces(array):
                    if cancelled():
                        raise stopped()
                    stream.write(np.ascontiguousarray(array[part]).data)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
            raise WorkerError(
                "refused",
                f"the volume cannot be handed to the segmentation process: {reason}"
                f" ({self.folder.parent}): free some space there and try again",
            ) from error
        return path

    def _remove_unused(self) -> None:
        used = {path for paths in self._held.values() for path in paths}
        used |= {Path(image["path"]) for images in self._sessions.values() for image in images}
        for path in self._files - used:
            try:
                path.unlink(missing_ok=True)
                # What a worker that was killed had half written.
                path.with_name(f".{path.name}.part").unlink(missing_ok=True)
            except OSError:
                continue  # on Windows for as long as the worker maps it: tried again next time
            self._files.discard(path)


def _native(array: Any) -> np.ndarray:
    """The array as the worker can map it.

    Raises:
        WorkerError: it is no volume of numbers.
    """
    array = np.asarray(array)
    if array.ndim != 3 or array.dtype.kind not in "biuf" or array.size == 0:
        raise WorkerError(
            "refused",
            f"a volume needs three axes of numbers: this one is {array.shape} of {array.dtype}",
        )
    if array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _pieces(array: np.ndarray) -> list[slice]:
    slices = max(1, _PIECE_BYTES // max(1, array[0].nbytes))
    return [slice(first, first + slices) for first in range(0, len(array), slices)]


def _is_same(array: np.ndarray, image: dict[str, Any], cancelled: Callable[[], bool]) -> bool:
    """Whether an image file holds just these voxels."""
    if list(array.shape) != image["shape"] or array.dtype.str != image["dtype"]:
        return False
    try:
        kept = np.memmap(image["path"], dtype=array.dtype, mode="r", shape=array.shape)
    except (OSError, ValueError):
        return False
    for part in _pieces(array):
        if cancelled():
            raise stopped()
        # As bytes: NaN equals NaN, and nothing is converted.
        if np.ascontiguousarray(array[part]).tobytes() != kept[part].tobytes():
            return False
    return True


def _description(
    array: np.ndarray, path: Path, request: SegmentRequest, index: int
) -> dict[str, Any]:
    matrix = np.asarray(request.matrices[index], dtype=np.float64)
    return {
        "path": str(path),
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "ijk_to_ras": matrix.tolist(),
        "name": str(request.names[index]) if index < len(request.names) else "",
    }


def remove_abandoned(parent: Path | None = None) -> None:
    """Remove the folders of processes of this machine that are gone without removing them."""
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{_PREFIX}-*"):
        name = _NAME.match(folder.name)
        if name is None or name["host"] != _host() or not _is_mine(folder):
            continue
        if _is_gone(int(name["pid"]), int(name["began"])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    try:
        state = folder.lstat()
    except OSError:
        return False
    return not hasattr(os, "getuid") or state.st_uid == os.getuid()


def _is_gone(pid: int, began: int) -> bool:
    """Whether no process of that number, begun at that time (0: unknown), runs; False if unsure."""
    now = process_began(pid)
    if now is None:
        return not _exists(pid)
    # Processes as close as that are taken for the same.
    return began > 0 and abs(now - began) > 5


def _exists(pid: int) -> bool:
    try:
        if sys.platform == "win32":
            import psutil

            return bool(psutil.pid_exists(pid))
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, ImportError):
        return True
    return True


def process_began(pid: int) -> int | None:
    """When a process began, in seconds; None where it is gone or this cannot be known.

    The same at any time: on Linux it is counted from the boot, since there all other times of a
    process move whenever the clock is set, and a folder in use would be taken for abandoned.
    """
    try:
        if sys.platform == "linux":
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            return int(fields[19]) // os.sysconf("SC_CLK_TCK")
        import psutil

        return int(psutil.Process(pid).create_time())
    except Exception:
        return None


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname()) or "_"
