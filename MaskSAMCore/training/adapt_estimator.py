"""Estimator of the Dice of an adapted model.

Classes that were not learned have the same results as before, so that their estimator is kept. The
estimator of the learned classes is fitted to results on corrupted images of the corrected cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.inference.quality import refined_indices
from MaskSAMCore.models import Bundle
from MaskSAMCore.models.expected_dice import write_estimator
from MaskSAMCore.quality.bundles import fit_refined, own_estimator
from MaskSAMCore.quality.corruptions import FITTED
from MaskSAMCore.quality.samples import Sample, Sampler
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.adapt_task import AdaptationState, Task

_UNRATED = (
    "the expected Dice of classes that were never learned stays; the learned ones have none until"
    " masksam quality fit has more cases"
)


@dataclass(frozen=True)
class CorrectedCases:
    """Corrected cases as ground truth, read one at a time.

    Attributes:
        task: model and corrected cases.
        names: names of the cases.
    """

    task: Task
    names: tuple[str, ...]

    def case(self, name: str, rng: np.random.Generator) -> LabelledCase:
        """Return a case."""
        case = self.task.load(name)
        return replace(case, labelmap=self.task.corrected(case))


def results_to_fit(
    task: Task, state: AdaptationState, segmenter: MaskSegmenter, clock: Clock
) -> list[Sample]:
    """Return results of the new model on corrupted images of the corrected cases.

    Most of these cases were learned, so that their results are slightly too good, but the few
    held-out cases alone do not show how much images differ.

    Args:
        task: model and corrected cases.
        state: state of the adaptation.
        segmenter: the new model.
        clock: clock, polled during each result. No further results are made once the time is up.

    Raises:
        Cancelled: the user has cancelled.
    """
    if not state.results:
        return []
    source = CorrectedCases(task, tuple(task.complete((*state.held_out, *state.train))))
    known = refined_indices(segmenter.model.config)
    sampler = Sampler(segmenter, source, task.classes, FITTED, state.seed, known)
    samples = []
    for number in range(state.results):
        clock.step("Estimating the Dice")
        if task.options.steps is None and clock.seconds > 60 * clock.minutes:
            break
        sample = sampler.sample(number, clock.is_cancelled)
        if sample is not None:
            samples.append(sample)
    return samples


def write_adapted_estimator(task: Task, new: Bundle, samples: Sequence[Sample]) -> str:
    """Write the estimator of a new bundle, and return a line for the user.

    The line is empty if the former model has no estimator.

    Args:
        task: model and corrected cases.
        new: the new bundle.
        samples: results to fit to; none if the learned classes are not to be rated.
    """
    former = task.bundle
    try:
        estimator = own_estimator(former)
    except MaskSAMError as error:
        return f"Note: results of the new model have no expected Dice: {error}"
    if estimator is None:
        return ""
    known = {label.name.casefold(): index for index, label in enumerate(former.labels)}
    sources = [known.get(label.name.casefold()) for label in new.labels]
    refined = refined_indices(new.config)
    estimator = estimator.carried_over(sources, refined, new.weights_sha256)
    note = _UNRATED
    if samples:
        facts = {"results": len(samples), "cases": len({sample.case for sample in samples})}
        try:
            own = fit_refined(samples, refined, new.weights_sha256, facts)
        except MaskSAMError as error:
            note = f"Note: the learned classes have no expected Dice: {error}"
        else:
            estimator = replace(estimator, refined=own)
            note = (
                f"the expected Dice of the learned classes is fitted to {facts['results']} results"
                f" of {facts['cases']} case(s); that of classes that were never learned stays"
            )
    write_estimator(new.folder, estimator)
    return note
