"""Estimator of the Dice of results, stored as numbers in the ``quality.json`` of a bundle.

Two sums of regression trees give the expected Dice of a class and its expected error. The bound
that the true Dice exceeds in nine out of ten cases lies a multiple of this error below the expected
Dice, and the multiple is chosen such that the bound holds on cases that the trees were not fitted
on (split conformal prediction). Applying the estimator needs NumPy alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import MALFORMED, read_json, write_text

QUALITY = "quality.json"
QUALITY_VERSION = 1
MAX_QUALITY_BYTES = 2**22
# Smallest expected error of a Dice.
SMALLEST_ERROR = 0.01
# Distances of features from usual ones are clipped at this many standard deviations.
_FARTHEST = 8.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExpectedDice:
    """Estimate for one class of a result.

    Attributes:
        dice: expected Dice, 0 to 1.
        low: bound that the true Dice exceeds in nine out of ten cases.
    """

    dice: float
    low: float


@dataclass(frozen=True)
class TreeSum:
    """Sum of complete binary regression trees of one depth.

    Attributes:
        base: value to which the trees add.
        columns: int (trees, 2**depth - 1), column that each inner node compares, level by level.
        thresholds: (trees, 2**depth - 1); a row goes left where its value is not larger.
        values: (trees, 2**depth), values of the leaves.
    """

    base: float
    columns: NDArray[np.intp]
    thresholds: Floats
    values: Floats

    def __call__(self, rows: Floats) -> Floats:
        """Return the sum for each row of (rows, columns)."""
        trees, inner = self.columns.shape
        tree = np.arange(trees)[None]
        row = np.arange(len(rows))[:, None]
        node = np.zeros((len(rows), trees), np.intp)
        for _ in range(int(inner + 1).bit_length() - 1):
            right = rows[row, self.columns[tree, node]] > self.thresholds[tree, node]
            node = 2 * node + 1 + right
        total: Floats = self.base + self.values[tree, node - inner].sum(1)
        return total

    def to_json(self) -> dict[str, Any]:
        """Return the trees as plain types."""
        return {
            "base": self.base,
            "columns": self.columns.tolist(),
            "thresholds": [[_short(v) for v in tree] for tree in self.thresholds],
            "values": [[_short(v) for v in tree] for tree in self.values],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], width: int) -> TreeSum:
        """Build the trees from the dictionary of :meth:`to_json`.

        Args:
            values: the dictionary.
            width: number of columns of the rows.

        Raises:
            ValueError: the arrays do not fit each other.
        """
        columns = np.array(values["columns"], dtype=np.intp)
        thresholds, leaves = _floats(values["thresholds"]), _floats(values["values"])
        trees = cls(_float(values["base"]), columns, thresholds, leaves)
        if columns.ndim != 2 or thresholds.shape != columns.shape or not columns.size:
            raise ValueError("its trees are incomplete")
        nodes = columns.shape[1] + 1
        if nodes & (nodes - 1) or leaves.shape != (len(columns), nodes):
            raise ValueError("its trees are incomplete")
        if columns.min() < 0 or columns.max() >= width:
            raise ValueError("its trees compare features that there are not")
        return trees


@dataclass(frozen=True)
class FeatureGroup:
    """Features that together become unusual for an image of another kind.

    Attributes:
        name: "orientation", "modality" or "field of view".
        class_columns: indices of features of classes.
        image_columns: indices of features of the image.
        limit: distance that hardly any usual image exceeds.
    """

    name: str
    class_columns: tuple[int, ...]
    image_columns: tuple[int, ...]
    limit: float


@dataclass(frozen=True)
class DiceEstimator:
    """Estimator of the Dice of each class of a result.

    Attributes:
        weights_sha256: SHA-256 of the weights whose results the estimator was fitted on.
        class_features: names of the features of a class.
        image_features: names of the features of an image.
        class_centre: (K, features), usual features of each class.
        class_scale: (K, features), standard deviations of the features of each class.
        image_centre: (features,), usual features of an image.
        image_scale: (features,), standard deviations of the features of an image.
        usual_dice: (K,), mean Dice of each class on images that are not corrupted.
        mean: trees of the expected Dice.
        error: trees of the absolute error of the expected Dice.
        factor: (K,), distance between the expected Dice and the bound, in multiples of the error.
        doubtful_below: mean expected Dice below which a whole result is doubtful.
        groups: groups of features that show in what way an image is unusual.
        facts: information for the user: number of samples, cases and the like.
        unrated: indices from 0 of classes that the estimator was not fitted on; ``refined`` gives
            their expected Dice, else it is unknown.
        refined: estimator for the classes that a refiner decides; None if it was not fitted.
    """

    weights_sha256: str
    class_features: tuple[str, ...]
    image_features: tuple[str, ...]
    class_centre: Floats
    class_scale: Floats
    image_centre: Floats
    image_scale: Floats
    usual_dice: Floats
    mean: TreeSum
    error: TreeSum
    factor: Floats
    doubtful_below: float
    groups: tuple[FeatureGroup, ...]
    facts: Mapping[str, Any]
    unrated: tuple[int, ...] = ()
    refined: RefinedEstimator | None = None

    @property
    def unknown(self) -> frozenset[int]:
        """Indices from 0 of the classes whose expected Dice is unknown."""
        return frozenset(self.unrated) - frozenset(
            () if self.refined is None else self.refined.classes
        )

    def carried_over(
        self, sources: Sequence[int | None], unrated: Sequence[int], weights_sha256: str
    ) -> DiceEstimator:
        """Return the estimator for a new model that keeps the results of some classes.

        Args:
            sources: index from 0 in this estimator of each class of the new model; None for a new
                class.
            unrated: indices from 0 of the new model's classes with other results.
            weights_sha256: SHA-256 of the new model's weights.
        """
        known = np.array([0 if source is None else source for source in sources])
        lost = {i for i, source in enumerate(sources) if source is None or source in self.unrated}
        return replace(
            self,
            weights_sha256=weights_sha256,
            class_centre=self.class_centre[known],
            class_scale=self.class_scale[known],
            usual_dice=self.usual_dice[known],
            factor=self.factor[known],
            unrated=tuple(sorted(lost | {*unrated})),
            refined=None,
        )

    def rate(self, classes: Floats, image: Floats) -> list[ExpectedDice | None]:
        """Return the estimate for each class of a result; None for a class without features.

        Args:
            classes: (K, features), features of each class, NaN for a class that was not found.
            image: (features,), features of the image and its result.
        """
        found = np.flatnonzero(~np.isnan(classes).any(1))
        rated: list[ExpectedDice | None] = [None] * len(classes)
        if not found.size:
            return rated
        rows = self.rows(classes, image)[found]
        dice = np.clip(self.mean(rows), 0, 1)
        error = np.maximum(self.error(rows), SMALLEST_ERROR)
        low = np.clip(dice - self.factor[found] * error, 0, dice)
        for index, expected, bound in zip(found, dice, low, strict=True):
            rated[index] = ExpectedDice(float(expected), float(bound))
        return rated

    def rows(self, classes: Floats, image: Floats) -> Floats:
        """Return the rows that the trees are applied to, (K, columns), NaN for missing classes."""
        distances = _distances(classes, self.class_centre, self.class_scale)
        overview = [*_mean(distances), *_mean(np.abs(distances))]
        whole = [*overview, *_distances(image, self.image_centre, self.image_scale)]
        repeated = np.tile(whole, (len(classes), 1))
        return np.column_stack([classes, distances, repeated, self.usual_dice])

    def oddities(self, classes: Floats, image: Floats) -> tuple[str, ...]:
        """Return the names of the groups of features that are unusual, the most unusual first."""
        shares = {
            group.name: group_distance(self, group, classes, image) / group.limit
            for group in self.groups
        }
        unusual = (name for name, share in shares.items() if share > 1)
        return tuple(sorted(unusual, key=lambda name: -shares[name]))

    def to_json(self) -> dict[str, Any]:
        """Return the estimator as plain types."""
        refined = {} if self.refined is None else {"refined": self.refined.to_json()}
        return {
            **refined,
            "format_version": QUALITY_VERSION,
            "weights_sha256": self.weights_sha256,
            "facts": dict(self.facts),
            "class_features": list(self.class_features),
            "image_features": list(self.image_features),
            "class_centre": [[_short(v) for v in row] for row in self.class_centre],
            "class_scale": [[_short(v) for v in row] for row in self.class_scale],
            "image_centre": [_short(v) for v in self.image_centre],
            "image_scale": [_short(v) for v in self.image_scale],
            "usual_dice": [_short(v) for v in self.usual_dice],
            "mean": self.mean.to_json(),
            "error": self.error.to_json(),
            "factor": [_short(v) for v in self.factor],
            "doubtful_below": self.doubtful_below,
            "unrated": list(self.unrated),
            "groups": [
                {
                    "name": group.name,
                    "class_columns": list(group.class_columns),
                    "image_columns": list(group.image_columns),
                    "limit": group.limit,
                }
                for group in self.groups
            ],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], classes: int) -> DiceEstimator:
        """Build an estimator from the dictionary of :meth:`to_json`.

        Args:
            values: the dictionary.
            classes: number of classes of the model.

        Raises:
            ValueError: the arrays do not fit each other, or are not finite.
        """
        names = tuple(map(str, values["class_features"]))
        image_names = tuple(map(str, values["image_features"]))
        per_class, count = (classes, len(names)), len(image_names)
        width = row_width(len(names), count)
        estimator = cls(
            str(values["weights_sha256"]),
            names,
            image_names,
            _array(values, "class_centre", per_class),
            _array(values, "class_scale", per_class),
            _array(values, "image_centre", (count,)),
            _array(values, "image_scale", (count,)),
            _array(values, "usual_dice", (classes,)),
            TreeSum.from_json(values["mean"], width),
            TreeSum.from_json(values["error"], width),
            _array(values, "factor", (classes,)),
            _float(values["doubtful_below"]),
            tuple(_group(group, len(names), count) for group in values["groups"]),
            dict(values["facts"]),
            tuple(int(index) for index in values.get("unrated", ())),
            RefinedEstimator.from_json(values["refined"]) if "refined" in values else None,
        )
        if not {*estimator.unrated} <= {*range(classes)}:
            raise ValueError("a class without an estimate is none of the model's")
        refined = () if estimator.refined is None else estimator.refined.classes
        if not {*refined} <= {*estimator.unrated} or len({*refined}) < len(refined):
            raise ValueError("its refined classes are not those without an estimate")
        if min(estimator.class_scale.min(), estimator.image_scale.min()) <= 0:
            raise ValueError("a standard deviation is not above 0")
        return estimator


@dataclass(frozen=True)
class RefinedEstimator:
    """Estimator of the Dice of the classes that a refiner decides.

    Attributes:
        classes: indices from 0 of these classes in the model.
        estimator: estimator of these classes only, in the same order.
    """

    classes: tuple[int, ...]
    estimator: DiceEstimator

    def to_json(self) -> dict[str, Any]:
        """Return the estimator as plain types."""
        return {"classes": list(self.classes), "estimator": self.estimator.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RefinedEstimator:
        """Build an estimator from the dictionary of :meth:`to_json`.

        Raises:
            ValueError: the arrays do not fit each other, or are not finite.
        """
        classes = tuple(int(index) for index in values["classes"])
        if "refined" in values["estimator"]:
            raise ValueError("its refined classes have refined classes of their own")
        return cls(classes, DiceEstimator.from_json(values["estimator"], len(classes)))


def row_width(class_features: int, image_features: int) -> int:
    """Return the number of columns of :meth:`DiceEstimator.rows`."""
    return 4 * class_features + image_features + 1


def group_distance(
    estimator: DiceEstimator, group: FeatureGroup, classes: Floats, image: Floats
) -> float:
    """Return the mean distance of a group's features from usual ones, in standard deviations."""
    of_classes = _mean(np.abs(_distances(classes, estimator.class_centre, estimator.class_scale)))
    of_image = np.abs(_distances(image, estimator.image_centre, estimator.image_scale))
    chosen = [*of_classes[list(group.class_columns)], *of_image[list(group.image_columns)]]
    return float(np.mean(chosen))


