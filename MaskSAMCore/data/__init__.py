"""Datasets, plans, preprocessing, augmentation and synthesis.

The names exported here need only numpy and scipy; inference uses them without the extra ``train``.
"""

from MaskSAMCore.data.planning import ChannelNormalization, Plan
from MaskSAMCore.data.preprocessing import PreparedCase, preprocess, repeat_edge_slices

__all__ = ["ChannelNormalization", "Plan", "PreparedCase", "preprocess", "repeat_edge_slices"]
