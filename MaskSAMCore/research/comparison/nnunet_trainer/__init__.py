"""Folder in which nnU-Net finds its trainer, in an environment that may not have MaskSAMCore."""
