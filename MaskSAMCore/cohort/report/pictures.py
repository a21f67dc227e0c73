"""Pictures of cases that a run has not drawn, from their images and labelmaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import Label, default_colors
from MaskSAMCore.pictures import thumbnail


def draw_picture(image: Path | None, output: Path, labels: Sequence[Label]) -> bytes:
    """Return the picture of a labelmap on its image; empty if one of them cannot be read.

    Args:
        image: image of the first channel; None if it is not known.
        output: labelmap.
        labels: classes with their colours; without them, default colours.
    """
    # The readers of images, with nibabel and SimpleITK, would slow down the start of every command.
    from MaskSAMCore.io import read_volume
    from MaskSAMCore.io.labelmaps import read_labelmap

    if image is None:
        return b""
    try:
        labelmap = read_labelmap(output)
        volume = read_volume(image)
    except MaskSAMError:
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
