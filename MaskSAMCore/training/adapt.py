"""Adaptation of a model to a user's corrected cases, on the user's own computer.

The model's network stays as it is. A second, small network, the refiner, starts with the weights of
the first one and learns the corrected classes alone, in windows around them. In the new model it
decides about these classes, near where the first network finds them or what they come from, and
about nothing else: what was not corrected cannot be forgotten.
"""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.data import Plan, preprocess
from MaskSAMCore.data.augmentation import cut
from MaskSAMCore.data.case_cache import CaseCache, StoredArrays
from MaskSAMCore.data.corrections import Corrections, read_corrections
from MaskSAMCore.data.dataset import LabelledCase, load_cases
from MaskSAMCore.data.splits import cross_validation
from MaskSAMCore.data.window_numbers import WindowNumbers
from MaskSAMCore.data.windows import CachedCase, IndexedCase, WindowDataset, sample_voxels
from MaskSAMCore.errors import Cancelled, MaskSAMError
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.io.files import MALFORMED, made_folders, read_json, sha256, write_json
from MaskSAMCore.labels import Label, default_colors
from MaskSAMCore.modeling import MaskSAM, Network
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.masksam.inheritance import fitting_window, inherited_network
from MaskSAMCore.modeling.masksam.network import set_trained_parts
from MaskSAMCore.modeling.refined import Config as RefinedConfig
from MaskSAMCore.modeling.refined import Network as RefinedNetwork
from MaskSAMCore.modeling.refined.network import dilated
from MaskSAMCore.models import Bundle, open_model, save_bundle
from MaskSAMCore.models.catalog import check_name
from MaskSAMCore.models.unfinished import STATE, learning_folder
from MaskSAMCore.training.callbacks import (
    Budget,
    ProgressLogger,
    ResumableCheckpoints,
    Validation,
    newest_checkpoint,
)
from MaskSAMCore.training.devices import accelerator, precision
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.losses.masksam import LossSettings
from MaskSAMCore.training.losses.prompting import PromptSettings
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.refinement import (
    MeasuredCase,
    Placement,
    distances,
    is_small,
    reach_in_voxels,
)
from MaskSAMCore.training.run_folder import own_weights
from MaskSAMCore.training.validation import Evaluator, Scores

# Cases that are held out without a choice of the user: one in five, at most these.
_PARTS, _MOST_HELD_OUT, _LEAST_CASES = 5, 8, 3
# Cases that the base segments before the learning, to tell where its classes lie.
_MEASURED_CASES = 8
# Cases whose windows tell which query shows which class.
_QUERIED_CASES = 2
# Largest shares of the time for these cases, and for the comparison at the end.
_MEASURING_SHARE, _COMPARING_SHARE = 0.2, 0.25
_CASES = "cases"
_CHECKPOINT_SECONDS, _REPORT_SECONDS, _VALIDATION_MINUTES = 30.0, 15.0, 0.5
_VOXELS_PER_CLASS = 10_000
# Facts of a card that are about the former weights.
_FORMER_FIGURES = ("training", "test", "test_dice", "reference_test_dice")
# Hyperparameters of every adaptation.
SETTINGS = TrainSettings(
    learning_rate=1e-3,
    warm_up=20,
    batch=2,
    clip=5.0,
    ema=0.99,
    foreground_share=0.9,
    loss=LossSettings(prompts=PromptSettings(share=0.2, jitter=0.05), affinity=4.0),
)

# Arguments: minutes since the start, mean Dice of the held-out cases.
ValidationCallback = Callable[[float, float], None]


