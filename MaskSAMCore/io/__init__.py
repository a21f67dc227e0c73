"""Reading and writing images, segmentations, DICOM folders and boxes."""

from MaskSAMCore.io.files import (
    IMAGE_SUFFIXES,
    atomic_path,
    image_stem,
    write_json,
    write_text,
)
from MaskSAMCore.io.images import read_volume, write_labelmap, write_probabilities, write_volume
from MaskSAMCore.io.roi_markups import read_boxes, write_boxes

__all__ = [
    "IMAGE_SUFFIXES",
    "atomic_path",
    "image_stem",
    "read_boxes",
    "read_volume",
    "write_boxes",
    "write_json",
    "write_labelmap",
    "write_probabilities",
    "write_text",
    "write_volume",
]
