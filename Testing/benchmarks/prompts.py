"""Dice with proposals, with the auxiliary masks alone, and with true and shifted boxes.

    python -m Testing.benchmarks.prompts DATASET --splits splits.json --side val -m hippocampus
    python -m Testing.benchmarks.prompts LABELMAPS --targets Docs/brain/labels.json \
        --splits Docs/brain/splits.json --side val -m brain

Boxes go through the public interface, as a user's would: one box for each slice along the network's
depth axis, or one for the whole structure. The result is then limited to the boxes, which alone
changes the Dice. The rows "not held" and "no mask prompt" omit this limit: the first prompt with
the box and the mask cut to it, the second with the box alone. The last lines give how far the mask
follows a moved box, and how far a mask that is too small grows in a larger box.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from MaskSAMCore.data.dataset import LabelledCase, examine_dataset, load_cases, open_dataset
from MaskSAMCore.data.synthesis.windows import synthesized_case
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import Box, axis_mapping
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.modeling import Network
from Testing.benchmarks.brain_maps import FIRST_SEED


class Wrapped(Network):
    """Model that decodes the embeddings of another model in its own way."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.config)
        self.model = model

    def encode(self, images: Any) -> Any:
        return self.model.encode(images)


class AuxiliaryOnly(Wrapped):
    """Model whose final masks are those of the prompt generator."""

    def decode(self, embedding: Any, prompts: Any = None) -> Any:
        prediction = self.model.decode(embedding, prompts)
        masks = self.model.to_window(prediction.auxiliary_logits)
        return prediction.with_mask_logits(masks)


class NotHeld(Wrapped):
    """Model that prompts its decoder with boxes but does not change the decoder's result.

    No class is assigned to a query, limited to a box or suppressed outside of it.
    """

    with_masks = True

    def decode(self, embedding: Any, prompts: Any = None) -> Any:
        prediction = self.model.decode(embedding)
        if prompts is None:
            return prediction
        changed = self.model.prompt_queries(prediction.class_logits, embedding.proposals, prompts)
        without = None if self.with_masks else changed.class_index >= 0
        return self.model.run_decoder(embedding, changed.boxes, changed.masks, without)


class WholeWindow(Wrapped):
    """Model whose proposed boxes are all the whole window."""

    def encode(self, images: Any) -> Any:
        embedding = self.model.encode(images)
        boxes = embedding.proposals.boxes
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(boxes)
        return replace(embedding, proposals=replace(embedding.proposals, boxes=whole))

    def decode(self, embedding: Any, prompts: Any = None) -> Any:
        return self.model.decode(embedding, prompts)


class BoxTokensAlone(NotHeld):
    """``NotHeld`` without mask prompts where there are boxes."""

    with_masks = False


def engine_of(segmenter: MaskSegmenter, wrapper: Callable[[Any], Any]) -> MaskSegmenter:
    """Return a segmenter with the same post-processing around a wrapped network."""
    return MaskSegmenter(
        wrapper(segmenter.model),
        segmenter.plan,
        segmenter.labels,
        device=str(segmenter.device.device),
        inference=segmenter.settings.inference,
    )


def whole_boxes(case: LabelledCase, names: list[str], shift: float = 0.0) -> list[Box]:
    """Return the tight box of each class of a case, shifted by ``shift`` voxels on all axes."""
    boxes = []
    for value, name in enumerate(names, start=1):
        found = np.argwhere(case.labelmap == value)[:, ::-1]
        if len(found):
            boxes.append(_box(name, found, shift, (0, 1, 2)))
    return boxes


def slice_boxes(
    case: LabelledCase, names: list[str], orientation: str, shift: float = 0.0
) -> list[Box]:
    """Return the tight box of each class on each slice, shifted in plane by ``shift`` voxels."""
    depth = axis_mapping(case.channels[0].ijk_to_ras, orientation)[0][0]
    axis = 2 - depth
    others = tuple(a for a in range(3) if a != axis)
    boxes = []
    for value, name in enumerate(names, start=1):
        voxels = np.argwhere(case.labelmap == value)[:, ::-1]
        for index in np.unique(voxels[:, axis]):
            boxes.append(_box(name, voxels[voxels[:, axis] == index], shift, others))
    return boxes


def _box(name: str, voxels: np.ndarray, shift: float, axes: tuple[int, ...]) -> Box:
    lower, upper = voxels.min(0).astype(float), voxels.max(0) + 1.0
    for axis in axes:
        lower[axis] += shift
        upper[axis] += shift
    return Box(name, tuple(lower), tuple(upper))


