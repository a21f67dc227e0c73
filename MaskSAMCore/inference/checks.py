"""What an image must be before any work is done on it."""

from __future__ import annotations

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference.model_grid import PlanGrid


def check_numbers(volume: Volume, grid: PlanGrid) -> None:
    """Refuse voxels that are NaN or infinite in the part of a volume that is processed.

    Raises:
        MaskSAMError: there are such voxels.
    """
    for plane in grid.upright(volume.array):
        if not np.isfinite(plane).all():
            name = f" '{volume.name}'" if volume.name else ""
            raise MaskSAMError(
                f"the volume{name} has voxels that are not numbers (NaN or infinite): replace"
                " them, by 0 for instance, and try again"
            )
