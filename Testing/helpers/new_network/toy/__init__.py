"""Network that no module of MaskSAMCore imports."""

from MaskSAMCore.research.toy.network import Config, Network

__all__ = ["Config", "Network"]
