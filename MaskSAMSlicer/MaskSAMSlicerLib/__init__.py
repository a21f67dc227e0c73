"""Library of the MaskSAM module of 3D Slicer."""

from MaskSAMSlicerLib.core_path import make_core_importable

# This comes first because all other parts of the library import MaskSAMCore.
make_core_importable()
