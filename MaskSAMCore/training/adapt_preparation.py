"""Preparation of an adaptation: cases to learn and to hold out, and placement of the refiner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data.augmentation import cut
from MaskSAMCore.data.case_cache import CaseCache, StoredArrays
from MaskSAMCore.data.patients import parted_patients
from MaskSAMCore.data.preprocessing import PreparedCase, nearest_voxels
from MaskSAMCore.data.splits import cross_validation
from MaskSAMCore.data.windows import IndexedCase, sample_voxels
from MaskSAMCore.errors import CannotResume, MaskSAMError
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.io.files import MALFORMED, read_json, sha256
from MaskSAMCore.modeling import MaskSAM
from MaskSAMCore.modeling.masksam.inheritance import fitting_window
from MaskSAMCore.modeling.refined.network import dilated
from MaskSAMCore.models.expected_dice import QUALITY
from MaskSAMCore.models.unfinished import STATE
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.adapt_task import UNDIVIDED, AdaptationState, AdaptOptions, Parts, Task
from MaskSAMCore.training.refinement import (
    MeasuredCase,
    Placement,
    choose_anchors,
    choose_givers,
    choose_subdivision,
    distances,
    is_small,
    reach_in_voxels,
)
from MaskSAMCore.training.run_folder import CASES

# Automatic choice of held-out cases: one part in _PARTS, at most _MOST_HELD_OUT cases, and none
# unless there are _LEAST_CASES.
_PARTS, _MOST_HELD_OUT, _LEAST_CASES = 5, 8, 3
# Number of cases that the base segments before the training, to find where the refiner must decide.
_MEASURED_CASES = 8
# Number of cases whose windows show which query belongs to which class.
_QUERIED_CASES = 2
# Largest shares of the time for measuring cases and for the comparison at the end, and of the
# training time for results that an estimator of the Dice is fitted to.
_MEASURING_SHARE, _COMPARING_SHARE, _RESULTS_SHARE = 0.2, 0.25, 0.1
# Fewest and most results for the estimator, and the time of one in segmentations by the base.
_FEWEST_RESULTS, _MOST_RESULTS, _RESULT = 30, 60, 2.0
# Time of the comparison: per case in segmentations by the base, and a constant part in seconds.
_COMPARED_CASE, _COMPARING_SECONDS = 2.5, 3.0
_VOXELS_PER_CLASS = 10_000


@dataclass(frozen=True)
class _Measured:
    """Cases that the base has segmented before the training.

    Attributes:
        cases: measured cases by name, with their images in the cache.
        placement: sums over the measured cases.
        seconds: mean time to measure a case in seconds.
    """

    cases: Mapping[str, MeasuredCase]
    placement: Placement
    seconds: float

    @property
    def large(self) -> list[MeasuredCase]:
        """Cases whose images are not small, and so show what surrounds the corrected classes."""
        whole = self.placement.whole
        return [
            case
            for case in self.cases.values()
            if not is_small((case.corrected.shape[1], case.corrected.shape[2]), whole)
        ]


def prepare(task: Task, work: Path, clock: Clock) -> AdaptationState:
    """Measure cases with the base, place the refiner, and preprocess all cases for it."""
    choice, seed = task.options.holdout, task.options.seed or 0
    choice = "auto" if choice is None else choice
    train, held_out = _divided(task, choice, seed)
    cache = CaseCache(work / CASES)
    segmenter = task.segmenter()
    measured = _measure(task, train, segmenter, cache, clock)
    if choice == "auto":
        compared = _COMPARING_SHARE * 60 * clock.minutes / _comparing(measured, 1)
        kept = _first_patients(held_out, task.corrections.dataset.patients, int(compared))
        train = (*train, *(name for name in held_out if name not in kept))
        held_out = kept
    state = _planned(task, train, held_out, seed, measured, cache)
    for number, name in enumerate((*train, *held_out)):
        clock.step(f"Preprocessing case {number + 1} of {len(train) + len(held_out)}")
        region = name in held_out
        found = measured.cases[name].found if name in measured.cases else None
        if found is None and (region or task.is_partial(name)):
            found = task.found(segmenter, task.load(name), clock)
        prepared = _prepared(task, name, state.subdivision, measured.cases, cache)
        cache.store(name, indexed_case(task, state, name, prepared, found, region).to_arrays())
        del prepared  # Only one image is in memory at a time.
    state = replace(state, seconds=clock.seconds)
    left = minutes_left(task.options, state)
    minutes = clock.minutes if left is None else left
    results = _results(task, train, held_out, measured, minutes)
    comparing = state.comparing + results * _RESULT * measured.seconds
    return replace(state, results=results, comparing=comparing)


def _measure(
    task: Task, names: Sequence[str], segmenter: MaskSegmenter, cache: CaseCache, clock: Clock
) -> _Measured:
    """Segment cases with the base until there are enough of them, and store their images.

    Raises:
        MaskSAMError: no case shows a corrected class.
    """
    config = task.base.config
    classes = len(task.classes)
    placement = Placement(classes, config.num_classes, task.plan.spacing, config.window[1:])
    measured: dict[str, MeasuredCase] = {}
    shown = False
    began = clock.seconds
    for number, name in enumerate(names):
        clock.step(f"Measuring case {number + 1} of {len(names)}")
        late = clock.seconds - began > _MEASURING_SHARE * 60 * clock.minutes
        # Healthy patients may come first, but only a case with the classes shows where they lie.
        enough = shown and (late or len(measured) >= _MEASURED_CASES)
        if not enough or task.is_partial(name):
            case = task.measure(segmenter, name, clock)
            assert case.image is not None
            # Memory may be too small for all images. The indexed case later replaces the entry.
            cache.store(name, {"image": case.image})
            measured[name] = case = replace(case, image=None)
            placement.add(case)
            shown = shown or bool((case.corrected > 0).any())
    if not shown:
        raise MaskSAMError(f"no case in {task.options.cases} shows a voxel of the checked classes")
    return _Measured(measured, placement, (clock.seconds - began) / len(measured))


def _comparing(measured: _Measured, held_out: int) -> float:
    """Return the seconds to reserve for both models to segment each held-out case."""
    return max(_COMPARED_CASE * measured.seconds * held_out, 1e-3)


def _results(
    task: Task, train: Sequence[str], held_out: Sequence[str], measured: _Measured, minutes: float
) -> int:
    """Return the number of results that an estimator of the Dice is fitted to.

    It is 0 if the model has no estimator, if no case is held out, because results of learned cases
    are too good, if there are fewer than the two cases that a fit needs, or if the time is too
    short for enough results.

    Args:
        task: model and corrected cases.
        train: names of the cases to learn.
        held_out: names of the held-out cases.
        measured: measured cases.
        minutes: time left for the training in minutes.
    """
    has_estimator = (task.bundle.folder / QUALITY).is_file()
    learned, others = (task.complete(names) for names in (train, held_out))
    if not has_estimator or not others or len(learned) + len(others) < 2:
        return 0
    possible = int(_RESULTS_SHARE * 60 * minutes / max(_RESULT * measured.seconds, 1e-3))
    return min(possible, _MOST_RESULTS) if possible >= _FEWEST_RESULTS else 0


def _planned(
    task: Task,
    train: tuple[str, ...],
    held_out: tuple[str, ...],
    seed: int,
    measured: _Measured,
    cache: CaseCache,
) -> AdaptationState:
    """Return the state of the adaptation, with the placement of the refiner."""
    placement, large = measured.placement, measured.large
    spacing = task.plan.spacing
    origins = tuple(
        task.index_in_model(name) or placement.nearest(index)
        for index, name in enumerate(task.classes, start=1)
    )
    source, _own_origins = task.source(origins)
    anchors = _anchors(task, measured)
    every = range(1, len(task.classes) + 1)
    away = [d for case in large for d in distances(case, anchors, spacing, every)]
    reach = reach_in_voxels(away, spacing)
    former = task.former_refiner
    if former is None:
        decided = [int(_near(case.found, anchors, reach).sum()) for case in large]
        subdivision = choose_subdivision(
            list(measured.cases.values()), placement, decided, source.config.window
        )
    else:
        subdivision = former.config.subdivision
    extent = [size * parts for size, parts in zip(placement.extent(), subdivision[1:], strict=True)]
    # The network that initialises the refiner sees voxels of its own size.
    own_voxels = UNDIVIDED if former is None else subdivision
    with_classes = (name for name, case in measured.cases.items() if (case.corrected > 0).any())
    examples = (
        _prepared(task, name, own_voxels, measured.cases, cache)
        for name in islice(with_classes, _QUERIED_CASES)
    )
    return AdaptationState(
        model=task.bundle.weights_sha256,
        cases=_checksums(task),
        seed=seed,
        train=train,
        held_out=held_out,
        classes=task.classes,
        origins=origins,
        anchors=anchors,
        reach=reach,
        givers=choose_givers(large),
        subdivision=subdivision,
        window=fitting_window(source.config, extent),
        queries=class_queries(source, _around_classes(examples, source)),
        seconds=0.0,
        comparing=_comparing(measured, len(held_out)) + _COMPARING_SECONDS,
        small_images=len(large) < len(measured.cases),
    )


def _anchors(task: Task, measured: _Measured) -> tuple[int, ...]:
    """Return the classes of the base near which the refiner decides."""
    known = [task.base_index(name) for name in task.classes]
    new = [index for index, own in enumerate(known, start=1) if own is None]
    own = [index for index in known if index is not None]
    if not measured.large:
        # Small images alone do not show where a new class lies in a large one.
        return tuple(sorted(own))
    return choose_anchors(measured.placement, own, new, measured.large)


def minutes_left(options: AdaptOptions, state: AdaptationState) -> float | None:
    """Return the minutes left for the training; None if the user has set a number of steps.

    Raises:
        MaskSAMError: no time is left.
    """
    if options.steps is not None:
        return None
    needed = (state.seconds + state.comparing) / 60
    if options.minutes <= needed:
        raise MaskSAMError(
            f"{options.minutes:g} minutes are too few for these cases: give at least"
            f" {2 * needed:.2g}"
        )
    return options.minutes - needed


def _divided(
    task: Task, choice: str | int | Path, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the cases to learn and of those to hold out.

    Args:
        task: model and corrected cases.
        choice: held-out cases, see :class:`AdaptOptions`.
        seed: seed of a random choice.

    Raises:
        MaskSAMError: the choice of the user leaves no case to learn, names unknown cases, or
            separates the cases of a patient.
    """
    dataset = task.corrections.dataset
    names = [case.name for case in dataset.cases]
    patients = {name: dataset.patients.get(name, name) for name in names}
    distinct = list(dict.fromkeys(patients.values()))
    held_out: tuple[str, ...] = ()
    if isinstance(choice, Path):
        values = read_json(choice)
        listed = values.get("val") if isinstance(values, dict) else values
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise MaskSAMError(f"{choice} needs a list of case names, or one under 'val'")
        unknown = sorted(set(listed) - set(names))
        if unknown:
            raise MaskSAMError(f"{choice} names cases that are not in the folder: {unknown}")
        held_out = tuple(sorted(set(listed)))
        sides = {"the cases to learn": sorted(set(names) - set(listed)), str(choice): held_out}
        for problem in parted_patients(sides, patients):
            raise MaskSAMError(problem)
    elif choice == "auto":
        if len(names) >= _LEAST_CASES and len(distinct) > 1:
            folds = cross_validation(names, patients, min(_PARTS, len(distinct)))
            held_out = _first_patients(folds[0]["val"], patients, _MOST_HELD_OUT)
    elif int(choice) > 0:
        order = np.random.default_rng(seed).permutation(len(distinct)).tolist()
        places = {distinct[index]: place for place, index in enumerate(order)}
        drawn = sorted(names, key=lambda name: places[patients[name]])
        held_out = _first_patients(drawn, patients, int(choice))
    train = tuple(name for name in names if name not in held_out)
    if not train:
        raise MaskSAMError(
            f"{len(held_out)} of {len(names)} case(s) are held out, so that none is left to learn:"
            " hold out fewer"
        )
    return train, held_out


