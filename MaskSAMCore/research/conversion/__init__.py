"""Conversion of the papers' datasets, as their owners give them, to nnU-Net folders."""
