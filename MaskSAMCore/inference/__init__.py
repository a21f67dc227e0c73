"""Inference: one engine for the shell, Slicer and Python."""

from .device import DeviceChoice, choose_device
from .results import Instance, Segmentation
from .segmenter import Segmenter
from .session import Session

__all__ = ["DeviceChoice", "Instance", "Segmentation", "Segmenter", "Session", "choose_device"]
