"""Results on corrupted images with ground truth: their features and their true Dice.

Sample number n depends on the seed and on n alone. Samples are appended to a file one by one, so
that a run that was stopped can be continued.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from MaskSAMCore.callbacks import CancelledCallback
from MaskSAMCore.data import Plan
from MaskSAMCore.data.dataset import Dataset, LabelledCase, load_cases
from MaskSAMCore.data.label_scheme import LabelScheme
from MaskSAMCore.data.synthesis.generator import ImageGenerator, SynthesisRanges
from MaskSAMCore.data.synthesis.labelmap import Labelmap, bounds_of
from MaskSAMCore.data.synthesis.random_source import RandomSource
from MaskSAMCore.data.synthesis.windows import lateral_axis
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import Volume, invert_axes
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.inference.result_features import CLASS_FEATURES, IMAGE_FEATURES, ResultFeatures
from MaskSAMCore.io.files import MALFORMED
from MaskSAMCore.labels import Label
from MaskSAMCore.quality.corruptions import Corruption

# Share of samples whose image is not corrupted, and share of the others with two corruptions.
_CLEAN_SHARE, _SECOND_SHARE = 0.15, 0.25
# Share of synthesised images with a larger field of view, and largest factor along each axis.
_WIDE_SHARE, _WIDEST = 0.25, 1.5
# Largest share of the target classes' extent that an image leaves out to fit into one window.
_SPARED = 0.06


class CaseSource(Protocol):
    """Cases with ground truth that samples are made from."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the cases."""
        ...

    def case(self, name: str, rng: np.random.Generator) -> LabelledCase:
        """Return a case, or a new random image of a case."""
        ...


class RecordedCases:
    """Cases with recorded images.

    Args:
        cases: the cases.
    """

    def __init__(self, cases: Sequence[LabelledCase]) -> None:
        self._cases = {case.name: case for case in cases}

    @property
    def names(self) -> Sequence[str]:
        """Names of the cases."""
        return tuple(self._cases)

    def case(self, name: str, rng: np.random.Generator) -> LabelledCase:
        """Return a case."""
        return self._cases[name]


class SynthesizedCases:
    """Images of random contrast, shape and position, synthesised from labelmaps on the plan's grid.

    An image covers the target classes, and sometimes more of their surroundings, so that the number
    of its windows is small.

    Args:
        cases: cases whose one channel holds label indices.
        scheme: meaning of the labels.
        plan: plan of the model.
    """

    def __init__(self, cases: Sequence[LabelledCase], scheme: LabelScheme, plan: Plan) -> None:
        self._scheme, self._plan = scheme, plan
        self._labelmaps = {
            case.name: Labelmap.from_volume(case.channels[0], plan.orientation) for case in cases
        }

    @property
    def names(self) -> Sequence[str]:
        """Names of the cases."""
        return tuple(self._labelmaps)

    def case(self, name: str, rng: np.random.Generator) -> LabelledCase:
        """Return a new image of a case."""
        plan, labelmap = self._plan, self._labelmaps[name]
        low, high = bounds_of(self._scheme.classes_of(labelmap.indices.numpy()) > 0)
        mm = np.asarray(labelmap.spacing)
        wanted = np.ceil((high - low) * mm / plan.spacing)
        window = np.asarray(plan.window)
        near = (wanted > window) & (wanted <= window / (1 - _SPARED))
        shape = np.where(near, window, np.maximum(wanted, window))
        if rng.random() < _WIDE_SHARE:
            shape = shape * rng.uniform(1, _WIDEST, 3)
        depth, rows, columns = (int(n) for n in shape)
        centre = (low + high) / 2 * mm + rng.normal(0, 5, 3)
        generator = ImageGenerator(
            self._scheme,
            (depth, rows, columns),
            plan.spacing,
            lateral_axis(plan.orientation),
            # Images are cropped by a corruption.
            SynthesisRanges(common_contrasts=0.5, crop=0.0),
        )
        source = RandomSource(int(rng.integers(2**31)), torch.device("cpu"))
        image, classes = generator.generate_window(labelmap, centre.tolist(), source)
        return _on_own_grid(name, image[0].numpy(), classes.numpy(), plan)


def _on_own_grid(name: str, image: NDArray[Any], classes: NDArray[Any], plan: Plan) -> LabelledCase:
    """Return a case whose array axes run towards the right, anterior and superior."""
    axes = tuple(
        2 - next(a for a, codes in enumerate(("RL", "AP", "SI")) if c in codes)
        for c in plan.orientation
    )
    flips = tuple(c in "LPI" for c in plan.orientation)
    array, labels = (
        np.ascontiguousarray(invert_axes(values, axes, flips)) for values in (image, classes)
    )
    spacing = [0.0] * 3
    for axis, mm in zip(axes, plan.spacing, strict=True):
        spacing[2 - axis] = mm
    volume = Volume(array.astype(np.float32), np.diag([*spacing, 1.0]), name)
    return LabelledCase(name, (volume,), labels.astype(np.uint8))


