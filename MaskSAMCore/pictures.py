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
# Number of colours in a PNG file with one byte per pixel.
_PALETTE = 256
# Width and height of each view of a thumbnail in pixels, and its quality as a WebP file.
THUMBNAIL_SIZE = 192
_THUMBNAIL_QUALITY = 72
# Factor by which views are drawn larger before they are reduced, for smooth outlines.
_FINER = 2
# Letters on the views of a thumbnail: index of the view, left (0) or right (1) edge, and letter.
_DIRECTIONS = ((0, 0, "R"), (1, 0, "R"), (2, 1, "A"))
# Number of voxels sampled to choose the grey values shown as black and white.
_WINDOW_VOXELS = 200_000


def outline_picture(
    rows: Sequence[tuple[str, Volume, NDArray[Any], NDArray[Any] | None]],
    labels: Sequence[Label],
    path: Path,
    margin_mm: float = 18.0,
) -> None:
    """Write a picture with axial, coronal and sagittal slices of each case.

    On each axis the slice with the most labelled voxels is shown. Outlines of the labelmap are
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
    legend = figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=columns,
        labelcolor="white",
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class name may have dollar signs
    buffer = BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    picture = Image.open(buffer).convert("RGB")
    picture = _with_palette(picture, [label.color for label in labels])
    with atomic_file(path) as temporary:
        picture.save(temporary, format="png", optimize=True)


def thumbnail(
    volume: Volume,
    labelmap: NDArray[Any],
    labels: Sequence[Label],
    margin_mm: float = 12.0,
) -> bytes:
    """Return a small WebP picture with axial, coronal and sagittal slices and the outlines.

    On each axis the slice with the most labelled voxels is shown, in radiological orientation and
    on one scale; letters mark the patient's right and front.

    Args:
        volume: volume to show.
        labelmap: integers [K, J, I] on the grid of the volume.
        labels: colours of the classes.
        margin_mm: margin around the classes in mm.
    """
    from PIL import Image, ImageDraw

    image, spacing = _oriented(volume, volume.array)
    found, _ = _oriented(volume, labelmap)
    centre, window = _region(found, spacing, margin_mm)
    extents = [(part.stop - part.start) * mm for part, mm in zip(window, spacing, strict=True)]
    scale = _FINER * THUMBNAIL_SIZE / max(extents)
    low, high = _grey_window(image[window])
    colors = np.zeros((max([0, *(label.value for label in labels)]) + 1, 3), np.uint8)
    for label in labels:
        colors[label.value] = [round(255 * part) for part in label.color]
    canvas = Image.new("RGB", (3 * THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    for axis in range(3):
        place: list[Any] = list(window)
        place[axis] = centre[axis]
        rows, columns = (max(_FINER, round(extents[a] * scale)) for a in range(3) if a != axis)
        grey = (image[tuple(place)].astype(np.float32) - low) * (255 / (high - low))
        # The first row of a picture is its top; the first row of a slice is inferior or posterior.
        view = Image.fromarray(grey[::-1].clip(0, 255).astype(np.uint8))
        view = view.resize((columns, rows), Image.Resampling.BICUBIC).convert("RGB")
        values = _nearest(found[tuple(place)][::-1], rows, columns)
        edge = _edges(values)
        pixels = np.array(view)
        pixels[edge] = colors[np.minimum(values[edge], len(colors) - 1)]
        view = Image.fromarray(pixels).reduce(_FINER)
        left = axis * THUMBNAIL_SIZE + (THUMBNAIL_SIZE - view.width) // 2
        canvas.paste(view, (left, (THUMBNAIL_SIZE - view.height) // 2))
    pen = ImageDraw.Draw(canvas)
    for cell, side, letter in _DIRECTIONS:
        across = cell * THUMBNAIL_SIZE + (THUMBNAIL_SIZE - 12 if side else 4)
        pen.text((across, 3), letter, fill=(210, 210, 210))
    buffer = BytesIO()
    canvas.save(buffer, format="webp", quality=_THUMBNAIL_QUALITY)
    return buffer.getvalue()


def _grey_window(values: NDArray[Any]) -> tuple[float, float]:
    """Return the values shown as black and white; all but outliers lie between them."""
    flat = values.ravel()
    some = flat[:: max(1, flat.size // _WINDOW_VOXELS)]
    low, high = np.percentile(some, (1, 99.5)) if some.size else (0.0, 1.0)
    return float(low), max(float(high), float(low) + 1e-6)


def _nearest(plane: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Return a plane resampled to [rows, columns] with the nearest values."""
    across = np.arange(columns) * plane.shape[1] // columns
    return plane[np.arange(rows)[:, None] * plane.shape[0] // rows, across]


def _edges(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the labelled pixels of a plane within two pixels of another value."""
    other = np.zeros(values.shape, bool)
    for axis in (0, 1):
        for step in range(1, _FINER + 1):
            near, far = _along(axis, slice(step, None)), _along(axis, slice(None, -step))
            differ = values[near] != values[far]
            other[near] |= differ
            other[far] |= differ
    return other & (values > 0)


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    """Return the index of a plane that selects a part along one axis."""
    return (part, slice(None)) if axis == 0 else (slice(None), part)


def _with_palette(picture: Any, colors: Sequence[Sequence[float]]) -> Any:
    """Return the picture with a palette that holds given colours, for a third of the file size.

    An adaptive palette alone would merge similar colours of labels with few pixels.

    Args:
        picture: RGB image of Pillow.
        colors: colours that stay exact, each with R, G and B from 0 to 1; if they fill more than
            half of the palette, the picture is returned unchanged.
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
    low, high = _grey_window(values)
    for axis, (plot, view) in enumerate(zip(axes, _VIEWS, strict=True)):
        place: list[Any] = list(window)
        place[axis] = centre[axis]
        others = [a for a in range(3) if a != axis]
        aspect = spacing[others[0]] / spacing[others[1]]
        plot.imshow(
            image[tuple(place)],
            cmap="gray",
            vmin=low,
            vmax=high,
            origin="lower",
            aspect=aspect,
            interpolation="bicubic",
        )
        for label in labels:
            _outline(plot, found[tuple(place)] == label.value, label.color, "solid")
            if known is not None:
                _outline(plot, known[tuple(place)] == label.value, "white", "dashed")
        heading = f"{title}  {view}" if axis == 0 else view
        plot.set_title(heading, color="white", fontsize=10, parse_math=False)
        plot.set_axis_off()


def _outline(plot: Any, mask: NDArray[np.bool_], color: Any, style: str) -> None:
    if mask.any() and not mask.all():
        width = 1.6 if style == "solid" else 0.9
        plot.contour(mask, levels=[0.5], colors=[color], linewidths=width, linestyles=style)


def _oriented(volume: Volume, array: NDArray[Any]) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Return an array on the volume's grid, reoriented to superior, anterior and left for the
    radiological view, and its spacing along these axes in mm."""
    oriented = reorient(Volume(array, volume.ijk_to_ras), "SAL")
    return oriented.array, tuple(reversed(oriented.spacing))


def _region(
    labelmap: NDArray[Any], spacing: Sequence[float], margin_mm: float
) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """Return the index of the slice with the most labelled voxels on each axis, and the region
    around all labelled voxels."""
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
