"""Fit and evaluation of the estimator of a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from MaskSAMCore.data.dataset import Dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.inference.quality import checked_estimator, refined_indices
from MaskSAMCore.io.files import temporary_folder
from MaskSAMCore.models import Bundle, open_model
from MaskSAMCore.models.expected_dice import (
    QUALITY,
    DiceEstimator,
    RefinedEstimator,
    read_estimator,
    write_estimator,
)
from MaskSAMCore.quality.corruptions import FITTED, Corruption
from MaskSAMCore.quality.evaluate import QualityMeasures, measure
from MaskSAMCore.quality.fit import check_possible, fit_estimator
from MaskSAMCore.quality.samples import (
    Sample,
    Sampler,
    collect_samples,
    missing_classes,
    open_source,
)

# Arguments: number of results so far and in total.
ResultsCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class SampleRequest:
    """Results to make for a fit or an evaluation.

    Attributes:
        dataset: cases with ground truth.
        names: names of the cases to use.
        count: number of results.
        seed: seed of the corruptions.
        file: file of the results, from which a run that was stopped continues; None for a
            temporary one.
        corruptions: corruptions by name; None for those that estimators are fitted on.
    """

    dataset: Dataset
    names: Sequence[str]
    count: int
    seed: int = 0
    file: Path | None = None
    corruptions: Mapping[str, Corruption] | None = None


def fit_bundle(
    model: str | Path,
    request: SampleRequest,
    device: str = "auto",
    report: ResultsCallback | None = None,
) -> tuple[Path, DiceEstimator]:
    """Fit the estimator of a bundle, and write it into the bundle's folder.

    Classes that a refiner decides have a separate estimator. If the dataset has the classes of only
    one of the two estimators, the other estimator is kept.

    Args:
        model: name of an installed model, or path of a bundle's folder.
        request: results to fit to, of cases that the network was not trained on.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        report: receives the progress.

    Returns:
        The file that was written, and the estimator.

    Raises:
        MaskSAMError: the model or the cases cannot be used, the results are too few, or the folder
            cannot be written to.
    """
    if Path(model).is_file():
        raise MaskSAMError(f"{model} is an archive: unpack it, or add it with masksam models add")
    check_possible(request.count, len({*request.names}))
    bundle, sam_checkpoint = open_model(model, with_estimator=False)
    with temporary_folder(bundle.folder / QUALITY):
        pass  # checks that the folder can be written to
    refined = refined_indices(bundle.config)
    known = _shown(bundle, request.dataset)
    try:
        estimator = own_estimator(bundle)
    except MaskSAMError:
        estimator = None
    if estimator is None and known <= {*refined}:
        raise MaskSAMError(
            f"the dataset shows only classes that model '{bundle.name}' learned in an adaptation,"
            " whose expected Dice needs that of the model before it: there is nothing to fit"
        )
    segmenter = MaskSegmenter.from_bundle(bundle, sam_checkpoint, device)
    samples = make_samples(segmenter, request, report, known)
    facts = {
        "dataset": request.dataset.name,
        "cases": len({sample.case for sample in samples}),
        "results": len(samples),
        "seed": request.seed,
        "corruptions": sorted(request.corruptions or FITTED),
    }
    if not known <= {*refined}:
        others = [sample.without_refined(refined) for sample in samples]
        fitted = fit_estimator(others, bundle.weights_sha256, facts)
        kept = None if estimator is None else estimator.refined
        estimator = replace(fitted, unrated=tuple(sorted(_unrated(bundle))), refined=kept)
    assert estimator is not None
    if refined and {*refined} <= known:
        own = fit_refined(samples, refined, bundle.weights_sha256, facts)
        estimator = replace(estimator, refined=own)
    return write_estimator(bundle.folder, estimator), estimator


def fit_refined(
    samples: Sequence[Sample], refined: tuple[int, ...], sha256: str, facts: dict[str, Any]
) -> RefinedEstimator:
    """Fit an estimator for the classes that a refiner decides.

    Args:
        samples: results of known Dice.
        refined: 0-based indices in the model of the refiner's classes, in the refiner's order.
        sha256: SHA-256 of the weights that gave the results.
        facts: information for the user.

    Raises:
        MaskSAMError: there are too few results or cases, or scikit-learn is not installed.
    """
    own = [sample.only_refined(refined) for sample in samples]
    return RefinedEstimator(refined, fit_estimator(own, sha256, facts))


def _unrated(bundle: Bundle) -> frozenset[int]:
    """Return the 0-based indices of the classes that only the refiner's estimator or none rates:
    those of the refiner, and new classes of an earlier refiner in the bundle's base."""
    new = range(bundle.config.scored_classes, len(bundle.labels))
    return frozenset((*refined_indices(bundle.config), *new))


