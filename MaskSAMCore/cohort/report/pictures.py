"""Drawing of the pictures that a run has not written, from images and labelmaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.labels import Label, default_colors
from MaskSAMCore.pictures import thumbnail


def draw_picture(image: Path | None, output: Path, labels: Sequence[Label]) -> bytes:
    """Return the picture of a labelmap on its image; empty if it cannot be drawn.

    The segments of a ``.seg.nrrd`` file, which Slicer may have cropped and renumbered, have the
    colours of the classes with the same names.

    Args:
        image: image of the first channel; None if it is not known.
        output: labelmap.
        labels: classes with their colours; other classes have default colours.
    """
    # Importing these readers at the top would slow down the start of every command.
    from MaskSAMCore.evaluation.common_grid import united
    from MaskSAMCore.io import read_volume
    from MaskSAMCore.io.labelmaps import read_labelmap
    from MaskSAMCore.io.segments import has_segments, read_segment_values

    if image is None:
        return b""
    try:
        labelmap = read_labelmap(output)
        named = has_segments(output)
        names = read_segment_values(output) if named else {}
        volume = read_volume(image)
    except MaskSAMError:
        return b""
    arrays = united(volume, labelmap, (False, named))
    if arrays is None:
        return b""
    values = [int(value) for value in np.unique(labelmap.array) if value > 0]
    colors = dict(zip(values, default_colors(len(values)), strict=True))
    own = {label.value: label.color for label in labels}
    colors.update(_colors_of_segments(names, labels) if named else own)
    drawn = [Label(value, str(value), color) for value, color in colors.items()]
    return thumbnail(volume, arrays[1], drawn)


def _colors_of_segments(
    names: Mapping[str, int], labels: Sequence[Label]
) -> dict[int, tuple[float, float, float]]:
    """Return the colours of the segments that are named like a class, by segment value."""
    known = {label.name.casefold(): label.color for label in labels}
    return {
        value: known[name.casefold()] for name, value in names.items() if name.casefold() in known
    }
