"""Reading and writing images, segmentations, DICOM folders and boxes."""

from MaskSAMCore.io.files import atomic_path, write_text
from MaskSAMCore.io.images import read_volume, write_labelmap, write_probabilities, write_volume
from MaskSAMCore.io.roi_markups import read_boxes, write_boxes

__all__ = [
    "atomic_path",
    "read_boxes",
    "read_volume",
    "write_boxes",
    "write_labelmap",
    "write_probabilities",
    "write_text",
    "write_volume",
]
