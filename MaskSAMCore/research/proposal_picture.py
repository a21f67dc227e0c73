"""Picture of the prompts that MaskSAM generates itself, as in Figure 1 of the paper.

It shows the slice with most foreground of all windows: the result, and for each query its auxiliary
mask, its box prompt, and its most likely class. A query wins if, in at least one foreground voxel
of the result, its mask times its probability of the voxel's class is the largest of all queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from MaskSAMCore.data import preprocess
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import MaskSegmenter, Segmenter
from MaskSAMCore.inference.model_grid import ModelGrid
from MaskSAMCore.inference.sliding_window import extract, plan_windows
from MaskSAMCore.io import atomic_file
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling.masksam.network import MaskSAM

_COLUMNS = 5
_TILE_INCHES = 2.3
# Anatomical directions shown at the top and at the left of a picture.
_TOP, _LEFT = "SA", "RA"
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True)
class SliceProposals:
    """Prompts and classes proposed for one slice of a window.

    Attributes:
        image: (H, W), intensities of the first channel.
        labels: (H, W), class indices of the result.
        masks: float (N, H, W), 0 to 1, the auxiliary masks.
        boxes: (N, 4), the box prompts, x1 y1 x2 y2 in pixels.
        classes: (N,), most likely class of each query; K + 1 for "no object".
        confidences: (N,), probability of the most likely class of each query.
        winners: bool (N,), true for queries that decide voxels of the result.
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    masks: NDArray[Any]
    boxes: NDArray[Any]
    classes: NDArray[Any]
    confidences: NDArray[Any]
    winners: NDArray[Any]


def proposing(segmenter: Segmenter) -> MaskSegmenter:
    """Return a segmenter after checking that its model generates its own prompts.

    Raises:
        MaskSAMError: the model is no MaskSAM with a prompt generator.
    """
    if not isinstance(segmenter, MaskSegmenter) or not isinstance(segmenter.model, MaskSAM):
        raise MaskSAMError(
            f"--proposals draws the prompts of one MaskSAM, but '{segmenter.name}' proposes none"
        )
    return segmenter


def write_proposals(
    segmenter: Segmenter, volumes: Sequence[Volume], path: Path, roi: Box | None = None
) -> None:
    """Write the picture of the proposals for a volume.

    Args:
        segmenter: a MaskSAM.
        volumes: one image per channel, all on one grid.
        path: PNG file to write, complete or not at all.
        roi: region to process, in IJK voxel edges, see :meth:`Segmenter.segment`.

    Raises:
        MaskSAMError: the model is no MaskSAM with a prompt generator, or finds nothing in the
            volume, the ROI is outside the volume, or matplotlib is not installed.
    """
    proposer = proposing(segmenter)
    found = slice_proposals(proposer, volumes, roi)
    if found is None:
        raise MaskSAMError(f"'{segmenter.name}' finds nothing, so that there is no slice to draw")
    plan = proposer.plan
    _draw(found, segmenter.labels, plan.orientation, plan.spacing, path)


@torch.inference_mode()
def slice_proposals(
    segmenter: MaskSegmenter, volumes: Sequence[Volume], roi: Box | None = None
) -> SliceProposals | None:
    """Return the proposals of the slice with most foreground; None where nothing is found.

    Args:
        segmenter: segmenter of a MaskSAM.
        volumes: one image per channel, all on one grid.
        roi: region to process, in IJK voxel edges; None for the whole volume.
    """
    model, device = segmenter.model, segmenter.device.device
    grid = ModelGrid.of(volumes[0], roi, segmenter.plan.orientation)
    image = preprocess([grid.crop(volume) for volume in volumes], segmenter.plan).image
    fill = torch.from_numpy(image.min((1, 2, 3)))
    best: tuple[int, int, Any, Any] | None = None
    for window in plan_windows(image.shape[1:], model.config.window):
        pixels = extract(image, window, fill)
        prediction = model.decode(model.encode(pixels[None].to(device)))
        labels = prediction.semantic()[0].argmax(0)
        counts = (labels > 0).flatten(1).sum(1)
        slice_index = int(counts.argmax())
        count = int(counts[slice_index])
        if count and (best is None or count > best[0]):
            best = count, slice_index, pixels, prediction
    if best is None:
        return None
    _, t, pixels, prediction = best
    labels = prediction.semantic()[0, :, t].argmax(0)
    classes = prediction.class_logits[0, :, t].float().softmax(-1)
    final = prediction.mask_logits[0, :, t].float().sigmoid()
    shares = classes[:, labels.flatten()].unflatten(1, labels.shape) * final
    deciding = shares.argmax(0)[labels > 0]
    confidences, likely = classes.max(-1)
    auxiliary = torch.nn.functional.interpolate(
        prediction.auxiliary_logits[:, :, t].float(), size=labels.shape, mode="bilinear"
    )[0].sigmoid()
    height, width = labels.shape
    scale = torch.tensor([width, height, width, height])
    return SliceProposals(
        image=pixels[0, t].numpy(),
        labels=labels.cpu().numpy(),
        masks=auxiliary.cpu().numpy(),
        boxes=(prediction.boxes[0, :, t].float().cpu() * scale).numpy(),
        classes=likely.cpu().numpy(),
        confidences=confidences.cpu().numpy(),
        winners=np.isin(np.arange(len(likely)), deciding.cpu().numpy()),
    )


