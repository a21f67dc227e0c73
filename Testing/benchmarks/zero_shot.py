"""Dice of a SAM that has never seen the images, from the true box of each structure on each slice.

    python -m Testing.benchmarks.zero_shot DATASET [DATASET ...] -o zero_shot.json
    python -m Testing.benchmarks.zero_shot DATASET --sam sam_vit_b_01ec64.pth
    python -m Testing.benchmarks.zero_shot DATASET --sam medsam_vit_b.pth --sam-type medsam
    python -m Testing.benchmarks.zero_shot DATASET --sam RUN_OF_PRETRAIN --around 2

A dataset is a folder in nnU-Net's format; if it has a ``splits.json``, only the cases of ``--side``
are used. Slices are those of the file, across its third axis. Two baselines need no image: the
ellipse inscribed in the box, and the box itself. The Dice of a structure is computed over all its
slices together, the Dice of a volume is the mean over its structures.

With ``--around 2``, meant for SAMs with a small input, the SAM sees a square around each box, not
the whole slice; the edge of the square is twice as long as the longest side of the box.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from MaskSAMCore.data.dataset import LabelledCase, load_cases, open_dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference.device import choose_device
from MaskSAMCore.inference.sam.preprocessing import (
    PREPARATIONS,
    Limits,
    ct_limits,
    percentile_limits,
    to_grey,
)
from MaskSAMCore.inference.sam.runner import SamRunner
from MaskSAMCore.intensities import modality
from MaskSAMCore.modeling.sam.checkpoint import checkpoint_config
from MaskSAMCore.modeling.sam.predictor import PlainSam
from MaskSAMCore.research.promptable_sam.box_masks import ellipses, filled_boxes
from MaskSAMCore.research.promptable_sam.run import open_sam

Masks = NDArray[np.bool_]

# Rows of each dataset in the table: its last volumes and the mean of all its volumes.
_SHOWN = 3


@dataclass(frozen=True)
class BoxedSlice:
    """A slice and the boxes of structures on it.

    Attributes:
        pixels: intensities (rows, columns).
        boxes: (N, 4), x1 y1 x2 y2 at pixel edges.
        limits: intensities shown as black and as white, for each box.
    """

    pixels: NDArray[Any]
    boxes: NDArray[np.float64]
    limits: list[Limits]


# A function that returns the masks (N, rows, columns) of the boxes of a slice.
Segment = Callable[[BoxedSlice], Masks]


def in_ellipses(given: BoxedSlice) -> Masks:
    """Return the ellipses inscribed in the boxes."""
    return ellipses(given.boxes, *given.pixels.shape)


def in_boxes(given: BoxedSlice) -> Masks:
    """Return the boxes themselves."""
    return filled_boxes(given.boxes, *given.pixels.shape)


class SamOnSlices:
    """A SAM that is prompted with boxes. Its masks are limited to the boxes, as in the product.

    Args:
        model: the SAM.
        preparation: "sam" or "medsam", the preprocessing that the SAM was trained with.
        around: edge of the square around each box that the SAM sees, as a multiple of the box's
            longest side; 0 for whole slices.
        device: "auto", "cpu" or "cuda".

    Attributes:
        encoded: number of images encoded so far.
        seconds: duration of all encoding and decoding so far.
    """

    def __init__(self, model: PlainSam, preparation: str, around: float, device: str) -> None:
        self.runner = SamRunner(model, preparation, choose_device(device))
        self.around = around
        self.encoded = 0
        self.seconds = 0.0

    def __call__(self, given: BoxedSlice) -> Masks:
        """Return the masks of the boxes of a slice."""
        began = time.perf_counter()
        masks = np.zeros((len(given.boxes), *given.pixels.shape), bool)
        for numbers in self._groups(given):
            rows, columns = self._seen(given, numbers[0])
            grey = to_grey(given.pixels[rows, columns], given.limits[numbers[0]])
            embedding = self.runner.encode(grey, lambda: None)
            self.encoded += 1
            origin = [columns.start, rows.start] * 2
            boxes = given.boxes[numbers] - origin
            masks[numbers, rows, columns] = self.runner.logits(embedding, boxes, grey.shape) > 0
        self.seconds += time.perf_counter() - began
        return masks & in_boxes(given)

    def _groups(self, given: BoxedSlice) -> list[list[int]]:
        """Return the indices of the boxes, grouped by the encoded image that they share."""
        if self.around:
            return [[number] for number in range(len(given.boxes))]
        groups: dict[Limits, list[int]] = {}
        for number, limits in enumerate(given.limits):
            groups.setdefault(limits, []).append(number)
        return list(groups.values())

    def _seen(self, given: BoxedSlice, number: int) -> tuple[slice, slice]:
        """Return the rows and columns that the SAM sees for a box."""
        rows, columns = given.pixels.shape
        if not self.around:
            return slice(0, rows), slice(0, columns)
        x1, y1, x2, y2 = given.boxes[number]
        reach = self.around * max(x2 - x1, y2 - y1) / 2
        centres = (y1 + y2) / 2, (x1 + x2) / 2
        first, last = (
            slice(max(0, int(c - reach)), min(length, int(np.ceil(c + reach))))
            for c, length in zip(centres, (rows, columns), strict=True)
        )
        return first, last


def boxed_slices(case: LabelledCase) -> Iterator[tuple[BoxedSlice, list[int], Masks]]:
    """Yield the slices of a case that show structures, with their values and true masks."""
    (volume,) = case.channels
    is_ct = modality(volume) == "CT"
    whole = percentile_limits(volume.array)
    for pixels, labels in zip(volume.array, case.labelmap, strict=True):
        values = [int(value) for value in np.unique(labels) if value]
        if not values:
            continue
        masks = labels == np.array(values)[:, None, None]
        places = [(np.flatnonzero(m.any(0)), np.flatnonzero(m.any(1))) for m in masks]
        boxes = np.array([[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in places], float)
        inside = [pixels[y[0] : y[-1] + 1, x[0] : x[-1] + 1] for x, y in places]
        limits = [ct_limits(part) if is_ct else whole for part in inside]
        yield BoxedSlice(pixels, boxes, limits), values, masks


def volume_dice(case: LabelledCase, ways: dict[str, Segment]) -> dict[str, dict[int, float]]:
    """Return the Dice of each structure of a case, by its value, for each way to segment."""
    sums: dict[str, dict[int, NDArray[np.int64]]] = {way: {} for way in ways}
    for given, values, masks in boxed_slices(case):
        for way, segment in ways.items():
            found = segment(given)
            both, sizes = (found & masks).sum((1, 2)), found.sum((1, 2)) + masks.sum((1, 2))
            for value, *counts in zip(values, both, sizes, strict=True):
                sums[way][value] = sums[way].get(value, np.zeros(2, int)) + counts
    return {
        way: {value: float(2 * both / size) for value, (both, size) in structures.items()}
        for way, structures in sums.items()
    }


def read_cases(folder: Path, side: str) -> Iterator[LabelledCase]:
    """Yield the cases of a dataset, one at a time."""
    dataset = open_dataset(folder)
    splits = folder / "splits.json"
    names = [case.name for case in dataset.cases]
    if splits.is_file():
        names = json.loads(splits.read_text(encoding="utf-8"))[side]
    for name in names:
        yield from load_cases(dataset, [name])


def read_sam(path: Path, last: bool) -> PlainSam:
    """Build the SAM of a checkpoint file of an official size, or of a run of ``pretrain``."""
    try:
        if path.is_dir():
            return open_sam(path, last)
        return PlainSam.from_checkpoint(path, checkpoint_config(path))
    except (MaskSAMError, OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


def main() -> None:
    """Print the mean Dice of each volume, and of each dataset with several."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--side", default="test", help="cases of a dataset that has splits.json")
    parser.add_argument("--sam", type=Path, help="checkpoint of SAM or MedSAM, or run of pretrain")
    parser.add_argument("--last", action="store_true", help="last weights of a run, not its best")
    parser.add_argument("--sam-type", choices=list(PREPARATIONS), default="sam")
    parser.add_argument("--around", type=float, default=0.0, help="0 for whole slices")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, help="JSON file with the Dice of structures")
    options = parser.parse_args()
    ways: dict[str, Segment] = {"ellipse": in_ellipses, "filled box": in_boxes}
    sam: SamOnSlices | None = None
    if options.sam is not None:
        model = read_sam(options.sam, options.last)
        sam = SamOnSlices(model, options.sam_type, options.around, options.device)
        ways[options.sam.stem] = sam
    shown = Table("volumes", *ways)
    found: dict[str, Any] = {}
    for folder in options.datasets:
        rows: dict[str, list[float]] = {}
        for case in read_cases(folder, options.side):
            dice = volume_dice(case, ways)
            found[case.name] = dice
            rows[case.name] = [float(np.mean(list(dice[way].values()))) for way in ways]
            means = zip(ways, rows[case.name], strict=True)
            print(f"{case.name}: " + ", ".join(f"{way} {m:.4f}" for way, m in means), flush=True)
        if len(rows) > 1:
            rows[f"{folder.name}, mean of {len(rows)}"] = np.mean(list(rows.values()), 0).tolist()
        for name, values in list(rows.items())[-_SHOWN:]:
            shown.add_row(name, *(f"{value:.4f}" for value in values))
        shown.add_section()
    Console().print(shown)
    if sam is not None and sam.encoded:
        each = 1000 * sam.seconds / sam.encoded
        print(f"{sam.encoded} images encoded, {each:.0f} ms each with the masks of their boxes")
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