def inside(boxes: list[Box], shape: tuple[int, int, int]) -> list[Box]:
    """Return the boxes that overlap the volume."""
    return [box for box in boxes if not box.clipped(shape).empty]


def class_indices(segmenter: MaskSegmenter, labelmap: np.ndarray) -> np.ndarray:
    """Return a model's labelmap with class indices in place of the classes' values."""
    values = [label.value for label in segmenter.labels]
    table = np.zeros(max(values) + 1, np.uint8)
    table[values] = range(1, len(values) + 1)
    return table[labelmap]


def read_cases(
    folder: Path, names: list[str], targets: Path | None, images: int
) -> list[LabelledCase]:
    """Return cases, or images synthesised from labelmaps.

    Args:
        folder: nnU-Net dataset folder.
        names: names of the cases.
        targets: JSON file that describes the labels of labelmaps without images, or None.
        images: number of images of each labelmap.
    """
    if targets is None:
        return load_cases(open_dataset(folder), names)
    dataset, problems = examine_dataset(folder, targets)
    scheme = dataset.scheme
    if problems or scheme is None:
        raise SystemExit("; ".join(problems) or "the labelmaps have no description")
    cases = load_cases(dataset, names)
    return [
        synthesized_case(case, scheme, FIRST_SEED + number)
        for case in cases
        for number in range(images)
    ]


def measure(
    segmenter: MaskSegmenter,
    cases: list[LabelledCase],
    draws: dict[str, Callable[[LabelledCase], list[Box]] | None],
) -> dict[str, np.ndarray]:
    """Return the Dice (cases, classes) of each way to draw boxes; each case is encoded once."""
    rows: dict[str, list[list[float]]] = {mode: [] for mode in draws}
    for case in cases:
        with segmenter.open(case.channels) as session:
            for mode, draw in draws.items():
                boxes = None if draw is None else inside(draw(case), case.labelmap.shape)
                found = class_indices(segmenter, session.segment(boxes=boxes).labelmap)
                values = range(1, len(segmenter.labels) + 1)
                rows[mode].append(dice_scores(found, case.labelmap, values))
    return {mode: np.array(scores) for mode, scores in rows.items()}


def followed(
    segmenter: MaskSegmenter,
    cases: list[LabelledCase],
    names: list[str],
    orientation: str,
    distance: float,
) -> np.ndarray:
    """Return the share of the distance that masks follow true slice boxes moved in plane.

    Returns:
        (cases, classes): shift of the mask's centroid over the distance, mean of both axes.
    """
    shares = []
    for case in cases:
        depth = 2 - axis_mapping(case.channels[0].ijk_to_ras, orientation)[0][0]
        with segmenter.open(case.channels) as session:
            at = []
            for shift in (0.0, distance):
                boxes = inside(slice_boxes(case, names, orientation, shift), case.labelmap.shape)
                found = class_indices(segmenter, session.segment(boxes=boxes).labelmap)
                voxels = [np.argwhere(found == value + 1)[:, ::-1] for value in range(len(names))]
                at.append([v.mean(0) if len(v) else np.full(3, np.nan) for v in voxels])
            moved = np.delete(np.subtract(at[1], at[0]), depth, axis=1).mean(1)
            shares.append(moved / distance)
    return np.array(shares)