@dataclass(frozen=True)
class Sample:
    """A result on a corrupted image.

    Attributes:
        number: number of the sample.
        case: name of the case that the image shows.
        corruption: names of the corruptions, joined by " + ".
        severity: largest severity of the corruptions, 0 to 1.
        features: features of the result.
        dice: true Dice of the classes 1 to K, (K,); NaN for a class that is neither present nor
            found, or that is not labelled in the case.
    """

    number: int
    case: str
    corruption: str
    severity: float
    features: ResultFeatures
    dice: NDArray[np.float64]

    @property
    def mean_dice(self) -> float:
        """Mean true Dice over the classes; NaN if no class has a true Dice."""
        known = self.dice[~np.isnan(self.dice)]
        return float(known.mean()) if known.size else math.nan

    @property
    def rated(self) -> NDArray[np.bool_]:
        """Mask of the classes that were found and whose true Dice is known, bool (K,)."""
        return ~(np.isnan(self.features.classes).any(1) | np.isnan(self.dice))

    def without_refined(self, classes: Sequence[int]) -> Sample:
        """Return the sample without true Dice and refined features of a refiner's classes.

        Args:
            classes: 0-based indices of the classes that the refiner decides.
        """
        dice = self.dice.copy()
        dice[list(classes)] = np.nan
        return replace(self, features=replace(self.features, refined=None), dice=dice)

    def only_refined(self, classes: Sequence[int]) -> Sample:
        """Return the sample with only the classes that a refiner decides.

        Args:
            classes: 0-based indices of the classes that the refiner decides.
        """
        assert self.features.refined is not None
        return replace(self, features=self.features.refined, dice=self.dice[list(classes)])

    def to_json(self) -> dict[str, Any]:
        """Return the sample as plain types, with null for NaN."""
        return {
            "number": self.number,
            "case": self.case,
            "corruption": self.corruption,
            "severity": self.severity,
            **_features_to_json(self.features),
            "dice": _plain(self.dice),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Sample:
        """Build a sample from the dictionary of :meth:`to_json`."""
        return cls(
            int(values["number"]),
            str(values["case"]),
            str(values["corruption"]),
            float(values["severity"]),
            _features_from_json(values),
            np.array(_numbers(values["dice"])),
        )


def _features_to_json(features: ResultFeatures) -> dict[str, Any]:
    values: dict[str, Any] = {
        "classes": [_plain(row) for row in features.classes],
        "image": _plain(features.image),
    }
    if features.refined is not None:
        values["refined"] = _features_to_json(features.refined)
    return values


def _features_from_json(values: Mapping[str, Any]) -> ResultFeatures:
    """Build features from the dictionary of :func:`_features_to_json`; weakest places are NaN."""
    classes = np.array([_numbers(row) for row in values["classes"]])
    refined = _features_from_json(values["refined"]) if "refined" in values else None
    nowhere = np.full((len(classes), 3), np.nan)
    return ResultFeatures(classes, np.array(_numbers(values["image"])), nowhere, refined)


class Sampler:
    """Sampler that segments corrupted images and measures the results.

    Args:
        segmenter: the model.
        source: cases with ground truth.
        class_names: names of the source's classes 1 to K.
        corruptions: corruptions by name.
        seed: seed of all random numbers.
        known: 0-based indices of the model's classes that are labelled in the source; None for all.

    Raises:
        MaskSAMError: the source lacks one of the known classes.
    """

    def __init__(
        self,
        segmenter: MaskSegmenter,
        source: CaseSource,
        class_names: Sequence[str],
        corruptions: Mapping[str, Corruption],
        seed: int = 0,
        known: Collection[int] | None = None,
    ) -> None:
        self._segmenter, self._source = segmenter, source
        self._corruptions, self._seed = corruptions, seed
        labels = segmenter.labels
        self._known = sorted(range(len(labels)) if known is None else known)
        self._values = _values_of_classes([labels[index] for index in self._known], class_names)

    def sample(self, number: int, cancelled: CancelledCallback | None = None) -> Sample | None:
        """Return a sample; None for an image that the model refuses.

        Args:
            number: number of the sample, which decides the case, the corruptions and their
                severities.
            cancelled: polled as in :meth:`Session.segment`.

        Raises:
            Cancelled: `cancelled` returned True.
        """
        rng = np.random.default_rng([self._seed, number])
        name = self._source.names[number % len(self._source.names)]
        case, applied, severity = self._corrupted(self._source.case(name, rng), rng)
        labels = self._segmenter.labels
        try:
            with self._segmenter.open(case.channels, cache_bytes=0) as session:
                found = session.segment(cancelled=cancelled).labelmap
                features = session.features()
        except MaskSAMError:
            return None
        truth = self._values[case.labelmap]
        dice = np.full(len(labels), np.nan)
        dice[self._known] = dice_scores(found, truth, [labels[i].value for i in self._known])
        return Sample(number, name, applied, severity, features, dice)

    def _corrupted(
        self, case: LabelledCase, rng: np.random.Generator
    ) -> tuple[LabelledCase, str, float]:
        """Return a corrupted case, the names of its corruptions and the largest severity."""
        if rng.random() < _CLEAN_SHARE:
            return case, "clean", 0.0
        names = [name for name in self._corruptions if name != "clean"]
        count = 2 if rng.random() < _SECOND_SHARE else 1
        applied, severity = [], 0.0
        for name in rng.permutation(names)[:count]:
            strength = float(rng.random())
            case = self._corruptions[str(name)](case, strength, rng)
            applied.append(str(name))
            severity = max(severity, strength)
        return case, " + ".join(applied), severity


def collect_samples(
    sampler: Sampler,
    count: int,
    file: Path,
    heading: Mapping[str, Any],
    report: Callable[[int, int], None] | None = None,
) -> list[Sample]:
    """Return the samples of a file, and new ones, which are appended to the file.

    Args:
        sampler: sampler that makes the new samples.
        count: number of samples, those of refused images included.
        file: JSON lines file to continue or to begin.
        heading: facts that all samples of a file share, such as the SHA-256 of the weights.
        report: called with the number of samples so far and in total.

    Raises:
        MaskSAMError: the file has another heading, such as that of another model, or is damaged.
    """
    heading = {**heading, "class_features": [*CLASS_FEATURES], "image_features": [*IMAGE_FEATURES]}
    known = _read(file, heading)
    with file.open("a", encoding="utf-8") as stream:
        if not stream.tell():
            stream.write(json.dumps(heading) + "\n")
        for number in range(count):
            if number not in known:
                known[number] = sampler.sample(number)
                found = known[number]
                line = {"number": number} if found is None else found.to_json()
                stream.write(json.dumps(line) + "\n")
                stream.flush()
            if report is not None:
                report(number + 1, count)
    return [found for number in range(count) if (found := known[number]) is not None]


def _read(file: Path, heading: Mapping[str, Any]) -> dict[int, Sample | None]:
    """Return the samples of a file by number; a last line that was cut off is left out."""
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1]
        if not complete and json.dumps(heading).startswith(text):
            # A run was killed while it wrote the heading.
            complete = json.dumps(heading)
        first, *lines = (complete or text).splitlines()
        known = json.loads(first)
        found: dict[int, Sample | None] = {}
        for values in map(json.loads, lines):
            found[int(values["number"])] = Sample.from_json(values) if "dice" in values else None
    except MALFORMED as error:
        raise MaskSAMError(
            f"{file} holds no samples, or is damaged: name another file, or remove it"
        ) from error
    if known != heading:
        raise MaskSAMError(f"{file} has samples of another model or dataset: remove the file")
    if not text.endswith("\n"):
        file.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return found


