"""Predictions against references: two files, or two folders with files of the same names."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import atomic_path, read_volume

from .metrics import overlap_metrics, summarize, surface_metrics

_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".mhd")


def surfaces_available() -> bool:
    """Whether surface metrics can be computed (MONAI is installed)."""
    return importlib.util.find_spec("monai") is not None


def evaluate(
    predictions: Path,
    references: Path,
    labels: Sequence[int] | None = None,
    surfaces: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """All metrics of predictions.

    Args:
        predictions, references: two labelmap files, or two folders; every prediction needs the
            reference of its name, further references are left alone.
        labels: values to compare; None takes all that occur in the references.
        surfaces: also surface Dice and Hausdorff distance.
        progress: called with cases done and cases in all.

    Returns:
        nnU-Net's ``summary.json`` as a dictionary, with surface metrics beside its own.

    Raises:
        MaskSAMError: files that are missing or do not lie on one grid.
    """
    pairs = find_pairs(predictions, references)
    loaded = []
    for prediction, reference in pairs:
        a, b = read_volume(prediction), read_volume(reference)
        if not a.same_grid(b, tolerance_mm=0.05):
            raise MaskSAMError(f"{prediction} does not lie on the grid of {reference}")
        loaded.append((np.rint(a.array).astype(np.int64), np.rint(b.array).astype(np.int64), b))
    if labels is None:
        found = set().union(*(np.unique(reference).tolist() for _, reference, _ in loaded))
        labels = sorted(found - {0})
    per_case = []
    for index, ((a_path, b_path), (a_map, b_map, volume)) in enumerate(
        zip(pairs, loaded, strict=True)
    ):
        metrics = {}
        for label in labels:
            mask, known = a_map == label, b_map == label
            metrics[str(label)] = overlap_metrics(mask, known)
            if surfaces:
                spacing = tuple(reversed(volume.spacing))
                metrics[str(label)].update(surface_metrics(mask, known, spacing))
        per_case.append(
            {
                "metrics": metrics,
                "prediction_file": a_path.name,
                "reference_file": b_path.name,
            }
        )
        if progress is not None:
            progress(index + 1, len(pairs))
    return summarize(per_case, [str(label) for label in labels])


def find_pairs(predictions: Path, references: Path) -> list[tuple[Path, Path]]:
    """Each prediction with its reference.

    Raises:
        MaskSAMError: a file or folder is missing, or a prediction has no reference.
    """
    for path in (predictions, references):
        if not path.exists():
            raise MaskSAMError(f"{path} does not exist")
    if predictions.is_dir() != references.is_dir():
        raise MaskSAMError("give two labelmap files or two folders of them, not one of each")
    if not predictions.is_dir():
        return [(predictions, references)]
    known = {case_name(path): path for path in _labelmaps(references)}
    pairs = []
    for path in _labelmaps(predictions):
        if case_name(path) not in known:
            raise MaskSAMError(f"{path} has no reference of its name in {references}")
        pairs.append((path, known[case_name(path)]))
    if not pairs:
        raise MaskSAMError(f"{predictions} holds no labelmap")
    return pairs


def case_name(path: Path) -> str:
    """A file's name without its suffix."""
    suffix = next(s for s in _SUFFIXES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)]


def _labelmaps(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.name.lower().endswith(_SUFFIXES) and not case_name(p).endswith("_probabilities")
    )


def write_summary(summary: dict[str, Any], path: Path, overwrite: bool = True) -> None:
    """Writes ``summary.json``; NaN and infinity, which JSON has not, as nnU-Net writes them."""
    with atomic_path(path, overwrite) as beside:
        beside.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def read_summary(path: Path) -> dict[str, Any]:
    """A ``summary.json`` of ours or of nnU-Net's."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def spread(summary: dict[str, Any], label: str, metric: str) -> float:
    """The standard deviation of a metric over cases, NaN and infinite ones left out."""
    values = [case["metrics"][label][metric] for case in summary["metric_per_case"]]
    known = [value for value in values if math.isfinite(value)]
    return float(np.std(known)) if known else math.nan
