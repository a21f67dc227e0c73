"""Several systems on one dataset, split, budget and device, measured by the same code."""

from .compare import CompareOptions, compare
from .systems import DEFAULT_SYSTEMS

__all__ = ["DEFAULT_SYSTEMS", "CompareOptions", "compare"]
