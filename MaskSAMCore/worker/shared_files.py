"""Volumes that both processes see: raw files, mapped when read, complete or absent when written."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.worker.protocol import INVALID_PARAMS, RequestError

# What is written between two looks at the wish to stop.
_PIECE_BYTES = 16 << 20

# Of the folders that embeddings are in (`inference.embeddings`, which would import PyTorch here).
SPILL_PREFIX = "masksam-embeddings-"

_unfinished: set[Path] = set()
_lock = threading.Lock()


def open_image(value: Any) -> Volume:
    """The volume of an image file as the protocol describes it; its voxels stay on disk.

    Raises:
        RequestError: the description, or the file, is not as it must be.
    """
    try:
        path, name = Path(value["path"]), str(value.get("name", ""))
        k, j, i = (int(n) for n in value["shape"])
        dtype = np.dtype(str(value["dtype"]))
        matrix = np.array(value["ijk_to_ras"], dtype=np.float64)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(INVALID_PARAMS, f"an image is not described well: {error!r}") from error
    if min(k, j, i) < 1 or dtype.kind not in "biuf":
        raise RequestError(INVALID_PARAMS, f"no image is of shape {(k, j, i)} and type {dtype}")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RequestError(INVALID_PARAMS, f"{path} cannot be read: {error.strerror}") from error
    if size != k * j * i * dtype.itemsize:
        raise RequestError(INVALID_PARAMS, f"{path} has {size} bytes, not those of its shape")
    voxels = np.memmap(path, dtype=dtype, mode="r", shape=(k, j, i))
    return Volume(np.asarray(voxels), matrix, name)


def signature(value: Mapping[str, Any]) -> tuple[object, ...]:
    """What changes whenever the content of an image file may have."""
    state = os.stat(value["path"])
    matrix = np.array(value["ijk_to_ras"], dtype=np.float64).tobytes()
    shape = tuple(value["shape"])
    return str(value["path"]), state.st_mtime_ns, state.st_size, shape, value["dtype"], matrix


def write_labelmap(
    labelmap: NDArray[Any], path: Path, check: Callable[[], None]
) -> dict[str, object]:
    """Write a labelmap's voxels, beside first and then renamed; how the protocol describes them.

    Args:
        labelmap: [K, J, I].
        path: where.
        check: called between pieces; raises to stop.

    Raises:
        MaskSAMError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")
    with _lock:
        _unfinished.add(beside)
    slices = max(1, _PIECE_BYTES // max(1, labelmap[0].nbytes))
    try:
        with beside.open("wb") as stream:
            for first in range(0, len(labelmap), slices):
                check()
                stream.write(np.ascontiguousarray(labelmap[first : first + slices]).data)
        os.replace(beside, path)
    except OSError as error:
        raise MaskSAMError(f"cannot write {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
        with _lock:
            _unfinished.discard(beside)
    return {"path": str(path), "shape": list(labelmap.shape), "dtype": labelmap.dtype.str}


def discard_unfinished() -> None:
    """Remove what is half written, before the process ends."""
    with _lock:
        for path in _unfinished:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # Windows keeps a file that is open; its folder is removed later


def remove_embeddings(folder: Path) -> None:
    """Remove what sessions wrote to disk, of this worker or of one that was killed."""
    for part in folder.glob(f"{SPILL_PREFIX}*"):
        shutil.rmtree(part, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove the private folder of a client that is gone."""
    if folder.name.startswith("masksam-"):
        shutil.rmtree(folder, ignore_errors=True)