def _draw(
    found: SliceProposals,
    labels: Sequence[Label],
    orientation: str,
    spacing: tuple[float, float, float],
    path: Path,
) -> None:
    """Draw the result and a tile for each query.

    Args:
        found: proposals.
        labels: classes 1 to K.
        orientation: directions of depth, rows and columns.
        spacing: mm along depth, rows and columns.
        path: PNG file.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise MaskSAMError("pictures need matplotlib: pip install 'masksam[demo]'") from error
    # Winners come first, in the order of the classes.
    order = np.lexsort((-found.confidences, found.classes, ~found.winners))
    rows = math.ceil((len(order) + 1) / _COLUMNS)
    size = (_COLUMNS * _TILE_INCHES, rows * (_TILE_INCHES + 0.3))
    figure = Figure(figsize=size, facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    low, high = np.percentile(found.image, (1, 99.5))
    names = ["background", *(label.name for label in labels), "no object"]
    colors = [(0.6, 0.6, 0.6), *(label.color for label in labels), (0.6, 0.6, 0.6)]
    for axis in axes:
        axis.set_axis_off()
    for axis, query in zip(axes, (-1, *order), strict=False):
        axis.imshow(
            found.image,
            "gray",
            vmin=low,
            vmax=max(high, low + 1e-6),
            aspect=spacing[1] / spacing[2],
        )
        if query < 0:
            for index, label in enumerate(labels, start=1):
                if (found.labels == index).any():
                    axis.contour(found.labels == index, [0.5], colors=[label.color], linewidths=1.2)
            axis.set_title("result", color="white", fontsize=9)
        else:
            color, won = colors[found.classes[query]], found.winners[query]
            shade = np.zeros((*found.image.shape, 4))
            shade[..., :3], shade[..., 3] = color, 0.5 * found.masks[query]
            axis.imshow(shade, aspect=spacing[1] / spacing[2])
            x1, y1, x2, y2 = found.boxes[query]
            box = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=color)
            box.set_linestyle("-" if won else ":")
            axis.add_patch(box)
            title = f"{names[found.classes[query]]} {found.confidences[query]:.2f}"
            axis.set_title(
                f"{title} won" if won else title,
                color="white" if won else "0.6",
                fontsize=9,
                fontweight="bold" if won else "normal",
            )
        # The first row or column of a slice may be at the bottom or right of a picture.
        height, width = found.image.shape
        axis.set_xlim(
            *((-0.5, width - 0.5) if orientation[2] not in _LEFT else (width - 0.5, -0.5))
        )
        axis.set_ylim(*((-0.5, height - 0.5) if orientation[1] in _TOP else (height - 0.5, -0.5)))
    edges = axes[0]
    right_first = orientation[2] in _LEFT
    across = orientation[2] if right_first else _OPPOSITE[orientation[2]]
    up = orientation[1] if orientation[1] in _TOP else _OPPOSITE[orientation[1]]
    for x, y, letter in ((0.03, 0.5, across), (0.5, 0.95, up)):
        edges.text(
            x, y, letter, transform=edges.transAxes, color="yellow", va="center", ha="center"
        )
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
