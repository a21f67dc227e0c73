"""Datasets, plans, preprocessing and augmentation. What inference needs imports numpy and scipy."""

from MaskSAMCore.data.planning import ChannelNormalization, Plan
from MaskSAMCore.data.preprocessing import Prepared, preprocess, repeat_edge_slices

__all__ = ["ChannelNormalization", "Plan", "Prepared", "preprocess", "repeat_edge_slices"]
