"""Conversions between MRML nodes and MaskSAMCore."""
