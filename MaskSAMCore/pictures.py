"""Pictures of segmentations: slices with the outlines of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume, reorient
from MaskSAMCore.io import atomic_file
from MaskSAMCore.labels import Label

_VIEWS = ("axial", "coronal", "sagittal")
# Characters in a line of the legend.
_LEGEND_WIDTH = 120
# Colours of a PNG file whose pixels have one byte.
_PALETTE = 256


def outline_picture(
    rows: Sequence[tuple[str, Volume, NDArray[Any], NDArray[Any] | None]],
    labels: Sequence[Label],
    path: Path,
    margin_mm: float = 18.0,
) -> None:
    """Write a picture with axial, coronal and sagittal slices of each case.

    On each axis the slice with most voxels of the classes is shown. Outlines of the labelmap are
    solid, those of the reference are dashed and white.

    Args:
        rows: title, volume, labelmap [K, J, I] and reference labelmap or None of each case.
        labels: names and colours of the classes.
        path: PNG file to write, complete or not at all.
        margin_mm: margin around the classes in mm.

    Raises:
        MaskSAMError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from PIL import Image  # a dependency of matplotlib
    except ImportError as error:
        raise MaskSAMError("pictures need matplotlib: pip install 'masksam[demo]'") from error
    keys = [Line2D([], [], color=label.color, label=label.name) for label in labels]
    if any(row[3] is not None for row in rows):
        keys.append(Line2D([], [], color="white", linestyle="--", label="reference"))
    longest = max((len(str(key.get_label())) for key in keys), default=0)
    columns = max(1, min(len(keys), _LEGEND_WIDTH // (longest + 6), 5))
    height = 3.5 * len(rows) + 0.2 + 0.22 * math.ceil(len(keys) / columns)
    figure = Figure(figsize=(10.5, height), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (title, volume, labelmap, reference) in zip(axes, rows, strict=True):
        _draw_row(line, title, volume, labelmap, reference, labels, margin_mm)
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=columns,
        labelcolor="white",
        frameon=False,
    )
    buffer = BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    picture = Image.open(buffer).convert("RGB")
    picture = _with_palette(picture, [label.color for label in labels])
    with atomic_file(path) as temporary:
        picture.save(temporary, format="png", optimize=True)


def _with_palette(picture: Any, colors: Sequence[Sequence[float]]) -> Any:
    """Return the picture with a palette, a third of the file's size, that holds given colours.

    An adaptive palette alone would merge similar labels with few pixels.

    Args:
        picture: RGB image of Pillow.
        colors: colours that stay exact, each with R, G and B from 0 to 1; with more than
            half a palette of them the picture is returned unchanged.
    """
    from PIL import Image

    count = _PALETTE - len(colors)
    if count < _PALETTE // 2:
        return picture
    exact = [[round(255 * part) for part in color] for color in colors]
    adaptive = picture.quantize(count).getpalette()[: 3 * count]
    values = [part for color in exact for part in color] + adaptive
    palette = Image.new("P", (1, 1))
    palette.putpalette(values)
    nearest = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    # Pillow takes nearly equal colours for equal ones.
    pixels = np.asarray(picture)
    for index, color in enumerate(exact):
        nearest[(pixels == color).all(-1)] = index
    result = Image.fromarray(nearest)
    result.putpalette(values)
    return result


def _draw_row(
    axes: Any,
    title: str,
    volume: Volume,
    labelmap: NDArray[Any],
    reference: NDArray[Any] | None,
    labels: Sequence[Label],
    margin_mm: float,
) -> None:
    image, spacing = _oriented(volume, volume.array)
    found, _ = _oriented(volume, labelmap)
    known = None if reference is None else _oriented(volume, reference)[0]
    shown = found if found.any() or known is None else known
    centre, window = _region(shown, spacing, margin_mm)
    values = image[window]
    low, high = np.percentile(values, (1, 99.5)) if values.size else (0.0, 1.0)
    for axis, (plot, view) in enumerate(zip(axes, _VIEWS, strict=True)):
        place: list[Any] = list(window)
        place[axis] = centre[axis]
        others = [a for a in range(3) if a != axis]
        aspect = spacing[others[0]] / spacing[others[1]]
        plot.imshow(
            image[tuple(place)],
            cmap="gray",
            vmin=low,
            vmax=max(high, low + 1e-6),
            origin="lower",
            aspect=aspect,
            interpolation="bicubic",
        )
        for label in labels:
            _outline(plot, found[tuple(place)] == label.value, label.color, "solid")
            if known is not None:
                _outline(plot, known[tuple(place)] == label.value, "white", "dashed")
        plot.set_title(f"{title}  {view}" if axis == 0 else view, color="white", fontsize=10)
        plot.set_axis_off()


def _outline(plot: Any, mask: NDArray[np.bool_], color: Any, style: str) -> None:
    if mask.any() and not mask.all():
        width = 1.6 if style == "solid" else 0.9
        plot.contour(mask, levels=[0.5], colors=[color], linewidths=width, linestyles=style)


def _oriented(volume: Volume, array: NDArray[Any]) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Return an array on the volume's grid with axes to superior, anterior and left, the
    radiological view, and its spacing along these axes in mm."""
    oriented = reorient(Volume(array, volume.ijk_to_ras), "SAL")
    return oriented.array, tuple(reversed(oriented.spacing))


def _region(
    labelmap: NDArray[Any], spacing: Sequence[float], margin_mm: float
) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """Return the slice index with most labelled voxels on each axis, and the region around all."""
    mask = labelmap > 0
    if not mask.any():
        centre = tuple(size // 2 for size in mask.shape)
        return centre, tuple(slice(0, size) for size in mask.shape)
    middle: list[int] = []
    window: list[slice] = []
    for axis in range(3):
        counts = mask.sum(tuple(a for a in range(3) if a != axis))
        middle.append(int(counts.argmax()))
        used = np.flatnonzero(counts)
        margin = int(np.ceil(margin_mm / spacing[axis]))
        start, stop = max(used[0] - margin, 0), min(used[-1] + 1 + margin, mask.shape[axis])
        window.append(slice(int(start), int(stop)))
    return tuple(middle), tuple(window)
