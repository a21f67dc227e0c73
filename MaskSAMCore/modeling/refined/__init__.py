"""A network whose decision about a few classes is made by a second, local network."""

from MaskSAMCore.modeling.refined.config import RefinedConfig as Config
from MaskSAMCore.modeling.refined.network import RefinedNetwork as Network

__all__ = ["Config", "Network"]
