"""Adaptation of a model to a user's corrected cases, on the user's own computer.

The model's network stays as it is. A second, small network, the refiner, starts with the weights of
the first one and learns the corrected classes alone, in windows around them. In the new model, the
refiner decides about the corrected classes alone, near where the first network finds them or the
classes that they come from. Classes that were not corrected thus cannot be forgotten.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.io.files import atomic_folder, made_folders, write_json
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling.refined import Network as RefinedNetwork
from MaskSAMCore.models import Bundle, open_model, save_bundle
from MaskSAMCore.models.catalog import check_name
from MaskSAMCore.models.unfinished import STATE, learning_folder
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.adapt_estimator import results_to_fit, write_adapted_estimator
from MaskSAMCore.training.adapt_fit import ValidationCallback, fit_refiner
from MaskSAMCore.training.adapt_preparation import prepare, resumed
from MaskSAMCore.training.adapt_task import AdaptationState, AdaptOptions, Task
from MaskSAMCore.training.run_folder import own_weights

__all__ = ["AdaptOptions", "AdaptResult", "ValidationCallback", "adapt"]

# Entries of a model's card that describe the former weights.
_FORMER_FIGURES = ("training", "test", "test_dice", "reference_test_dice")


@dataclass(frozen=True)
class AdaptResult:
    """Outcome of an adaptation.

    Attributes:
        kept: True if the new model was written; False if it was no better.
        before: Dice of each corrected class on the held-out cases with the former model; 0 where a
            case shows a class that the model did not have, 1 where a class is neither present nor
            found. Empty if nothing can be compared: no case was held out, or no held-out case shows
            a corrected class and neither model finds one.
        after: Dice of the same classes with the new model.
        held_out: names of the held-out cases.
        bundle: folder of the new bundle, or None.
        message: one line for the user.
    """

    kept: bool
    before: Mapping[str, float]
    after: Mapping[str, float]
    held_out: tuple[str, ...]
    bundle: Path | None
    message: str


def adapt(
    options: AdaptOptions,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    report: Callable[[str], None] = print,
    on_validation: ValidationCallback | None = None,
) -> AdaptResult:
    """Adapt a model to corrected cases, and write a new bundle if the new model is better.

    Args:
        options: choices of the user.
        progress: called with (stage, fraction done, seconds left or None).
        cancelled: polled at least once a step; True stops the work, which can be resumed.
        report: function that receives lines of text for the user.
        on_validation: called after each validation with the minutes since the start and the mean
            Dice of the held-out cases.

    Raises:
        MaskSAMError: the model cannot be adapted, the cases have problems, the bundle exists, there
            is nothing to resume, or the minutes are too few.
        Cancelled: ``cancelled`` returned True.
    """
    clock = Clock(options.minutes, progress, cancelled)
    _check_options(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    clock.step("Reading the cases")
    bundle, _ = open_model(options.model, with_estimator=False)
    work = learning_folder(options.output)
    task = Task.of(options, bundle)
    if options.resume:
        state = resumed(work, task)
        clock.before = state.seconds
    else:
        shutil.rmtree(work, ignore_errors=True)
        try:
            with made_folders([work]):
                state = prepare(task, work, clock)
                write_json(work / STATE, state.to_dict())
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    report(_described(task, state))
    refiner = fit_refiner(task, state, work, clock, report, on_validation)
    clock.step("Comparing")
    network = task.refined(state, refiner)
    labels = task.labels_of(state)
    new = MaskSegmenter(
        network,
        task.plan,
        labels,
        device=task.device,
        inference=task.inference,
    )
    before, after = _compare(task, state, new, clock)
    kept = not before or np.mean(list(after.values())) > np.mean(list(before.values()))
    if kept:
        samples = results_to_fit(task, state, new, clock)
        with (
            made_folders([options.output.parent]),
            atomic_folder(options.output, overwrite=False) as folder,
        ):
            written = _save(folder, task, state, network, labels, before, after)
            note = write_adapted_estimator(task, written, samples)
        if note:
            report(note)
    shutil.rmtree(work, ignore_errors=True)
    if progress is not None:
        progress("Done", 1.0, 0.0)
    return AdaptResult(
        kept=bool(kept),
        before=before,
        after=after,
        held_out=state.held_out,
        bundle=options.output if kept else None,
        message=_message(options, state, before, after, bool(kept)),
    )


def _check_options(options: AdaptOptions) -> None:
    check_name(options.name)
    if not options.minutes > 0:
        raise MaskSAMError("the minutes must be more than 0")
    if options.output.exists():
        raise MaskSAMError(f"{options.output} exists: choose another folder for the new model")


def _message(
    options: AdaptOptions,
    state: AdaptationState,
    before: Mapping[str, float],
    after: Mapping[str, float],
    kept: bool,
) -> str:
    if not state.held_out:
        return f"'{options.name}' is written; no case was held out to compare it with"
    if not before:
        return (
            f"'{options.name}' is written, but cannot be compared: no held-out case shows a checked"
            " class, and neither model finds one there"
        )
    old, new = (float(np.mean(list(scores.values()))) for scores in (before, after))
    change = f"mean Dice of the held-out cases {old:.3f} before, {new:.3f} after"
    if kept:
        return f"'{options.name}' is better and is written: {change}"
    return f"the new model is not better and was not written: {change}"


def _compare(
    task: Task, state: AdaptationState, new: MaskSegmenter, clock: Clock
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the Dice of the corrected classes on the held-out cases, before and after.

    A class that no held-out case shows and that neither model finds there is left out.
    """
    if not state.held_out:
        return {}, {}
    former = MaskSegmenter.from_bundle(replace(task.bundle, estimator=None), None, task.device)
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for name in state.held_out:
        case = task.load(name)
        case = replace(case, labelmap=task.corrected(case))
        checked = {each: task.classes.index(each) + 1 for each in task.checked(name)}
        for segmenter, scores in ((former, before), (new, after)):
            clock.step("Comparing")
            for class_name, dice in _class_dice(segmenter, case, checked, clock).items():
                scores.setdefault(class_name, []).append(dice)
    compared = [name for name in before if not np.isnan([*before[name], *after[name]]).all()]
    return _means(before, compared), _means(after, compared)


