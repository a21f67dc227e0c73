"""Datasets, plans, preprocessing, augmentation and synthesis.

The names exported here need only numpy and scipy; inference uses them without the extra ``train``.
"""

from MaskSAMCore.data.planning import ChannelNormalization, Plan
from MaskSAMCore.data.preprocessing import PreparedCase, preprocess, repeat_edge_slices
from MaskSAMCore.data.voxel_size import check_voxel_size

__all__ = [
    "ChannelNormalization",
    "Plan",
    "PreparedCase",
    "check_voxel_size",
    "preprocess",
    "repeat_edge_slices",
]
