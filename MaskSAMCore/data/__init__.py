"""Datasets, plans, preprocessing and augmentation. What inference needs imports numpy and scipy."""

from .planning import ChannelNormalization, Plan
from .preprocessing import Prepared, preprocess

__all__ = ["ChannelNormalization", "Plan", "Prepared", "preprocess"]
