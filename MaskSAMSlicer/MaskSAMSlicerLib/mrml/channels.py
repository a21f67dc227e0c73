"""Checks of the volumes for a model that takes several images."""

from __future__ import annotations

from collections.abc import Sequence

from slicer.i18n import tr as _

from MaskSAMCore.geometry import Volume
from MaskSAMSlicerLib.model_catalog import ModelInfo


def check_channels(model: ModelInfo, volumes: Sequence[Volume], resample: bool) -> None:
    """Check that volumes can be the channels of a model.

    Args:
        model: the model.
        volumes: the volumes; the first gives the grid.
        resample: whether volumes on other grids are resampled to the first one's.

    Raises:
        ValueError: there are too few or too many volumes, or one is on another grid.
    """
    if len(volumes) != len(model.channels):
        raise ValueError(
            _("'{title}' takes {count} images ({names}), but {given} were given.").format(
                title=model.title,
                count=len(model.channels),
                names=", ".join(model.channels),
                given=len(volumes),
            )
            if len(model.channels) > 1
            else _("'{title}' takes one image, but {given} were given.").format(
                title=model.title, given=len(volumes)
            )
        )
    others = on_other_grids(volumes)
    if others and not resample:
        raise ValueError(not_on_one_grid(volumes[0], others))


def on_other_grids(volumes: Sequence[Volume]) -> list[Volume]:
    """Return the volumes whose size, spacing, origin or directions differ from the first one's."""
    return [volume for volume in volumes[1:] if not volumes[0].same_grid(volume)]


def not_on_one_grid(first: Volume, others: Sequence[Volume]) -> str:
    """Return a sentence that says which volumes are on another grid than the first one."""
    names = ", ".join(f"'{volume.name}'" for volume in others)
    return _(
        "{names} must be resampled to the grid of '{first}': sizes, spacings, origins or directions"
        " differ."
    ).format(names=names, first=first.name)