def open_source(
    dataset: Dataset, names: Sequence[str], plan: Plan
) -> RecordedCases | SynthesizedCases:
    """Read cases of a dataset as a source of samples.

    Args:
        dataset: dataset with images, or with labelmaps to synthesise images from.
        names: names of the cases.
        plan: plan of the model.

    Raises:
        MaskSAMError: a case cannot be used.
    """
    cases = load_cases(dataset, names)
    if dataset.scheme is None:
        return RecordedCases(cases)
    return SynthesizedCases(cases, dataset.scheme, plan)


def _values_of_classes(labels: Sequence[Label], class_names: Sequence[str]) -> NDArray[np.intp]:
    """Return the model's value for each class index of a dataset; 0 for the background and classes
    that the model lacks.

    Raises:
        MaskSAMError: the dataset lacks one of the labels.
    """
    missing = missing_classes(labels, class_names)
    if missing:
        raise MaskSAMError(f"the dataset has no class {', '.join(missing)} of the model")
    values = {label.name.casefold(): label.value for label in labels}
    return np.array([0, *(values.get(name.casefold(), 0) for name in class_names)], np.intp)


def missing_classes(labels: Sequence[Label], class_names: Sequence[str]) -> list[str]:
    """Return the names of the labels that are not among a dataset's classes."""
    known = {name.casefold() for name in class_names}
    return [label.name for label in labels if label.name.casefold() not in known]


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 6) for value in values]


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]