def _first_patients(
    names: Sequence[str], patients: Mapping[str, str], most: int
) -> tuple[str, ...]:
    """Return the cases of the first patients; the cases of a patient stay together.

    Args:
        names: names of the cases.
        patients: patient of each case.
        most: largest number of cases; only the first patient may have more.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(patients.get(name, name), []).append(name)
    found: list[str] = []
    for cases in groups.values():
        if found and len(found) + len(cases) > most:
            break
        found += cases
    return tuple(found)


def _prepared(
    task: Task,
    name: str,
    subdivision: Parts,
    measured: Mapping[str, MeasuredCase],
    cache: CaseCache,
) -> PreparedCase:
    """Return a preprocessed case, from the cache if it was measured in voxels of the same size.

    Args:
        task: model and corrected cases.
        name: name of the case.
        subdivision: number of parts that a voxel of the base's plan is divided into.
        measured: measured cases by name.
        cache: cache with the images of the measured cases.
    """
    if subdivision != UNDIVIDED or name not in measured:
        return task.prepared(task.load(name), subdivision)
    # A copy in memory, because Windows cannot replace a file that is mapped.
    image = np.array(StoredArrays(cache.folder / name).read("image"))
    return PreparedCase(image, measured[name].corrected)


def _around_classes(cases: Iterable[PreparedCase], source: MaskSAM) -> Tensor:
    """Return windows around the corrected classes of some cases: (B, C, T, H, W)."""
    windows = []
    for case in cases:
        assert case.labelmap is not None
        centre = [round(place) for place in np.argwhere(case.labelmap > 0).mean(0)]
        size = source.config.window
        channels = [cut(one, centre, size, float(one.min())) for one in case.image]
        windows.append(torch.from_numpy(np.stack(channels)))
    return torch.stack(windows)


def _near(
    found: NDArray[np.integer], anchors: Sequence[int], reach: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Return a mask of the voxels within reach of the anchor classes that the base finds."""
    anchored = torch.from_numpy(np.isin(found, anchors))[None]
    return dilated(anchored, reach)[0].numpy()