@dataclass(frozen=True)
class AdaptOptions:
    """Choices of the user for an adaptation.

    Attributes:
        model: folder or zip of the bundle to adapt, or a name in the catalog.
        cases: folder of corrected cases, or any nnU-Net dataset.
        output: folder of the new bundle, which must not exist.
        name: name of the new model.
        minutes: longest duration of the whole work, earlier parts included.
        holdout: cases that are not learned but decide whether the new model is better: "auto", a
            number, or a JSON file with a list of names or a split with "val".
        device: "auto", "cpu", "cuda" or "mps".
        threads: number of threads on a CPU; None for PyTorch's own choice.
        seed: seed of all random numbers.
        resume: continue a cancelled or killed adaptation; otherwise it starts anew.
        steps: number of steps of the learning in place of the minutes; None for the minutes.
    """

    model: Path | str
    cases: Path
    output: Path
    name: str
    minutes: float = 15.0
    holdout: str | int | Path = "auto"
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    resume: bool = False
    steps: int | None = None


@dataclass(frozen=True)
class AdaptResult:
    """Outcome of an adaptation.

    Attributes:
        kept: True if the new model was written; False if it was no better.
        before: Dice of each corrected class on the held-out cases before; 0 for a class that the
            model did not have. Empty where no case was held out.
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


@dataclass(frozen=True)
class Learning(Configuration):
    """Everything that a learning is resumed with.

    Attributes:
        model: SHA-256 of the weights of the model.
        cases: SHA-256 of the labelmap of each case, after its name.
        seed: seed of all random numbers.
        train: names of the cases to learn.
        held_out: names of the held-out cases.
        classes: names of the corrected classes, in the refiner's order.
        origins: index in the model of the class that each corrected class starts from, 0 for the
            background.
        anchors: see :class:`RefinedConfig`.
        reach: see :class:`RefinedConfig`.
        window: (T, H, W) of the refiner in voxels.
        queries: query of the refiner's origin that shows each of its classes.
        seconds: time that the preparation took.
        comparing: time to keep for the comparison in seconds.
    """

    model: str
    cases: tuple[str, ...]
    seed: int
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    classes: tuple[str, ...]
    origins: tuple[int, ...]
    anchors: tuple[int, ...]
    reach: tuple[int, int, int]
    window: tuple[int, int, int]
    queries: tuple[int, ...]
    seconds: float
    comparing: float


@dataclass
class Clock:
    """Time, progress and cancellation of an adaptation.

    Attributes:
        minutes: longest duration.
        progress: receives the stage, the fraction done and the seconds left.
        cancelled: polled at each step.
        before: seconds of earlier parts.
    """

    minutes: float
    progress: ProgressCallback | None
    cancelled: CancelledCallback | None
    before: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start, earlier parts included."""
        return self.before + time.monotonic() - self._started

    def step(self, stage: str) -> None:
        """Report the progress.

        Raises:
            Cancelled: the user has cancelled.
        """
        self.check()
        if self.progress is not None:
            left = max(0.0, 60 * self.minutes - self.seconds)
            self.progress(stage, min(0.99, self.seconds / (60 * self.minutes)), left)

    def check(self) -> None:
        """Poll for cancellation.

        Raises:
            Cancelled: the user has cancelled.
        """
        if self.is_cancelled():
            raise Cancelled("the learning was cancelled: it can be continued")

    def is_cancelled(self) -> bool:
        """Return whether the user has cancelled."""
        return self.cancelled is not None and self.cancelled()


