"""Integrity check of compressed voxels, which SimpleITK reads even if they are damaged."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.header_facts import DeflatedVoxels

_BLOCK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
# Value of zlib's `wbits` for automatic detection of gzip or zlib, with the largest window.
_ANY_DEFLATED = 47


def check_deflated(array: NDArray[Any], deflated: DeflatedVoxels) -> None:
    """Check that voxels equal the compressed voxels in a file.

    Args:
        array: voxels as SimpleITK read them.
        deflated: place of the compressed voxels.

    Raises:
        MaskSAMError: the compressed voxels are damaged or incomplete.
        OSError: the file cannot be read.
    """
    dtype = array.dtype.newbyteorder("<" if deflated.little_endian else ">")
    voxels = np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data
    # The checksum usually ends the data; reading it there is faster than unpacking the voxels.
    if _ends_with_checksum(deflated, voxels) or _checksum(deflated) == zlib.adler32(voxels):
        return
    raise MaskSAMError(f"{deflated.path} is damaged or incomplete: copy it again")


def _ends_with_checksum(deflated: DeflatedVoxels, voxels: memoryview) -> bool:
    """Return whether the compressed data ends with the checksum of the voxels.

    Args:
        deflated: place of the compressed data.
        voxels: bytes of the voxels.
    """
    with deflated.path.open("rb") as file:
        file.seek(deflated.position)
        gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        end = deflated.position + deflated.size if deflated.size else file.seek(0, 2)
        file.seek(max(0, end - 8))
        last = file.read(8)
    if gzip:
        length = len(voxels) % (1 << 32)
        return last == zlib.crc32(voxels).to_bytes(4, "little") + length.to_bytes(4, "little")
    return last[-4:] == zlib.adler32(voxels).to_bytes(4, "big")


def _checksum(deflated: DeflatedVoxels) -> int | None:
    """Return the Adler-32 of the unpacked voxels; None if the data is damaged or incomplete."""
    stream, checksum = zlib.decompressobj(_ANY_DEFLATED), zlib.adler32(b"")
    left = deflated.size or deflated.path.stat().st_size
    with deflated.path.open("rb") as file:
        file.seek(deflated.position)
        try:
            while not stream.eof and (block := file.read(min(_BLOCK_BYTES, left))):
                left -= len(block)
                checksum = zlib.adler32(stream.decompress(block), checksum)
                # A gzip file may consist of several members.
                while stream.eof and stream.unused_data.startswith(_GZIP_MAGIC):
                    block, stream = stream.unused_data, zlib.decompressobj(_ANY_DEFLATED)
                    checksum = zlib.adler32(stream.decompress(block), checksum)
        except zlib.error:
            return None
    return checksum if stream.eof else None
