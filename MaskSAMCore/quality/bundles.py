"""Fit and evaluation of the estimator of a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from MaskSAMCore.data.dataset import Dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.models import open_model
from MaskSAMCore.models.expected_dice import DiceEstimator, write_estimator
from MaskSAMCore.quality.corruptions import FITTED, Corruption
from MaskSAMCore.quality.evaluate import QualityMeasures, measure
from MaskSAMCore.quality.fit import fit_estimator
from MaskSAMCore.quality.samples import Sample, Sampler, collect_samples, open_source

# Arguments: number of results so far and in total.
ResultsCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class SampleRequest:
    """Results to make for a fit or an evaluation.

    Attributes:
        dataset: cases of known truth.
        names: names of the cases to use.
        count: number of results.
        seed: seed of the corruptions.
        file: file of the results, from which a run that was stopped continues; None for a
            temporary one.
        corruptions: corruptions by name.
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

    Classes that a refiner decides have no features, and therefore no expected Dice.

    Args:
        model: name of an installed model, or path of a bundle's folder.
        request: results to fit to, of cases that the network was not trained on.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        report: receives the progress.

    Returns:
        The file, and the estimator.

    Raises:
        MaskSAMError: the model or the cases cannot be used, or the results are too few.
    """
    if Path(model).is_file():
        raise MaskSAMError(f"{model} is an archive: unpack it, or add it with masksam models add")
    bundle, sam_checkpoint = open_model(model, with_estimator=False)
    unrated = tuple(index - 1 for index in bundle.config.refined_classes)
    if len(unrated) == len(bundle.labels):
        raise MaskSAMError(
            f"all classes of model '{bundle.name}' were learned in an adaptation, and such classes"
            " have no expected Dice: there is nothing to fit"
        )
    segmenter = MaskSegmenter.from_bundle(bundle, sam_checkpoint, device)
    samples = make_samples(segmenter, request, report)
    facts = {
        "dataset": request.dataset.name,
        "cases": len({sample.case for sample in samples}),
        "results": len(samples),
        "seed": request.seed,
        "corruptions": sorted(request.corruptions or FITTED),
    }
    estimator = fit_estimator(samples, bundle.weights_sha256, facts)
    estimator = replace(estimator, unrated=tuple(sorted(unrated)))
    return write_estimator(bundle.folder, estimator), estimator


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
    segmenter = MaskSegmenter.from_bundle(bundle, sam_checkpoint, device)
    samples = make_samples(segmenter, request, report)
    if not samples:
        raise MaskSAMError("the model refused all images: there is nothing to measure")
    names = [label.name for label in bundle.labels]
    return bundle.estimator, samples, measure(bundle.estimator, samples, names)


def make_samples(
    segmenter: MaskSegmenter, request: SampleRequest, report: ResultsCallback | None = None
) -> list[Sample]:
    """Return the results of a request, made anew or read from its file."""
    assert segmenter.plan is not None
    corruptions = request.corruptions or FITTED
    source = open_source(request.dataset, request.names, segmenter.plan)
    sampler = Sampler(segmenter, source, request.dataset.classes, corruptions, request.seed)
    heading = {
        "model_version": segmenter.version,
        "dataset": request.dataset.name,
        "cases": list(request.names),
        "seed": request.seed,
        "corruptions": sorted(corruptions),
    }
    if request.file is not None:
        return collect_samples(sampler, request.count, request.file, heading, report)
    with tempfile.TemporaryDirectory(prefix="masksam-") as folder:
        file = Path(folder) / "results.jsonl"
        return collect_samples(sampler, request.count, file, heading, report)
