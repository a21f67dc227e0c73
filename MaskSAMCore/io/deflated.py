"""Check of compressed voxels that SimpleITK reads whether they are damaged or not."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.header_facts import DeflatedVoxels

_BLOCK_BYTES = 1 << 16
_CHECKSUM_BYTES = 4
# Automatic detection of gzip or zlib, with the largest window.
_ANY_DEFLATED = 47


def check_deflated(array: NDArray[Any], deflated: DeflatedVoxels) -> None:
    """Check that voxels are those that a file holds compressed.

    Args:
        array: voxels as they were read.
        deflated: their place in a file.

    Raises:
        MaskSAMError: the compressed voxels are damaged or incomplete.
        OSError: the file cannot be read.
    """
    dtype = array.dtype.newbyteorder("<" if deflated.little_endian else ">")
    voxels = np.ascontiguousarray(array, dtype)
    checksum = zlib.adler32(voxels.reshape(-1).view(np.uint8).data)
    # Unpacking takes longer than reading the checksum at the end, where it usually is.
    if checksum != _stored_checksum(deflated) and checksum != _checksum(deflated):
        raise MaskSAMError(f"{deflated.path} is damaged or incomplete: copy it again")


def _stored_checksum(deflated: DeflatedVoxels) -> int:
    """Return the number in the last bytes, which is a checksum in the format of zlib."""
    with deflated.path.open("rb") as file:
        end = deflated.position + deflated.size if deflated.size else file.seek(0, 2)
        file.seek(max(0, end - _CHECKSUM_BYTES))
        return int.from_bytes(file.read(_CHECKSUM_BYTES), "big")


def _checksum(deflated: DeflatedVoxels) -> int | None:
    """Return the checksum of the unpacked voxels; None if they are damaged or incomplete."""
    stream, checksum = zlib.decompressobj(_ANY_DEFLATED), zlib.adler32(b"")
    left = deflated.size or deflated.path.stat().st_size
    with deflated.path.open("rb") as file:
        file.seek(deflated.position)
        try:
            while not stream.eof and (block := file.read(min(_BLOCK_BYTES, left))):
                left -= len(block)
                checksum = zlib.adler32(stream.decompress(block), checksum)
        except zlib.error:
            return None
    return checksum if stream.eof else None
