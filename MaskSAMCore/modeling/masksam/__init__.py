"""MaskSAM: SAM with 3D adapters, a prompt generator and mask classification."""
