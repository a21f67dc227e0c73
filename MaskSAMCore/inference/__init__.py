"""Inference: from a volume to its segmentation, for the shell, Slicer and Python."""

from MaskSAMCore.inference.device import DeviceChoice, choose_device
from MaskSAMCore.inference.ensemble import EnsembleSegmenter, EnsembleSession
from MaskSAMCore.inference.mask_segmenter import MaskSegmenter
from MaskSAMCore.inference.mask_session import MaskSession
from MaskSAMCore.inference.results import Instance, Segmentation
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from MaskSAMCore.inference.sam.session import SamSession
from MaskSAMCore.inference.segmenter import Segmenter
from MaskSAMCore.inference.session import Session

__all__ = [
    "DeviceChoice",
    "EnsembleSegmenter",
    "EnsembleSession",
    "Instance",
    "MaskSegmenter",
    "MaskSession",
    "SamSegmenter",
    "SamSession",
    "Segmentation",
    "Segmenter",
    "Session",
    "choose_device",
]
