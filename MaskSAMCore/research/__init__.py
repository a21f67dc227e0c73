"""Experiments: ablations, a U-Net, and comparisons of several systems."""