def _shown(bundle: Bundle, dataset: Dataset) -> frozenset[int]:
    """Return the 0-based indices of the classes of a bundle that a dataset labels: those of the
    refiner, those that no refiner decides or has added, or both.

    Raises:
        MaskSAMError: the dataset lacks a class of each group.
    """
    refined = frozenset(refined_indices(bundle.config))
    others = frozenset(range(len(bundle.labels))) - _unrated(bundle)
    missing = {
        part: missing_classes([bundle.labels[index] for index in sorted(part)], dataset.classes)
        for part in (others, refined)
        if part
    }
    shown = frozenset().union(*(part for part, names in missing.items() if not names))
    if not shown:
        names = ", ".join(missing[others] if others else missing[refined])
        raise MaskSAMError(f"the dataset has no class {names} of the model")
    return shown


def own_estimator(bundle: Bundle) -> DiceEstimator | None:
    """Return the estimator of a bundle that was opened without it; None if it has none.

    Raises:
        MaskSAMError: the estimator cannot be used.
    """
    found = read_estimator(bundle.folder, len(bundle.labels), bundle.weights_sha256)
    return checked_estimator(replace(bundle, estimator=found))


def evaluate_bundle(
    model: str | Path,
    request: SampleRequest,
    device: str = "auto",
    report: ResultsCallback | None = None,
) -> tuple[DiceEstimator, list[Sample], QualityMeasures]:
    """Measure the estimator of a bundle on results that it was not fitted on.

    Args:
        model: name of an installed model, or path of a bundle.
        request: results to measure on.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        report: receives the progress.

    Raises:
        MaskSAMError: the model has no estimator, or the cases cannot be used.
    """
    bundle, sam_checkpoint = open_model(model)
    if bundle.estimator is None:
        raise MaskSAMError(
            f"model '{bundle.name}' has no estimator of the Dice: masksam quality fit {model}"
            " DATASET"
        )
    known = _shown(bundle, request.dataset) - bundle.estimator.unknown
    if not known:
        raise MaskSAMError(
            f"the classes of the dataset have no expected Dice in model '{bundle.name}': masksam"
            f" quality fit {model} DATASET"
        )
    segmenter = MaskSegmenter.from_bundle(bundle, sam_checkpoint, device)
    samples = make_samples(segmenter, request, report, known)
    if not samples:
        raise MaskSAMError("the model refused all images: there is nothing to measure")
    names = [label.name for label in bundle.labels]
    return bundle.estimator, samples, measure(bundle.estimator, samples, names)


def make_samples(
    segmenter: MaskSegmenter,
    request: SampleRequest,
    report: ResultsCallback | None = None,
    known: Collection[int] | None = None,
) -> list[Sample]:
    """Return the results of a request, made anew or read from its file.

    Args:
        segmenter: the model.
        request: results to make.
        report: receives the progress.
        known: 0-based indices of the model's classes that the dataset labels; None for all.

    Raises:
        MaskSAMError: the cases cannot be used, or the file has samples of another request.
    """
    assert segmenter.plan is not None
    corruptions = request.corruptions or FITTED
    source = open_source(request.dataset, request.names, segmenter.plan)
    classes = request.dataset.classes
    sampler = Sampler(segmenter, source, classes, corruptions, request.seed, known)
    heading = {
        "model_version": segmenter.version,
        "dataset": request.dataset.name,
        "cases": list(request.names),
        "seed": request.seed,
        "corruptions": sorted(corruptions),
    }
    refined = segmenter.model.config.refined_classes
    if refined:
        # Files of earlier versions lack the features of refined classes.
        heading["refined"] = [segmenter.labels[index - 1].name for index in refined]
    if known is not None and len(known) < len(segmenter.labels):
        heading["classes"] = [segmenter.labels[index].name for index in sorted(known)]
    if request.file is not None:
        return collect_samples(sampler, request.count, request.file, heading, report)
    with tempfile.TemporaryDirectory(prefix="masksam-") as folder:
        file = Path(folder) / "results.jsonl"
        return collect_samples(sampler, request.count, file, heading, report)
