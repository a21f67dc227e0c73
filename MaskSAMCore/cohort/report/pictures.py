"""Pictures of cases that a run has not drawn, from their images and labelmaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import Label, default_colors
from MaskSAMCore.pictures import thumbnail


def draw_picture(images: Sequence[Path], output: Path, labels: Sequence[Label]) -> bytes:
    """Return the picture of a labelmap on its image; empty if one of them cannot be read.

    Args:
        images: image of the first channel, or nothing.
        output: labelmap.
        labels: classes with their colours; without them, default colours.
    """
    # The readers of images, with nibabel and SimpleITK, would slow down the start of every command.
    from MaskSAMCore.io import read_volume
    from MaskSAMCore.io.labelmaps import read_labelmap

    try:
        labelmap = read_labelmap(output)
        volume = read_volume(images[0])
    except (MaskSAMError, IndexError):
        return b""
    if labelmap.shape != volume.shape:
        return b""
    if not labels:
        values = np.unique(labelmap.array)
        colors = default_colors(len(values))
        labels = [
            Label(int(value), str(value), color)
            for value, color in zip(values, colors, strict=True)
            if value > 0
        ]
    return thumbnail(volume, labelmap.array, labels)
