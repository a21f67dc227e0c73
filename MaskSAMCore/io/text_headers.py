"""Facts that SimpleITK ignores in the headers of the images that it reads.

SimpleITK reads the voxels and their position; doubts that it does not report are found here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from MaskSAMCore.io.header_facts import HeaderFacts, unoriented
from MaskSAMCore.io.meta_image_header import meta_image_facts
from MaskSAMCore.io.nrrd_header import nrrd_facts

_NRRD_MAGIC = b"NRRD000"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Limit on the bytes read; only segmentations with many segments have more than a few kilobytes.
_HEADER_BYTES = 1 << 22
# Formats that always store directions: MINC and HDF5.
_ORIENTED_SUFFIXES = (".mnc", ".h5", ".hdf5")


def read_header_facts(path: Path) -> HeaderFacts:
    """Return the facts in the header of an image file.

    NIfTI and DICOM files are read elsewhere. Of the other formats, only NRRD, MetaImage, MINC and
    HDF5 state the orientation, and TIFF does not state the slice distance.

    Raises:
        MaskSAMError: the header has numbers that are not finite, or voxels are missing.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        # A buffer of the full size would take more memory than small images do.
        start = file.read(min(_HEADER_BYTES, path.stat().st_size))
    if start.startswith(_NRRD_MAGIC):
        return nrrd_facts(path, start)
    if path.name.lower().endswith((".mha", ".mhd")):
        return meta_image_facts(path, start)
    if path.name.lower().endswith(_ORIENTED_SUFFIXES):
        return HeaderFacts(np.ones(3))
    note = unoriented(path)
    if start.startswith(_TIFF_MAGICS):
        note = f"{note}; the distance of its slices is a guess, too: 1 mm"
    return HeaderFacts(np.ones(3), notes=(note,))
