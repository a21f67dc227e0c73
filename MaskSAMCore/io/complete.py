"""Whether a NIfTI file has all its voxels: SimpleITK reads a cut one and fills up with zeros."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import SimpleITK as sitk

from MaskSAMCore.errors import MaskSAMError

_CHUNK = 1 << 22


def require_complete(path: Path, image: sitk.Image) -> None:
    """Raise where the file at ``path`` is shorter than the voxels of ``image``, read from it.

    Args:
        path: any image file; only NIfTI is looked into, other readers notice by themselves.
        image: what SimpleITK made of it; one value a voxel.

    Raises:
        MaskSAMError: the file was cut, or its compressed data is damaged.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    # Voxels may be stored in another type than they are scaled to: the header knows.
    voxels = image.GetNumberOfPixels() * int(image.GetMetaData("bitpix")) // 8
    expected = voxels + int(float(image.GetMetaData("vox_offset")))
    try:
        found = _decompressed_size(path) if name.endswith(".gz") else path.stat().st_size
    except (OSError, EOFError, zlib.error) as error:
        raise MaskSAMError(f"{path} is damaged or incomplete: copy it again") from error
    if found < expected:
        raise MaskSAMError(f"{path} is incomplete: copy it again")


def _decompressed_size(path: Path) -> int:
    """Bytes, with the check sums verified on the way."""
    size = 0
    with gzip.open(path, "rb") as stream:
        while block := stream.read(_CHUNK):
            size += len(block)
    return size