def read_estimator(folder: Path, classes: int, weights_sha256: str) -> DiceEstimator | None:
    """Read the estimator of a bundle; None if it has none.

    Args:
        folder: folder of the bundle.
        classes: number of classes of the model.
        weights_sha256: SHA-256 of the weights.

    Raises:
        MaskSAMError: the file is damaged, of a newer version, or of other weights.
    """
    path = folder / QUALITY
    if not path.is_file():
        return None
    again = f"remove the file, or fit it again: masksam quality fit {folder} DATASET"
    if path.stat().st_size > MAX_QUALITY_BYTES:
        raise MaskSAMError(f"{path} is too large for an estimator of the Dice: {again}")
    values = read_json(path)
    try:
        version = values["format_version"]
        if isinstance(version, int) and version > QUALITY_VERSION:
            raise MaskSAMError(f"{path} was made by a newer MaskSAM: update this one to use it")
        if version != QUALITY_VERSION:
            raise ValueError("it has no format version")
        estimator = DiceEstimator.from_json(values, classes)
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is damaged ({error}): {again}") from error
    if estimator.weights_sha256 != weights_sha256:
        raise MaskSAMError(f"{path} was fitted to other weights than this model's: {again}")
    return estimator


def write_estimator(folder: Path, estimator: DiceEstimator) -> Path:
    """Write the estimator of a bundle, complete or not at all, and return its file.

    Raises:
        MaskSAMError: the file cannot be written.
    """
    path = folder / QUALITY
    # Indentation would put each of the many numbers on a line of its own.
    write_text(path, json.dumps(estimator.to_json(), separators=(",", ":")) + "\n")
    return path


