"""Evaluation of predicted labelmaps, file by file, as nnU-Net's ``summary.json``."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation.class_values import ClassValues
from MaskSAMCore.evaluation.common_grid import united
from MaskSAMCore.evaluation.empty_masks import EmptyRule, scored_by_rule
from MaskSAMCore.evaluation.metrics import overlap_metrics, summarize, surface_metrics
from MaskSAMCore.io.files import MALFORMED, image_stem, is_image_name, read_json, write_json
from MaskSAMCore.io.labelmaps import read_labelmap
from MaskSAMCore.io.listing import walked
from MaskSAMCore.io.segments import has_segments


def surfaces_available() -> bool:
    """Return whether surface metrics can be computed, that is, whether MONAI is installed."""
    return importlib.util.find_spec("monai") is not None


def evaluate(
    predictions: Path,
    references: Path,
    values: Sequence[int] | None = None,
    surfaces: bool = True,
    empty: EmptyRule = "nnunet",
    cases: Collection[str] | None = None,
) -> dict[str, Any]:
    """Compute the metrics of every case and their means.

    Args:
        predictions: a labelmap file, or a folder of them, searched with its subfolders.
        references: the reference file, or a folder with a file of the same name in the same
            subfolder for every prediction; references without a prediction are left out (see
            :func:`without_prediction`).
        values: labelmap values to compare; None compares all that occur in the references, or in
            the predictions if no reference has any. Segments of ``.seg.nrrd`` files are compared by
            name, and take the value of the first file with that name.
        surfaces: compute surface Dice and Hausdorff distance too.
        empty: rule for the Dice and IoU of a class that a reference lacks.
        cases: names of the cases to compare; None for all that have a prediction.

    Returns:
        Content of nnU-Net's ``summary.json``, with the surface metrics added, and with the names of
        the values as "labels" where they are known. Values that are left out, because only
        predictions have them, are under "predicted_only" with their names.

    Raises:
        MaskSAMError: a file is missing or is not a labelmap, two files have the same case name, a
            prediction and its reference lie on different grids or have no class name in common, or
            no file has a value to compare.
    """
    wanted = None if values is None else set(values)
    found: set[int] = set()
    predicted: set[int] = set()
    per_case: list[dict[str, Any]] = []
    shapes = []
    classes = ClassValues(class_names(references))
    for prediction, reference in find_pairs(predictions, references, cases):
        # Pairs are read one at a time, because a whole test set would not fit in memory.
        metrics, known, shape = _compare(prediction, reference, classes, wanted, surfaces)
        found |= known
        predicted |= set(metrics)
        shapes.append(shape)
        per_case.append(
            {
                "metrics": metrics,
                "prediction_file": _name_in(predictions, prediction),
                "reference_file": _name_in(references, reference),
            }
        )
    order = sorted(found or predicted) if values is None else values
    if not order:
        raise MaskSAMError(
            f"{references} and {predictions} have no labelled voxel: name the values to compare"
            " with --labels"
        )
    for case, shape in zip(per_case, shapes, strict=True):
        metrics = case["metrics"]
        # A value that a case lacks in both files is measured on two empty masks.
        found_here = {
            value: metrics.get(value) or _metrics(*_empty_masks(shape), (1, 1, 1), surfaces)
            for value in order
        }
        case["metrics"] = {
            str(value): scored_by_rule(each, empty) for value, each in found_here.items()
        }
    summary = summarize(per_case, [str(value) for value in order])
    names = {str(value): classes.names[value] for value in order if value in classes.names}
    if names:
        summary["labels"] = names
    others = sorted(predicted - {*order})
    if others:
        summary["predicted_only"] = {str(v): classes.names.get(v, str(v)) for v in others}
    return summary


def _compare(
    prediction: Path,
    reference: Path,
    classes: ClassValues,
    wanted: set[int] | None,
    surfaces: bool,
) -> tuple[dict[int, dict[str, float]], set[int], tuple[int, ...]]:
    """Compare two files.

    Returns:
        Metrics of each value that one of the files contains (restricted to ``wanted``, if given),
        the reference's values without the background, and the shape of both volumes.
    """
    a, b = read_labelmap(prediction), read_labelmap(reference)
    arrays = united(a, b, (has_segments(prediction), has_segments(reference)))
    if arrays is None:
        raise MaskSAMError(f"{prediction} does not lie on the grid of {reference}")
    spacing = tuple(reversed(b.spacing))
    # The reference comes first, because a class takes the value that it has there.
    known = classes.unify(_compact(arrays[1], reference), reference)
    predicted = classes.unify(_compact(arrays[0], prediction), prediction, prediction=True)
    del a, b, arrays
    known_values = set(np.unique(known).tolist())
    present = known_values | set(np.unique(predicted).tolist())
    chosen = present - {0} if wanted is None else present & wanted
    metrics = {
        value: _metrics(predicted == value, known == value, spacing, surfaces)
        for value in sorted(chosen)
    }
    return metrics, known_values - {0}, known.shape


def _metrics(
    mask: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float], surfaces: bool
) -> dict[str, float]:
    further = surface_metrics(mask, reference, spacing) if surfaces else {}
    return {**overlap_metrics(mask, reference), **further}


def _empty_masks(shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return two empty masks that take no memory."""
    empty = np.broadcast_to(np.False_, shape)
    return empty, empty


def _compact(labelmap: NDArray[np.integer], path: Path) -> NDArray[np.unsignedinteger]:
    """Convert a labelmap to the smallest type that holds it."""
    lowest, highest = int(labelmap.min(initial=0)), int(labelmap.max(initial=0))
    if lowest < 0:
        raise MaskSAMError(f"{path} is not a labelmap: its values range from {lowest} to {highest}")
    return labelmap.astype(np.min_scalar_type(highest), copy=False)


