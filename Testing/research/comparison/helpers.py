"""Rows of a comparison."""

from __future__ import annotations

import numpy as np

from MaskSAMCore.research.comparison.statistics import Row


def row_of(name: str, values: list[float], **more: object) -> Row:
    """Return the row of a system with the Dice of each case."""
    cases = {f"case_{i}": v for i, v in enumerate(values)}
    mean = float(np.nanmean(values))
    return Row(name, "tiny", {"A": (mean, 0.1)}, mean, 0.1, per_case=cases, **more)