def _class_dice(
    segmenter: MaskSegmenter, case: LabelledCase, names: Mapping[str, int], clock: Clock
) -> dict[str, float]:
    """Return the Dice of some classes on a case, NaN for a class neither present nor found.

    Args:
        segmenter: segmenter of the model.
        case: the case with its reference.
        names: value in the reference of each class name.
        clock: clock that is polled for cancellation.
    """
    found = segmenter.segment(case.channels, cancelled=clock.is_cancelled).labelmap
    values = {label.name.casefold(): label.value for label in segmenter.labels}
    scores = {}
    for name, own in names.items():
        mask = found == values.get(name.casefold(), -1)
        (scores[name],) = dice_scores(
            mask.astype(np.uint8), (case.labelmap == own).astype(np.uint8), [1]
        )
    return scores


def _means(scores: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, float]:
    """Return the mean Dice of some classes over cases.

    A class that is neither present in a case nor found counts as 1.

    Args:
        scores: Dice of each class on each case, NaN where a class is neither present nor found.
        names: names of the classes.
    """
    return {name: float(np.nan_to_num(scores[name], nan=1.0).mean()) for name in names}


def _save(
    folder: Path,
    task: Task,
    state: AdaptationState,
    network: RefinedNetwork,
    labels: Sequence[Label],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Bundle:
    """Write the new bundle into an empty folder."""
    bundle, options = task.bundle, task.options
    facts = {
        "from": bundle.name,
        "weights_sha256": bundle.weights_sha256,
        "classes": list(state.classes),
        "cases": len(state.train),
        "held_out": len(state.held_out),
        "seed": state.seed,
    }
    if before:
        facts["dice_before"] = {name: round(dice, 4) for name, dice in before.items()}
        facts["dice_after"] = {name: round(dice, 4) for name, dice in after.items()}
    card = {key: value for key, value in bundle.card.items() if key not in _FORMER_FIGURES}
    if state.small_images and "field_of_view_mm" in card:
        # Small images were learned, so that there is no smallest field of view.
        card["field_of_view_mm"] = [[0.0, largest] for _, largest in card["field_of_view_mm"]]
    if len(labels) > len(bundle.labels):
        # New classes may take voxels from intracranial ones, and may lie in the skull or outside.
        card.pop("intracranial", None)
    return save_bundle(
        folder,
        options.name,
        f"{options.name}: {bundle.name} adapted to {len(state.train)} case(s)",
        own_weights(network),
        network.config,
        bundle.plan,
        tuple(labels),
        task.inference,
        {**card, "adapted": facts},
        overwrite=True,
    )


def _described(task: Task, state: AdaptationState) -> str:
    held_out = f", {len(state.held_out)} held out" if state.held_out else ""
    window = " x ".join(map(str, state.window))
    plan = task.plan.divided(state.subdivision)
    size = " x ".join(f"{mm:.3g}" for mm in plan.spacing)
    return (
        f"{len(state.train)} case(s) to learn{held_out}; classes"
        f" {', '.join(state.classes)}; windows of {window} voxels of {size} mm"
    )
