"""Images that a user gives for a case, as the channels of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume


def as_channels(volume: Volume | Sequence[Volume]) -> tuple[Volume, ...]:
    """Return the channels of a case, which may be given as one image.

    Args:
        volume: one image, or one per channel.

    Raises:
        MaskSAMError: something else is given, such as the path of a file or an array.
    """
    channels = (volume,) if isinstance(volume, Volume | Path) else tuple(volume)
    for channel in channels:
        if not isinstance(channel, Volume):
            raise MaskSAMError(
                f"an image must be a Volume, not {type(channel).__name__}: read a file with"
                " read_volume(path), or give Volume(array, ijk_to_ras)"
            )
    return channels