def find_pairs(
    predictions: Path, references: Path, cases: Collection[str] | None = None
) -> list[tuple[Path, Path]]:
    """Return each prediction with its reference.

    Args:
        predictions: a labelmap file, or a folder of them.
        references: a labelmap file, or a folder of them.
        cases: names of the predictions to take from a folder, all of which must exist; None for
            all predictions.

    Raises:
        MaskSAMError: a file or folder does not exist, a prediction has no reference, or cases are
            to be taken from a file.
    """
    for path in (predictions, references):
        if not path.exists():
            raise MaskSAMError(f"{path} does not exist")
    if predictions.is_dir() != references.is_dir():
        raise MaskSAMError("give two labelmap files or two folders of them, not one of each")
    if not predictions.is_dir():
        if cases is not None:
            raise MaskSAMError("a split chooses from folders: give two folders, or leave it out")
        return [(predictions, references)]
    predicted, known = _in_both(predictions, references)
    if cases is not None:
        lacking = sorted(set(cases) - set(predicted))
        if lacking:
            raise MaskSAMError(f"{predictions} has no labelmap of {', '.join(lacking[:3])}")
        predicted = {name: path for name, path in predicted.items() if name in cases}
    pairs = []
    for name, path in predicted.items():
        if name not in known:
            raise MaskSAMError(f"{path} has no reference of its name in {references}")
        pairs.append((path, known[name]))
    if not pairs:
        raise MaskSAMError(f"{predictions} holds no labelmap")
    return pairs


def without_names(pairs: Iterable[tuple[Path, Path]], references: Path) -> list[Path]:
    """Return the files without class names that are compared with files that have class names.

    The list is empty if a ``dataset.json`` gives the values of the names.

    Args:
        pairs: pairs of files to compare: predictions with their references, or the reverse.
        references: the reference file, or the folder of all references.

    Raises:
        MaskSAMError: a file cannot be read.
    """
    if class_names(references):
        return []
    return [one for one, other in pairs if has_segments(other) and not has_segments(one)]


def without_prediction(predictions: Path, references: Path) -> list[str]:
    """Return the names of the references that have no prediction; none if files are compared."""
    if not (predictions.is_dir() and references.is_dir()):
        return []
    predicted, known = _in_both(predictions, references)
    return [name for name in known if name not in predicted]


def _in_both(predictions: Path, references: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the labelmaps of both folders, each without the other folder if that lies in it."""
    if predictions.resolve() == references.resolve():
        return labelmaps_in(predictions), labelmaps_in(references)
    return labelmaps_in(predictions, [references]), labelmaps_in(references, [predictions])


def labelmaps_in(folder: Path, without: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the labelmaps of a folder and its subfolders by case name.

    A case name includes the subfolders of its file, as in the output of ``masksam predict``.

    Args:
        folder: folder to search.
        without: subfolders to leave out.

    Raises:
        MaskSAMError: two files have the same case name, or a folder cannot be read.
    """

    def unreadable(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        raise MaskSAMError(f"{error.filename} cannot be read: {reason}") from error

    found: dict[str, Path] = {}
    for path in (file for _folder, files in walked(folder, unreadable, without) for file in files):
        name = path.with_name(image_stem(path)).relative_to(folder).as_posix()
        if not is_image_name(path) or name.endswith("_probabilities"):
            continue
        if name in found:
            raise MaskSAMError(
                f"{folder} has the case '{name}' twice, in {found[name].name} and {path.name}:"
                " remove one"
            )
        found[name] = path
    return found


def _name_in(folder: Path, path: Path) -> str:
    """Return the path of a file relative to a folder; its name if ``folder`` is the file itself."""
    return path.name if path == folder else path.relative_to(folder).as_posix()


def class_names(references: Path) -> dict[int, str]:
    """Return the names of labelmap values in the ``dataset.json`` beside a folder of references.

    The dictionary is empty if there is no such file in nnU-Net's format.
    """
    path = references.absolute().parent / "dataset.json"
    if not references.is_dir() or not path.is_file():
        return {}
    try:
        labels = read_json(path)["labels"]
        return {int(value): str(name) for name, value in labels.items()}
    except (MaskSAMError, *MALFORMED):
        return {}


def write_summary(summary: dict[str, Any], path: Path, overwrite: bool = True) -> None:
    """Write ``summary.json``, with NaN and infinity, which JSON lacks, as nnU-Net writes them."""
    write_json(path, summary, overwrite)


def read_summary(path: Path) -> dict[str, Any]:
    """Read a ``summary.json`` written by MaskSAM or by nnU-Net.

    Raises:
        MaskSAMError: the file cannot be read or has another form.
    """
    values = read_json(path)
    try:
        names = ("foreground_mean", "mean", "metric_per_case")
        overall, mean, cases = (values[name] for name in names)
        figures = [overall, *mean.values()]
        for case in cases:
            figures += case["metrics"].values()
        for metrics in figures:
            if not all(isinstance(v, int | float) for v in metrics.values()):
                raise ValueError("a metric must be a number")
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is not a summary of nnU-Net's form, or is damaged") from error
    return dict(values)


def spread(summary: dict[str, Any], value: str, metric: str) -> float:
    """Return the standard deviation of a metric over the cases where it is finite.

    Args:
        summary: content of ``summary.json``.
        value: labelmap value, as a key of the summary.
        metric: name of the metric.
    """
    scores = [case["metrics"][value][metric] for case in summary["metric_per_case"]]
    finite = [score for score in scores if math.isfinite(score)]
    return float(np.std(finite)) if finite else math.nan
