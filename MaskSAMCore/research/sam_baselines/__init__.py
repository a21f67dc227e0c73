"""SAM-based networks that the paper compares with: SAMed, Med-SA, 3DSAM-adapter, SAM3D."""

from MaskSAMCore.research.sam_baselines.config import BaselineConfig as Config
from MaskSAMCore.research.sam_baselines.network import SamBaseline as Network

__all__ = ["Config", "Network"]
