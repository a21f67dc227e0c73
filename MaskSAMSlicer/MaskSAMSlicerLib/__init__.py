"""Library of the MaskSAM module of 3D Slicer."""

from MaskSAMSlicerLib.core_path import make_core_importable

# Before anything else of the library is imported: its other parts import MaskSAMCore.
make_core_importable()