def adapt(
    options: AdaptOptions,
    progress: ProgressCallback | None = None,
    cancelled: CancelledCallback | None = None,
    report: Callable[[str], None] = print,
    on_validation: ValidationCallback | None = None,
) -> AdaptResult:
    """Learn corrected cases and write a new bundle, if it is better.

    Args:
        options: choices of the user.
        progress: called with (stage, fraction done, seconds left or None).
        cancelled: polled at least once a step; True stops the work, which can be resumed.
        report: function that receives lines of text for the user.
        on_validation: called with the minutes and the Dice of the held-out cases so far.

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
        learning = _resumed(work, task)
        clock.before = learning.seconds
    else:
        shutil.rmtree(work, ignore_errors=True)
        try:
            with made_folders([work]):
                learning = _prepare(task, work, clock)
                write_json(work / STATE, learning.to_dict())
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    report(_described(learning))
    refiner = _learn(task, learning, work, clock, report, on_validation)
    clock.step("Comparing")
    network = task.refined(learning, refiner)
    labels = task.labels_of(learning)
    before, after = _compare(task, learning, network, labels, clock)
    kept = not before or np.mean(list(after.values())) > np.mean(list(before.values()))
    if kept:
        _save(task, learning, network, labels, before, after)
    shutil.rmtree(work, ignore_errors=True)
    if progress is not None:
        progress("Done", 1.0, 0.0)
    return AdaptResult(
        kept=bool(kept),
        before=before,
        after=after,
        held_out=learning.held_out,
        bundle=options.output if kept else None,
        message=_message(options, before, after, bool(kept)),
    )


def _check_options(options: AdaptOptions) -> None:
    check_name(options.name)
    if not options.minutes > 0:
        raise MaskSAMError("the minutes must be more than 0")
    if options.output.exists():
        raise MaskSAMError(f"{options.output} exists: choose another folder for the new model")


def _message(
    options: AdaptOptions, before: Mapping[str, float], after: Mapping[str, float], kept: bool
) -> str:
    if not before:
        return f"'{options.name}' is written; no case was held out to compare it with"
    old, new = (float(np.mean(list(scores.values()))) for scores in (before, after))
    change = f"mean Dice of the held-out cases {old:.3f} before, {new:.3f} after"
    if kept:
        return f"'{options.name}' is better and is written: {change}"
    return f"the new model is not better and was not written: {change}"


@dataclass(frozen=True)
class Task:
    """A model with the cases that it is adapted to.

    Attributes:
        options: choices of the user.
        bundle: bundle of the model.
        model: network of the bundle.
        base: network that the refiner is added to: the model itself or, if it has a refiner of the
            same classes, its base.
        corrections: corrected cases.
        classes: names of the corrected classes.
        plan: preprocessing of the model.
    """

    options: AdaptOptions
    bundle: Bundle
    model: Network
    base: Network
    corrections: Corrections
    classes: tuple[str, ...]
    plan: Plan

    @classmethod
    def of(cls, options: AdaptOptions, bundle: Bundle) -> Task:
        """Read the cases and check that the model can learn them.

        Raises:
            MaskSAMError: it cannot.
        """
        if bundle.config.frozen_sam is not None:
            raise MaskSAMError(
                f"model '{bundle.name}' stands on a large frozen SAM and cannot be adapted here:"
                " choose a model without one, such as brain"
            )
        corrections = read_corrections(options.cases)
        dataset = corrections.dataset
        if len(dataset.channels) != len(bundle.plan.channels):
            raise MaskSAMError(
                f"model '{bundle.name}' takes {len(bundle.plan.channels)} image(s) a case, but"
                f" the cases in {options.cases} have {len(dataset.channels)}"
            )
        checked = frozenset().union(*corrections.checked.values())
        classes = tuple(name for name in dataset.classes if name in checked)
        if not classes:
            raise MaskSAMError(f"no class is checked in any case of {options.cases}")
        model = bundle.build()
        base = model
        if isinstance(model, RefinedNetwork):
            names = {label.name.casefold() for label in bundle.labels}
            own = {bundle.labels[index - 1].name.casefold() for index in model.config.refined}
            if own <= {name.casefold() for name in classes} & names:
                base = model.base
        return cls(options, bundle, model, base, corrections, classes, bundle.plan)

    @property
    def device(self) -> str:
        """Kind of the device."""
        return accelerator(self.options.device)

    @property
    def mirror(self) -> tuple[int, ...]:
        """Axes along which the new model may be mirrored: none, unless the model is meant to be,
        because a corrected class may be one end of a structure."""
        return self.bundle.mirror if self.bundle.tta == "mirror" else ()

    def index_in_model(self, name: str) -> int | None:
        """Return the index of a class in the model, or None for a new class."""
        names = [label.name.casefold() for label in self.bundle.labels]
        return names.index(name.casefold()) + 1 if name.casefold() in names else None

    def base_index(self, name: str) -> int | None:
        """Return the index of a class in the base, or None for one that the base lacks."""
        index = self.index_in_model(name)
        return None if index is None or index > self.base.config.num_classes else index

    def segmenter(self) -> MaskSegmenter:
        """Return the segmenter of the base."""
        labels = self.bundle.labels[: self.base.config.num_classes]
        return MaskSegmenter(self.base, self.plan, labels, device=self.device)

    def is_partial(self, name: str) -> bool:
        """Return whether some of the corrected classes are not checked in a case."""
        return not set(self.classes) <= self.corrections.checked[name]

    def load(self, name: str) -> LabelledCase:
        """Read a case.

        Raises:
            MaskSAMError: it has problems.
        """
        (case,) = load_cases(self.corrections.dataset, [name])
        return case

    def measure(self, segmenter: MaskSegmenter | None, name: str, clock: Clock) -> MeasuredCase:
        """Preprocess a case, and segment it with the base if its segmenter is given."""
        case = self.load(name)
        found = None
        if segmenter is not None:
            with segmenter.open(case.channels, cache_bytes=0) as session:
                scores = session.scores(cancelled=clock.is_cancelled).scores
            found = scores.argmax(0).to(torch.uint8).numpy()
        corrected = np.zeros_like(case.labelmap)
        checked = self.corrections.checked[name]
        for index, class_name in enumerate(self.corrections.dataset.classes, start=1):
            if class_name in checked:
                corrected[case.labelmap == index] = 1 + self.classes.index(class_name)
        prepared = preprocess(case.channels, self.plan, corrected)
        assert prepared.labelmap is not None
        return MeasuredCase(prepared.image, prepared.labelmap, found)

    def unknown(
        self, name: str, found: NDArray[np.integer], learning: Learning
    ) -> NDArray[np.bool_]:
        """Return the voxels of a case that may belong to a class that is not checked there."""
        missing = [each for each in self.classes if each not in self.corrections.checked[name]]
        indices = [self.base_index(each) for each in missing]
        doubtful = {index for index in indices if index is not None}
        if None in indices:
            doubtful |= set(learning.anchors)
        return np.isin(found, sorted(doubtful))

    def source(self, origins: Sequence[int]) -> tuple[MaskSAM, tuple[int, ...]]:
        """Return the network that the refiner starts as, and its own indices of the origins.

        Args:
            origins: class indices of the model.

        Raises:
            MaskSAMError: the network is of another kind than MaskSAM.
        """
        network, own = self.model, tuple(origins)
        while isinstance(network, RefinedNetwork):
            config = network.config
            if all(index in config.refined for index in own):
                own = tuple(config.refined.index(index) + 1 for index in own)
                network = network.refiner
            else:
                known = config.base.num_classes
                own = tuple(index if index <= known else config.anchors[0] for index in own)
                network = network.base
        if not isinstance(network, MaskSAM):
            raise MaskSAMError(
                f"model '{self.bundle.name}' is of the kind '{network.config.kind}': only MaskSAM's"
                " models can be adapted"
            )
        return network, own

    def labels_of(self, learning: Learning) -> tuple[Label, ...]:
        """Return the labels of the new model: those of the base, then the others."""
        known = self.base.config.num_classes
        labels = list(self.bundle.labels[:known])
        former = {label.name.casefold(): label for label in self.bundle.labels}
        values = dict(
            zip(self.corrections.dataset.classes, self.corrections.dataset.values, strict=True)
        )
        for name in learning.classes:
            if self.base_index(name) is not None:
                continue
            label = former.get(name.casefold())
            taken = {each.value for each in labels}
            value = values[name] if label is None else label.value
            if value in taken:
                value = max(taken) + 1
            color = default_colors(len(labels) + 1)[-1]
            labels.append(
                Label(value, name, color) if label is None else replace(label, value=value)
            )
        return tuple(labels)

    def refined(self, learning: Learning, refiner: MaskSAM) -> RefinedNetwork:
        """Return the base with a refiner."""
        base = self.base.config
        indices, new = [], base.num_classes
        for name in learning.classes:
            index = self.base_index(name)
            if index is None:
                new += 1
                index = new
            indices.append(index)
        config = RefinedConfig(
            num_classes=new,
            in_channels=base.in_channels,
            window=base.window,
            base=base,
            refiner=refiner.config,
            refined=tuple(indices),
            anchors=learning.anchors,
            reach=learning.reach,
        )
        network = RefinedNetwork(config)
        network.base.load_state_dict(self.base.state_dict())
        network.refiner.load_state_dict(refiner.state_dict())
        return network.eval().requires_grad_(False)


def _resumed(work: Path, task: Task) -> Learning:
    """Return the learning to continue.

    Raises:
        MaskSAMError: there is none, or the model or the cases have changed.
    """
    path = work / STATE
    if not path.is_file():
        raise MaskSAMError(
            f"there is no unfinished learning for {task.options.output}: start one without --resume"
        )
    try:
        learning = Learning.from_dict(read_json(path))
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is damaged ({error}): start anew without --resume") from error
    if learning.model != task.bundle.weights_sha256 or learning.cases != _checksums(task):
        raise MaskSAMError(
            "the model or the cases have changed since this learning began: start anew without"
            " --resume"
        )
    return learning


def _checksums(task: Task) -> tuple[str, ...]:
    cases = task.corrections.dataset.cases
    return tuple(
        f"{case.name} {sha256(case.labelmap)} {sorted(task.corrections.checked[case.name])}"
        for case in cases
    )


def _prepare(task: Task, work: Path, clock: Clock) -> Learning:
    """Measure the cases, choose the place of the refiner, and preprocess the cases for it."""
    spacing = task.plan.spacing
    train, held_out = _divided(task)
    config = task.base.config
    placement = Placement(len(task.classes), config.num_classes, spacing, config.window[1:])
    measured: dict[str, MeasuredCase] = {}
    segmenter = task.segmenter()
    began = clock.seconds
    for number, name in enumerate(train):
        clock.step(f"Measuring case {number + 1} of {len(train)}")
        late = clock.seconds - began > _MEASURING_SHARE * 60 * clock.minutes
        enough = bool(measured) and (late or len(measured) >= _MEASURED_CASES)
        if not enough or task.is_partial(name):
            measured[name] = task.measure(segmenter, name, clock)
            placement.add(measured[name])
    if not any((case.corrected > 0).any() for case in measured.values()):
        raise MaskSAMError(f"no case in {task.options.cases} shows a voxel of the checked classes")
    each = (clock.seconds - began) / len(measured)
    origins = tuple(
        task.index_in_model(name) or placement.nearest(index)
        for index, name in enumerate(task.classes, start=1)
    )
    source, _own_origins = task.source(origins)
    window = fitting_window(source.config, placement.extent())
    anchors = _anchors(task, placement)
    found: list[float] = []
    for case in measured.values():
        _, rows, columns = case.corrected.shape
        if not is_small((rows, columns), config.window[1:]):
            found += distances(case, anchors, spacing)
    # The base and the new model segment each of the held-out cases.
    most = max(1, int(_COMPARING_SHARE * 60 * clock.minutes / max(2.5 * each, 1e-3)))
    if task.options.holdout == "auto" and most < len(held_out):
        train, held_out = (*train, *held_out[most:]), held_out[:most]
    learning = Learning(
        model=task.bundle.weights_sha256,
        cases=_checksums(task),
        seed=task.options.seed,
        train=train,
        held_out=held_out,
        classes=task.classes,
        origins=origins,
        anchors=anchors,
        reach=reach_in_voxels(found, spacing),
        window=window,
        queries=class_queries(source, _around_classes(measured.values(), source)),
        seconds=0.0,
        comparing=2.5 * each * len(held_out) + 3,
    )
    cache = CaseCache(work / _CASES)
    for number, name in enumerate((*train, *held_out)):
        clock.step(f"Preprocessing case {number + 1} of {len(train) + len(held_out)}")
        measures = segmenter if name in held_out or task.is_partial(name) else None
        case = measured.get(name) or task.measure(measures, name, clock)
        region = name in held_out
        cache.store(name, indexed_case(task, learning, name, case, region).to_arrays())
    learning = replace(learning, seconds=clock.seconds)
    _minutes_left(task.options, learning)
    return learning


def _minutes_left(options: AdaptOptions, learning: Learning) -> float | None:
    """Return the minutes between the preparation and the comparison, None with a number of steps.

    Raises:
        MaskSAMError: there are none.
    """
    if options.steps is not None:
        return None
    needed = (learning.seconds + learning.comparing) / 60
    if options.minutes <= needed:
        raise MaskSAMError(
            f"{options.minutes:g} minutes are too few for these cases: give at least"
            f" {2 * needed:.2g}"
        )
    return options.minutes - needed


def _anchors(task: Task, placement: Placement) -> tuple[int, ...]:
    """Return the base's classes near which the refiner decides: the corrected ones, and those that
    new ones are most like; all where a new class is like none."""
    found = {
        task.base_index(name) or placement.nearest(index)
        for index, name in enumerate(task.classes, start=1)
    } - {0}
    return tuple(sorted(found or range(1, task.base.config.num_classes + 1)))


def _divided(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the cases to learn and of those to hold out.

    Raises:
        MaskSAMError: the choice of the user leaves no case to learn, or names unknown cases.
    """
    dataset, choice = task.corrections.dataset, task.options.holdout
    names = [case.name for case in dataset.cases]
    held_out: list[str] = []
    if isinstance(choice, Path):
        values = read_json(choice)
        listed = values.get("val") if isinstance(values, dict) else values
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise MaskSAMError(f"{choice} needs a list of case names, or one under 'val'")
        unknown = sorted(set(listed) - set(names))
        if unknown:
            raise MaskSAMError(f"{choice} names cases that are not in the folder: {unknown}")
        held_out = sorted(set(listed))
    elif choice == "auto":
        patients = len({dataset.patients.get(name, name) for name in names})
        if len(names) >= _LEAST_CASES and patients > 1:
            folds = cross_validation(names, dataset.patients, min(_PARTS, patients))
            held_out = folds[0]["val"][:_MOST_HELD_OUT]
    else:
        order = np.random.default_rng(task.options.seed).permutation(len(names))
        held_out = [names[index] for index in order[: int(choice)]]
    train = tuple(name for name in names if name not in held_out)
    if not train:
        raise MaskSAMError(
            f"{len(held_out)} of {len(names)} case(s) are held out, so that none is left to learn:"
            " hold out fewer"
        )
    return train, tuple(held_out)