def grown(
    segmenter: MaskSegmenter,
    cases: list[LabelledCase],
    names: list[str],
    margin: float,
    largest: float,
) -> np.ndarray:
    """Return volumes and Dice of structures segmented too small, before and after a larger box.

    The box is larger than the true structure, and its class may take voxels from other classes.

    Args:
        segmenter: engine of the model.
        cases: cases with a reference.
        names: names of the classes.
        margin: voxels between the true structure and each face of the box.
        largest: largest share of its true volume that a measured structure has without a box.

    Returns:
        (structures, 4): volume before and after, as shares of the true volume; Dice before and
        after.
    """
    rows = []
    for case in cases:
        with segmenter.open(case.channels) as session:
            before = class_indices(segmenter, session.segment(boxes=None).labelmap)
            for value, name in enumerate(names, start=1):
                true = int((case.labelmap == value).sum())
                if not 0 < int((before == value).sum()) <= largest * true:
                    continue
                (tight,) = (box for box in whole_boxes(case, names) if box.class_name == name)
                lower, upper = np.array(tight.lower) - margin, np.array(tight.upper) + margin
                box = Box(name, tuple(lower), tuple(upper))
                after = session.segment(boxes=[box], overwrite=True).labelmap
                found = before, class_indices(segmenter, after)
                volumes = [(labels == value).sum() / true for labels in found]
                scores = [dice_scores(labels, case.labelmap, [value])[0] for labels in found]
                rows.append([*volumes, *scores])
    return np.array(rows).reshape(-1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--side", default="val")
    parser.add_argument("--targets", type=Path, help="description of labelmaps without images")
    parser.add_argument("--images", type=int, default=2, help="images of each labelmap")
    parser.add_argument("-m", "--model", default="hippocampus")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument(
        "--brief",
        action="store_true",
        help="only without boxes, with true and larger ones, and with whole windows",
    )
    options = parser.parse_args()
    names = json.loads(options.splits.read_text(encoding="utf-8"))[options.side]
    cases = read_cases(options.dataset, names, options.targets, options.images)
    segmenter = MaskSegmenter.from_model(options.model)
    auxiliary = engine_of(segmenter, AuxiliaryOnly)
    free, tokens = engine_of(segmenter, NotHeld), engine_of(segmenter, BoxTokensAlone)
    classes = [label.name for label in segmenter.labels]
    turn = segmenter.plan.orientation
    held: dict[str, Any] = {
        "automatic": None,
        "true boxes, one a slice": lambda c: slice_boxes(c, classes, turn),
        "slice boxes, 2 voxels off": lambda c: slice_boxes(c, classes, turn, 2),
        "slice boxes, 6 voxels off": lambda c: slice_boxes(c, classes, turn, 6),
        "true box, one a class": lambda c: whole_boxes(c, classes),
        "class boxes, 2 voxels off": lambda c: whole_boxes(c, classes, 2),
        "class boxes, 6 voxels off": lambda c: whole_boxes(c, classes, 6),
    }
    off = {mode: draw for mode, draw in held.items() if "slice" in mode}
    print(f"{len(cases)} {options.side} cases: mean Dice (sd over cases), of each class; against")
    print("automatic: largest loss and gain of a case")
    table: dict[str, dict[str, Any]] = {}
    automatic = np.zeros(len(cases))
    rows: list[tuple[str, MaskSegmenter, dict[str, Any]]] = [
        ("", segmenter, held),
        ("", auxiliary, {"auxiliary masks alone": None}),
        (
            "",
            engine_of(segmenter, WholeWindow),
            {
                "all proposed boxes the whole window": None,
                "then a true box, one a class": held["true box, one a class"],
            },
        ),
        ("not held: ", free, off),
        ("no mask prompt: ", tokens, off),
    ]
    if options.brief:
        brief = ("automatic", "true boxes, one a slice", "true box, one a class")
        rows = [("", segmenter, {mode: held[mode] for mode in brief}), rows[2]]
    for what, engine, draws in rows:
        for mode, values in measure(engine, cases, draws).items():
            mean = np.nanmean(values, 1)
            automatic = mean if mode == "automatic" else automatic
            classes_mean = np.nanmean(values, 0)
            change, per_class = mean - automatic, " ".join(f"{v:.4f}" for v in classes_mean)
            print(
                f"{what + mode:42s} {mean.mean():.4f} ({mean.std():.4f})  {per_class}"
                f"  {change.min():+.4f} {change.max():+.4f}",
                flush=True,
            )
            table[what + mode] = {"mean": float(mean.mean()), "cases": values.round(4).tolist()}
    for distance in () if options.brief else (2.0, 4.0):
        shares = followed(free, cases, classes, turn, distance)
        print(f"slice boxes moved by {distance:g} voxels: masks move by {shares.mean():.2f} of it")
        table[f"moved by {distance:g}"] = {"share": float(shares.mean())}
    for margin in (0, 1, 2):
        structures = grown(segmenter, cases, classes, margin, 0.95)
        volume, changed, dice, better = structures.mean(0)
        print(
            f"{len(structures)} structures with at most 95 % of their volume, box {margin} voxels"
            f" larger: volume {volume:.3f} to {changed:.3f}, Dice {dice:.4f} to {better:.4f}"
        )
        table[f"grown, {margin} voxels"] = {"structures": structures.round(4).tolist()}
    if options.output is not None:
        record = {"cases": names, "modes": table, "plan": dataclasses.asdict(segmenter.plan)}
        options.output.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