@torch.inference_mode()
def class_queries(source: MaskSAM, windows: Tensor) -> tuple[int, ...]:
    """Return the query that most likely shows each class of a network, background first.

    Args:
        source: the network.
        windows: (B, C, T, H, W) around the classes of interest.
    """
    shown = torch.zeros(source.config.queries, source.config.num_classes + 1)
    for window in windows:
        logits = source(window[None]).class_logits
        shown = torch.maximum(shown, logits.softmax(-1)[0, ..., :-1].amax(1))
    return tuple(shown.argmax(0).tolist())


def indexed_case(
    task: Task,
    state: AdaptationState,
    name: str,
    prepared: PreparedCase,
    found: NDArray[np.integer] | None,
    region: bool,
) -> IndexedCase:
    """Return a case with its corrected classes, and with voxels that windows are centred on.

    Args:
        task: model and corrected cases.
        state: state of the adaptation, with the placement of the refiner.
        name: name of the case.
        prepared: the case in the refiner's voxels.
        found: class indices that the base predicts, on the base's grid; None if the base has not
            segmented the case.
        region: return only the part of the case that the refiner decides about, with a reference.
    """
    assert prepared.labelmap is not None
    image, labels = prepared.image, prepared.labelmap.astype(np.uint8)
    near = None
    if found is not None:
        near = nearest_voxels(_near(found, state.anchors, state.reach), labels.shape)
        unknown = nearest_voxels(task.unknown(name, found, state), labels.shape)
        labels[(labels == 0) & unknown] = len(state.classes) + 1
    classes = np.where(labels > len(state.classes), 0, labels)
    lowest = tuple(float(channel.min()) for channel in image)
    if region:
        part = _region((classes > 0) if near is None else (classes > 0) | near, state.window)
        image = np.ascontiguousarray(image[:, part[0], part[1], part[2]])
        inside = np.ascontiguousarray(classes[part])
        return IndexedCase(image, inside, lowest, (), inside)
    foreground = sample_voxels(classes, _VOXELS_PER_CLASS)
    if near is not None:
        # Windows without any of the classes are negative examples for the refiner.
        foreground += sample_voxels(near.astype(np.uint8), _VOXELS_PER_CLASS)
    return IndexedCase(image, labels, lowest, foreground)