def _around_classes(cases: Iterable[MeasuredCase], source: MaskSAM) -> Tensor:
    """Return windows around the corrected classes of a few cases: (B, C, T, H, W)."""
    windows = []
    for case in islice((each for each in cases if (each.corrected > 0).any()), _QUERIED_CASES):
        middle = np.argwhere(case.corrected > 0).mean(0)
        size = source.config.window
        centre = [round(place) for place in middle]
        channels = [cut(one, centre, size, float(one.min())) for one in case.image]
        windows.append(torch.from_numpy(np.stack(channels)))
    return torch.stack(windows)


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
    task: Task, learning: Learning, name: str, case: MeasuredCase, region: bool
) -> IndexedCase:
    """Return a case with its corrected classes, and with voxels that windows are centred on.

    Args:
        task: the task.
        learning: the refiner's place.
        name: name of the case.
        case: the case on the plan's grid.
        region: True for the part of the case that the refiner decides about, with a reference.
    """
    labels = case.corrected.astype(np.uint8)
    near = None
    if case.found is not None:
        anchored = torch.from_numpy(np.isin(case.found, learning.anchors))[None]
        near = dilated(anchored, learning.reach)[0].numpy()
        labels[(labels == 0) & task.unknown(name, case.found, learning)] = len(learning.classes) + 1
    classes = np.where(labels > len(learning.classes), 0, labels)
    lowest = tuple(float(channel.min()) for channel in case.image)
    if region:
        part = _region((classes > 0) if near is None else (classes > 0) | near, learning.window)
        image = np.ascontiguousarray(case.image[:, part[0], part[1], part[2]])
        inside = np.ascontiguousarray(classes[part])
        return IndexedCase(image, inside, lowest, (), inside)
    foreground = sample_voxels(classes, _VOXELS_PER_CLASS)
    if near is not None:
        # Windows without any of the classes show the refiner what they are not.
        foreground += sample_voxels(near.astype(np.uint8), _VOXELS_PER_CLASS)
    return IndexedCase(case.image, labels, lowest, foreground)


