"""Inference: one engine for the shell, Slicer and Python."""

from MaskSAMCore.inference.device import DeviceChoice, choose_device
from MaskSAMCore.inference.results import Instance, Segmentation
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from MaskSAMCore.inference.segmenter import Segmenter
from MaskSAMCore.inference.session import Session

__all__ = [
    "DeviceChoice",
    "Instance",
    "SamSegmenter",
    "Segmentation",
    "Segmenter",
    "Session",
    "choose_device",
]
