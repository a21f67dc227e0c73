"""Folder in which nnU-Net finds the trainer; its environment may lack MaskSAMCore."""
