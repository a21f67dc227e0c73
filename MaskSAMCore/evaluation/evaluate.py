"""Predictions against references: two files, or two folders with files of the same names."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation.metrics import overlap_metrics, summarize, surface_metrics
from MaskSAMCore.io import read_volume, write_text

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
            reference of its name, further references are left alone (see
            :func:`without_prediction`).
        labels: values to compare; None takes all that occur in the references.
        surfaces: also surface Dice and Hausdorff distance.
        progress: called with cases done and cases in all.

    Returns:
        nnU-Net's ``summary.json`` as a dictionary, with surface metrics beside its own.

    Raises:
        MaskSAMError: files that are missing, are no labelmaps, or do not lie on one grid.
    """
    pairs = find_pairs(predictions, references)
    wanted = None if labels is None else set(labels)
    found: set[int] = set()
    per_case: list[dict[str, Any]] = []
    shapes = []
    for prediction, reference in pairs:
        # One pair at a time: the volumes of a whole test set would not fit in memory.
        metrics, known, shape = _compare(prediction, reference, wanted, surfaces)
        found |= known
        shapes.append(shape)
        per_case.append(
            {
                "metrics": metrics,
                "prediction_file": prediction.name,
                "reference_file": reference.name,
            }
        )
        if progress is not None:
            progress(len(per_case), len(pairs))
    order = sorted(found) if labels is None else labels
    for case, shape in zip(per_case, shapes, strict=True):
        metrics = case["metrics"]
        case["metrics"] = {
            str(label): metrics.get(label) or _metrics(*_nothing(shape), (1, 1, 1), surfaces)
            for label in order
        }
    return summarize(per_case, [str(label) for label in order])


def _compare(
    prediction: Path, reference: Path, labels: set[int] | None, surfaces: bool
) -> tuple[dict[int, dict[str, float]], set[int], tuple[int, ...]]:
    """The metrics of every label that one of two files has (of ``labels``, if given), the labels
    of the reference and the shape of both."""
    a, b = read_volume(prediction), read_volume(reference)
    if not a.same_grid(b, tolerance_mm=0.05):
        raise MaskSAMError(f"{prediction} does not lie on the grid of {reference}")
    spacing = tuple(reversed(b.spacing))
    a_map, b_map = _small(a.array, prediction), _small(b.array, reference)
    del a, b
    known = set(np.unique(b_map).tolist())
    present = known | set(np.unique(a_map).tolist())
    chosen = present - {0} if labels is None else present & labels
    metrics = {
        label: _metrics(a_map == label, b_map == label, spacing, surfaces)
        for label in sorted(chosen)
    }
    return metrics, known - {0}, b_map.shape


def _metrics(
    mask: NDArray[np.bool_], known: NDArray[np.bool_], spacing: Sequence[float], surfaces: bool
) -> dict[str, float]:
    further = surface_metrics(mask, known, spacing) if surfaces else {}
    return {**overlap_metrics(mask, known), **further}


def _nothing(shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two empty masks that take no memory."""
    empty = np.broadcast_to(np.False_, shape)
    return empty, empty


def _small(labelmap: NDArray[Any], path: Path) -> NDArray[np.unsignedinteger]:
    """A labelmap in the smallest type that holds it."""
    if labelmap.dtype.kind == "f":
        labelmap = np.rint(labelmap)
    lowest, highest = int(labelmap.min(initial=0)), int(labelmap.max(initial=0))
    if lowest < 0 or highest > np.iinfo(np.uint32).max:
        raise MaskSAMError(f"{path} is no labelmap: its values go from {lowest} to {highest}")
    return labelmap.astype(np.min_scalar_type(highest), copy=False)


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


def without_prediction(predictions: Path, references: Path) -> list[str]:
    """The names of the references that have no prediction; none where files are compared."""
    if not (predictions.is_dir() and references.is_dir()):
        return []
    predicted = {case_name(path) for path in _labelmaps(predictions)}
    return [name for path in _labelmaps(references) if (name := case_name(path)) not in predicted]


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
    write_text(path, json.dumps(summary, indent=1) + "\n", overwrite)


def read_summary(path: Path) -> dict[str, Any]:
    """A ``summary.json`` of ours or of nnU-Net's."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def spread(summary: dict[str, Any], label: str, metric: str) -> float:
    """The standard deviation of a metric over cases, NaN and infinite ones left out."""
    values = [case["metrics"][label][metric] for case in summary["metric_per_case"]]
    known = [value for value in values if math.isfinite(value)]
    return float(np.std(known)) if known else math.nan
