"""What the MaskSAM module of 3D Slicer is made of."""
