"""Check for voxel sizes that cannot be right, because the unit of the spacing is not mm."""

from __future__ import annotations

from math import prod

from MaskSAMCore.data.planning import Plan
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume, axis_mapping

# Limits for any volume in mm: only electron microscopy is finer, and no scanner is longer.
_SMALLEST_MM, _LARGEST_MM, _LONGEST_MM = 1e-5, 50.0, 10_000.0
# Largest ratio of the plan's spacing to the volume's: metres read as mm are 1000 times too small.
_FINER = 200
# A volume that grows by more than this factor on the plan's grid, to more than this many voxels,
# would take hours; whole-body PET grows 250 times at 1 mm.
_GROWTH, _GROWN_VOXELS = 500, 4_000_000


def check_voxel_size(volume: Volume, subject: str, plan: Plan | None = None) -> None:
    """Check that the voxel size of a volume is plausible in mm.

    Args:
        volume: the volume, or the part of it that is processed.
        subject: the volume as the message names it.
        plan: plan of the network; None for a network that takes any grid.

    Raises:
        MaskSAMError: the voxels are too small or too large.
    """
    spacing = volume.spacing
    extent = [mm * size for mm, size in zip(spacing, volume.shape[::-1], strict=True)]
    wrong = min(spacing) < _SMALLEST_MM or max(spacing) >= _LARGEST_MM or max(extent) > _LONGEST_MM
    model = ""
    if plan is not None and not wrong:
        axes, _ = axis_mapping(volume.ijk_to_ras, plan.orientation)
        along_plan = [spacing[2 - axis] for axis in axes]
        growth = prod(mm / wanted for mm, wanted in zip(along_plan, plan.spacing, strict=True))
        grown = growth * prod(volume.shape)
        finer = min(wanted / mm for mm, wanted in zip(along_plan, plan.spacing, strict=True))
        wrong = finer > _FINER or (growth > _GROWTH and grown > _GROWN_VOXELS)
        model = f", and this model works at {_triple(plan.spacing)} mm" if wrong else ""
    if wrong:
        raise MaskSAMError(
            f"{subject} has voxels of {_triple(spacing)} mm ({_triple(extent)} mm in all){model}:"
            " check the unit of its spacing, which must be mm"
        )


def _triple(values: tuple[float, ...] | list[float]) -> str:
    return " x ".join(f"{float(f'{value:.3g}'):g}" for value in values)
