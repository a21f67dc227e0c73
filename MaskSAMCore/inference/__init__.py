"""Inference: one engine for the shell, Slicer and Python."""

from .device import DeviceChoice, choose_device
from .results import Instance, Segmentation
from .sam_segmenter import SamSegmenter
from .segmenter import Segmenter
from .session import Session

__all__ = [
    "DeviceChoice",
    "Instance",
    "SamSegmenter",
    "Segmentation",
    "Segmenter",
    "Session",
    "choose_device",
]