def _distances(values: Floats, centre: Floats, scale: Floats) -> Floats:
    """Return features in standard deviations from the usual ones."""
    return np.clip((values - centre) / scale, -_FARTHEST, _FARTHEST)


def _mean(values: Floats) -> Floats:
    """Return the mean over the classes that were found, 0 if there are none."""
    found = ~np.isnan(values).any(1)
    mean: Floats = values[found].mean(0) if found.any() else np.zeros(values.shape[1])
    return mean


def _group(values: Mapping[str, Any], class_features: int, image_features: int) -> FeatureGroup:
    class_columns = tuple(int(v) for v in values["class_columns"])
    image_columns = tuple(int(v) for v in values["image_columns"])
    limit = _float(values["limit"])
    if not {*class_columns} <= {*range(class_features)} or limit <= 0:
        raise ValueError("a group of features is wrong")
    if not {*image_columns} <= {*range(image_features)} or not class_columns + image_columns:
        raise ValueError("a group of features is wrong")
    return FeatureGroup(str(values["name"]), class_columns, image_columns, limit)


def _array(values: Mapping[str, Any], key: str, shape: Sequence[int]) -> Floats:
    array = _floats(values[key])
    if array.shape != tuple(shape):
        raise ValueError(f"'{key}' has another shape than the model")
    return array


def _floats(values: Any) -> Floats:
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a number is not finite")
    return array


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _short(value: float) -> float:
    """Return a number rounded to six significant digits; features have six decimals."""
    return float(f"{value:.6g}")
