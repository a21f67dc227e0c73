"""Expected Dice of the classes of a result, and doubts about the result as a whole."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference.result_features import CLASS_FEATURES, IMAGE_FEATURES, ResultFeatures
from MaskSAMCore.inference.results import Instance
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.models import Bundle
from MaskSAMCore.models.expected_dice import QUALITY, DiceEstimator, ExpectedDice

# Reasons for a doubtful result by the name of the group of unusual features.
_REASONS = {
    "orientation": (
        "the classes lie or extend in unusual ways: check the orientation and the voxel size in the"
        " file, and that it shows the right part of the body"
    ),
    "modality": (
        "the intensities are unlike those that the model was trained for: check the modality and"
        " the quality of the image"
    ),
    "field of view": (
        "the field of view is unusual: check that the image shows all structures, and not much more"
    ),
}
_POOR_MODEL = (
    "those of usual images are doubtful with this model, too; check the segments, and let the model"
    " learn from more cases"
)
# Estimate of a class without voxels on the plan's grid, which is tiny and has no features.
_UNKNOWN = ExpectedDice(0.0, 0.0)


@dataclass(frozen=True)
class Rating:
    """Estimates for a result.

    Attributes:
        classes: estimate of each class, None for one that was not found.
        weakest: (K, 3), a place of each class in its least sure slice, see :class:`ResultFeatures`.
        doubts: messages for the user about the result as a whole.
    """

    classes: tuple[ExpectedDice | None, ...]
    weakest: NDArray[np.float64]
    doubts: tuple[str, ...]

    def applied_to(
        self,
        instances: Sequence[Instance],
        labels: Sequence[Label],
        places: Sequence[tuple[float, float, float] | None],
        unknown: Set[int],
    ) -> tuple[Instance, ...]:
        """Return instances with their expected Dice.

        Args:
            instances: classes that were found.
            labels: classes of the model.
            places: place of each class in its least sure slice, in voxel edges (i, j, k).
            unknown: values of the labels without an estimate, such as those that boxes decided.
        """
        by_value = {
            label.value: (estimate or _UNKNOWN, place)
            for label, estimate, place in zip(labels, self.classes, places, strict=True)
        }
        return tuple(
            instance
            if instance.value in unknown
            else replace(
                instance,
                expected_dice=by_value[instance.value][0].dice,
                expected_dice_low=by_value[instance.value][0].low,
                weakest_place=by_value[instance.value][1],
            )
            for instance in instances
        )


def rate(estimator: DiceEstimator, features: ResultFeatures) -> Rating:
    """Estimate the Dice of a result from its features."""
    rating = _rated(estimator, features)
    if estimator.refined is None or features.refined is None:
        return rating
    own = _rated(estimator.refined.estimator, features.refined)
    classes, weakest = list(rating.classes), rating.weakest.copy()
    for index, estimate, place in zip(
        estimator.refined.classes, own.classes, own.weakest, strict=True
    ):
        classes[index], weakest[index] = estimate, place
    # If the base finds nothing in an image, only the refined classes can show doubts.
    doubts = rating.doubts if any(rating.classes) else own.doubts
    return Rating(tuple(classes), weakest, doubts)


def _rated(estimator: DiceEstimator, features: ResultFeatures) -> Rating:
    """Estimate the Dice of a result for the classes of one estimator."""
    classes = tuple(estimator.rate(features.classes, features.image))
    found = [estimate.dice for estimate in classes if estimate is not None]
    if not found or (mean := sum(found) / len(found)) >= estimator.doubtful_below:
        return Rating(classes, features.weakest, ())
    if estimator.usual_dice.mean() < estimator.doubtful_below:
        # If usual results are poor, unusual features do not explain a poor result.
        reasons = _POOR_MODEL
    else:
        odd = estimator.oddities(features.classes, features.image)[:2]
        reasons = "; ".join(_REASONS[name] for name in odd) or "look at the segments"
    doubt = f"This result is doubtful, with an expected Dice of {mean:.2f} in the mean: {reasons}."
    return Rating(classes, features.weakest, (doubt,))


def checked_estimator(bundle: Bundle) -> DiceEstimator | None:
    """Return the estimator of a bundle; None if it has none.

    Raises:
        MaskSAMError: the estimator was fitted on other features than this version computes.
    """
    estimator = bundle.estimator
    if estimator is None:
        return None
    refined = estimator.refined
    parts = [estimator] if refined is None else [estimator, refined.estimator]
    fits = refined is None or refined.classes == refined_indices(bundle.config)
    if not (fits and all(_has_known_features(part) for part in parts)):
        raise MaskSAMError(
            f"{bundle.folder / QUALITY} was made by another version of MaskSAM: remove the file, or"
            f" fit it again: masksam quality fit {bundle.folder} DATASET"
        )
    return estimator


def refined_indices(config: NetworkConfig) -> tuple[int, ...]:
    """Return the indices from 0 of the classes that a network's refiner decides, in its order."""
    return tuple(index - 1 for index in config.refined_classes)


def _has_known_features(estimator: DiceEstimator) -> bool:
    """Return whether an estimator was fitted to the features that this version computes."""
    known = (CLASS_FEATURES, IMAGE_FEATURES)
    names = {group.name for group in estimator.groups}
    return (estimator.class_features, estimator.image_features) == known and names <= set(_REASONS)
