"""MA-SAM: SAM with FacT increments and 3D adapters, one mask token for each class."""

from MaskSAMCore.modeling.masam.config import MASamConfig as Config
from MaskSAMCore.modeling.masam.network import MASam as Network

__all__ = ["Config", "Network"]