def _region(mask: NDArray[np.bool_], window: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the part of a volume around a mask that is at least as large as a window."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        return slice(None), slice(None), slice(None)
    parts = []
    for low, high, size, length in zip(
        voxels.min(0), voxels.max(0) + 1, window, mask.shape, strict=True
    ):
        missing = max(0, size - int(high - low))
        parts.append(slice(max(0, int(low) - missing // 2), min(length, int(high) + missing // 2)))
    return parts[0], parts[1], parts[2]


class CorrectedWindows(WindowDataset):
    """Random augmented windows, in which voxels of unknown class belong to no class.

    Args:
        classes: number of corrected classes; the next larger value of a case means an unknown one.
        arguments: arguments of :class:`WindowDataset`.
    """

    def __init__(self, classes: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.classes = classes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 (C, T, H, W), with their classes, int64 (T, H, W), -1 for unknown
        ones."""
        for image, labels in super().__iter__():
            yield image, labels.masked_fill(labels > self.classes, -1)


class Watch(Callback):
    """Callback that reports the progress and ends the training when the user cancels."""

    def __init__(self, clock: Clock, steps: int | None) -> None:
        self.clock = clock
        self.steps = steps

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *_: Any, **__: Any
    ) -> None:
        """Report, and stop if the user has cancelled."""
        if self.clock.is_cancelled():
            module.stopped = True
            trainer.should_stop = True
            return
        self.clock.step("Learning")


@dataclass
class Told:
    """Receiver of the scores of a validation, which passes them on."""

    clock: Clock
    on_validation: ValidationCallback | None

    def save(self, module: MaskSAMModule, scores: Scores, best: bool) -> None:
        """Pass on the mean Dice of the held-out cases."""
        if self.on_validation is not None:
            self.on_validation(self.clock.seconds / 60, scores.mean)


def _learn(
    task: Task,
    learning: Learning,
    work: Path,
    clock: Clock,
    report: Callable[[str], None],
    on_validation: ValidationCallback | None,
) -> MaskSAM:
    """Train the refiner and return it.

    Raises:
        MaskSAMError: the minutes are too few.
        Cancelled: the user has cancelled; the training can be resumed.
    """
    options, count = task.options, len(learning.classes)
    source, origins = task.source(learning.origins)
    refiner = inherited_network(source, learning.window, origins, learning.queries)
    refiner.requires_grad_(True)
    set_trained_parts(refiner.sam, False)
    minutes = _minutes_left(options, learning)
    settings = SETTINGS.replace(mirror=task.mirror, iterations=options.steps or SETTINGS.iterations)
    lightning.seed_everything(learning.seed, verbose=False)
    module = MaskSAMModule(refiner, settings, minutes, learning.seed)
    checkpoint = newest_checkpoint(work)
    restarts = 0
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["masksam"]
        clock.before += 60 * float(state["minutes"])
        restarts = int(state["restarts"]) + 1
    cache = work / _CASES
    windows = CorrectedWindows(
        count,
        [CachedCase(StoredArrays(cache / name)) for name in learning.train],
        replace(task.plan, window=learning.window),
        settings.augmentation,
        settings.mirror,
        settings.foreground_share,
        learning.seed + 15_485_863 * restarts,
    )
    windows.numbers = WindowNumbers(settings.batch)
    module.windows = windows
    checkpoints = ResumableCheckpoints(work, _CHECKPOINT_SECONDS)
    callbacks: list[Callback] = [Budget(), Watch(clock, options.steps), checkpoints]
    if learning.held_out:
        cases = [CachedCase(StoredArrays(cache / name), True) for name in learning.held_out]
        evaluate = Evaluator(cases, learning.classes, range(1, count + 1)).score
        told = Told(clock, on_validation)
        callbacks.append(
            Validation(settings.validation_share, _VALIDATION_MINUTES, evaluate, told, checkpoints)
        )
    callbacks.append(ProgressLogger(report, _REPORT_SECONDS))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kind = task.device
    trainer = lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=1,
        precision=precision(kind),
        max_epochs=-1,
        max_steps=-1,
        gradient_clip_val=settings.clip,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=work,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader: DataLoader[Any] = DataLoader(windows, settings.batch)
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if module.stopped:
        raise Cancelled("the learning was cancelled: it can be continued")
    module.averaged.to(torch.device("cpu"))
    refiner.cpu()
    refiner.load_state_dict(module.averaged.values, strict=False)
    return refiner.eval()


def _compare(
    task: Task,
    learning: Learning,
    network: RefinedNetwork,
    labels: Sequence[Label],
    clock: Clock,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the Dice of the corrected classes on the held-out cases, before and after."""
    bundle = task.bundle
    if not learning.held_out:
        return {}, {}
    former = MaskSegmenter.from_bundle(replace(bundle, estimator=None), None, task.device)
    new = MaskSegmenter(
        network,
        bundle.plan,
        labels,
        device=task.device,
        largest_component=bundle.largest_component,
        background_weight=bundle.background_weight,
        mirror=task.mirror,
    )
    scores: dict[str, tuple[list[float], list[float]]] = {}
    for name in learning.held_out:
        case = task.load(name)
        for which, segmenter in enumerate((former, new)):
            clock.step("Comparing")
            found = segmenter.segment(case.channels, cancelled=clock.is_cancelled).labelmap
            values = {label.name.casefold(): label.value for label in segmenter.labels}
            for own, class_name in enumerate(task.corrections.dataset.classes, start=1):
                if class_name not in task.corrections.checked[name]:
                    continue
                value = values.get(class_name.casefold(), -1)
                (dice,) = dice_scores(
                    (found == value).astype(np.uint8), (case.labelmap == own).astype(np.uint8), [1]
                )
                if dice == dice:
                    scores.setdefault(class_name, ([], []))[which].append(dice)
    return tuple(  # type: ignore[return-value]
        {name: float(np.mean(pair[which])) if pair[which] else 1.0 for name, pair in scores.items()}
        for which in (0, 1)
    )


def _save(
    task: Task,
    learning: Learning,
    network: RefinedNetwork,
    labels: Sequence[Label],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> None:
    """Write the new bundle."""
    bundle, options = task.bundle, task.options
    facts = {
        "from": bundle.name,
        "weights_sha256": bundle.weights_sha256,
        "classes": list(learning.classes),
        "cases": len(learning.train),
        "held_out": len(learning.held_out),
        "seed": learning.seed,
    }
    if before:
        facts["dice_before"] = {name: round(dice, 4) for name, dice in before.items()}
        facts["dice_after"] = {name: round(dice, 4) for name, dice in after.items()}
    card = {key: value for key, value in bundle.card.items() if key not in _FORMER_FIGURES}
    save_bundle(
        options.output,
        options.name,
        f"{bundle.title}, adapted to {len(learning.train)} case(s)",
        own_weights(network),
        network.config,
        bundle.plan,
        tuple(labels),
        bundle.largest_component,
        task.mirror,
        {**card, "adapted": facts},
        background_weight=bundle.background_weight,
        tta=bundle.tta,
    )


def _described(learning: Learning) -> str:
    held_out = f", {len(learning.held_out)} held out" if learning.held_out else ""
    window = " x ".join(map(str, learning.window))
    return (
        f"{len(learning.train)} case(s) to learn{held_out}; classes"
        f" {', '.join(learning.classes)}; windows of {window} voxels"
    )
