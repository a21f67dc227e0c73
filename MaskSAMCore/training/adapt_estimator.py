"""Estimator of the Dice of an adapted model.

The results of classes that were not learned are the same as before, so that their estimator stays.
That of the learned ones is fitted to results on corrupted images of the corrected cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.models import Bundle
from MaskSAMCore.models.expected_dice import read_estimator, write_estimator
from MaskSAMCore.quality.bundles import fit_refined, refined_indices
from MaskSAMCore.quality.corruptions import FITTED
from MaskSAMCore.quality.samples import RecordedCases, Sample, Sampler
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.adapt_task import Learning, Task

_UNRATED = (
    "the expected Dice of the other classes stays; the learned ones have none until masksam quality"
    " fit has more cases"
)


def results_to_fit(
    task: Task, learning: Learning, segmenter: MaskSegmenter, clock: Clock
) -> list[Sample]:
    """Return results of the new model on corrupted images of the corrected cases.

    Most of these are learned, and their results somewhat better than others; but the few held-out
    ones alone tell too little of how images differ.

    Args:
        task: the task.
        learning: what was learned.
        segmenter: the new model.
        clock: clock, polled before each result. When the time is over, there are no more results.

    Raises:
        Cancelled: the user has cancelled.
    """
    if not learning.results:
        return []
    names = (*learning.held_out, *learning.train)
    complete = [name for name in names if not task.is_partial(name)][: learning.results]
    cases = [task.load(name) for name in complete]
    source = RecordedCases([replace(case, labelmap=task.corrected(case)) for case in cases])
    known = [index - 1 for index in segmenter.model.config.refined_classes]
    sampler = Sampler(segmenter, source, task.classes, FITTED, learning.seed, known)
    samples = []
    for number in range(learning.results):
        clock.step("Estimating the Dice")
        if task.options.steps is None and clock.seconds > 60 * clock.minutes:
            break
        sample = sampler.sample(number)
        if sample is not None:
            samples.append(sample)
    return samples


def write_adapted_estimator(
    task: Task, learning: Learning, new: Bundle, samples: Sequence[Sample]
) -> str:
    """Write the estimator of a new bundle, and return a line for the user.

    The line is empty if the former model has none.

    Args:
        task: the task.
        learning: what was learned.
        new: the new bundle.
        samples: results to fit to; none if the learned classes are not to be rated.
    """
    former = task.bundle
    try:
        estimator = read_estimator(former.folder, len(former.labels), former.weights_sha256)
    except MaskSAMError as error:
        return f"Note: results of the new model have no expected Dice: {error}"
    if estimator is None:
        return ""
    known = {label.name.casefold(): index for index, label in enumerate(former.labels)}
    sources = [known.get(label.name.casefold()) for label in new.labels]
    refined = refined_indices(new)
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
                f" of {facts['cases']} case(s); that of the other classes stays"
            )
    write_estimator(new.folder, estimator)
    return note