def _region(mask: NDArray[np.bool_], window: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the part of a volume around a mask, along each axis at least as large as a window, or
    as the volume where the volume is smaller."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        return slice(None), slice(None), slice(None)
    parts = []
    for low, high, size, length in zip(
        voxels.min(0), voxels.max(0) + 1, window, mask.shape, strict=True
    ):
        extent = min(length, max(size, int(high - low)))
        first = int(low) - (extent - int(high - low)) // 2
        first = min(max(0, first), length - extent)
        parts.append(slice(first, first + extent))
    return parts[0], parts[1], parts[2]


def resumed(work: Path, task: Task) -> AdaptationState:
    """Return the state of the adaptation to continue.

    Raises:
        CannotResume: the model or the cases have changed.
        MaskSAMError: there is no adaptation to continue, its state is damaged, or a choice of the
            user has changed.
    """
    path = work / STATE
    if not path.is_file():
        raise MaskSAMError(
            f"there is no unfinished learning for {task.options.output}: start one without --resume"
        )
    try:
        state = AdaptationState.from_dict(read_json(path))
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is damaged ({error}): start anew without --resume") from error
    if state.model != task.bundle.weights_sha256 or state.cases != _checksums(task):
        raise CannotResume(
            "the model, the cases or their checked classes have changed since this learning began:"
            " give those of its first command, or start anew without --resume"
        )
    _check_kept(task, state)
    return state


def _check_kept(task: Task, state: AdaptationState) -> None:
    """Raise an error if a choice that the user has given differs from that of the adaptation."""
    options, others = task.options, []
    if options.seed not in (None, state.seed):
        others.append("--seed")
    if options.holdout is not None:
        _, held_out = _divided(task, options.holdout, state.seed)
        kept = set(state.held_out)
        # The automatic choice is shortened where the comparison would take too long.
        shortened = options.holdout == "auto" and kept and kept < set(held_out)
        if kept != set(held_out) and not shortened:
            others.append("--holdout")
    if others:
        raise MaskSAMError(
            f"the learning of {options.output} was begun with another {others[0]}: leave it out, or"
            " give that of its first command"
        )


def _checksums(task: Task) -> tuple[str, ...]:
    cases = task.corrections.dataset.cases
    return tuple(
        f"{case.name} {sha256(case.labelmap)} {sorted(task.corrections.checked[case.name])}"
        for case in cases
    )
