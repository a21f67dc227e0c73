"""A network that no other module of MaskSAMCore knows."""

from MaskSAMCore.research.toy.network import Config, Network

__all__ = ["Config", "Network"]
