"""Raw files that both processes read: images from the client, labelmaps from the worker."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io.files import EMBEDDINGS_PREFIX
from MaskSAMCore.worker.protocol import ImageFile, LabelmapFile, ProtocolError

# Bytes that are written between two checks for cancellation.
_PIECE_BYTES = 16 << 20

_unfinished: set[Path] = set()
_lock = threading.Lock()


def open_image(image: ImageFile) -> Volume:
    """Return the volume of an image file; its voxels are mapped, not read.

    Raises:
        ProtocolError: the file cannot be read, or does not match its description.
        MaskSAMError: the matrix is not invertible.
    """
    path, shape = Path(image.path), image.shape
    try:
        dtype = np.dtype(image.dtype)
        matrix = np.array(image.ijk_to_ras, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"an image is not described correctly: {error!r}") from error
    if min(shape) < 1 or dtype.kind not in "biuf":
        raise ProtocolError(f"an image cannot have shape {shape} and type {dtype}")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ProtocolError(f"{path} cannot be read: {error.strerror}") from error
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size != expected:
        raise ProtocolError(f"{path} has {size} bytes instead of {expected}")
    voxels = np.memmap(path, dtype=dtype, mode="r", shape=shape)
    return Volume(np.asarray(voxels), matrix, image.name, modality=image.modality)


def open_labelmap(file: LabelmapFile, ijk_to_ras: Sequence[Sequence[float]]) -> Volume:
    """Return the volume of a labelmap file; its voxels are mapped, not read.

    Args:
        file: labelmap file.
        ijk_to_ras: 4 x 4 matrix from voxel indices (i, j, k) to RAS in mm.

    Raises:
        ProtocolError: the file cannot be read, or does not match its description.
        MaskSAMError: the matrix is not invertible.
    """
    rows = tuple(tuple(row) for row in ijk_to_ras)
    return open_image(ImageFile(file.path, file.shape, file.dtype, rows))


def file_state(image: ImageFile) -> Hashable:
    """Return a key that changes whenever the content of an image file may have changed."""
    state = os.stat(image.path)
    described = image.path, image.shape, image.dtype, image.ijk_to_ras, image.modality
    return described, state.st_mtime_ns, state.st_size


def write_labelmap(labelmap: NDArray[Any], path: Path, check: Callable[[], None]) -> LabelmapFile:
    """Write a labelmap's voxels to a temporary file, and rename it once it is complete.

    Args:
        labelmap: integers [K, J, I].
        path: path of the file.
        check: function that is called between pieces and raises an exception to stop.

    Raises:
        MaskSAMError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    with _lock:
        _unfinished.add(temporary)
    slices = max(1, _PIECE_BYTES // max(1, labelmap[0].nbytes))
    try:
        with temporary.open("wb") as stream:
            for first in range(0, len(labelmap), slices):
                check()
                stream.write(np.ascontiguousarray(labelmap[first : first + slices]).data)
        os.replace(temporary, path)
    except OSError as error:
        raise MaskSAMError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
        with _lock:
            _unfinished.discard(temporary)
    k, j, i = labelmap.shape
    return LabelmapFile(str(path), (k, j, i), labelmap.dtype.str)


def remove_unfinished() -> None:
    """Remove temporary files, before the process ends."""
    with _lock:
        for path in _unfinished:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # Windows keeps a file that is open; its folder is removed later


def remove_embeddings(folder: Path) -> None:
    """Remove the embeddings that this worker, or one that was killed, wrote into a folder."""
    for part in folder.glob(f"{EMBEDDINGS_PREFIX}*"):
        shutil.rmtree(part, ignore_errors=True)


def remove_client_folder(folder: Path) -> None:
    """Remove the private folder of a client that has ended without removing it."""
    if folder.name.startswith("masksam-"):
        shutil.rmtree(folder, ignore_errors=True)
