"""A model, the corrected cases that it is adapted to, and the choices of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from MaskSAMCore.data import Plan, PreparedCase, preprocess
from MaskSAMCore.data.corrections import Corrections, read_corrections
from MaskSAMCore.data.dataset import LabelledCase, load_cases
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import axis_mapping
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.labels import Label, default_colors
from MaskSAMCore.modeling import MaskSAM, Network
from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.refined import Config as RefinedConfig
from MaskSAMCore.modeling.refined import Network as RefinedNetwork
from MaskSAMCore.models import Bundle, InferenceSettings
from MaskSAMCore.training.adapt_clock import Clock
from MaskSAMCore.training.devices import accelerator
from MaskSAMCore.training.refinement import MeasuredCase

# Number of parts along T, H and W that a voxel of the base is divided into.
Parts: TypeAlias = tuple[int, int, int]
UNDIVIDED: Parts = (1, 1, 1)


@dataclass(frozen=True)
class AdaptOptions:
    """Choices of the user for an adaptation.

    Attributes:
        model: folder or zip of the bundle to adapt, or a name in the catalog.
        cases: folder of corrected cases, or any nnU-Net dataset.
        output: folder of the new bundle, which must not exist.
        name: name of the new model.
        minutes: time limit of the whole adaptation in minutes, earlier parts included.
        holdout: cases that are not learned but decide whether the new model is better: "auto", a
            number, or a JSON file with a list of names or a split with "val". The cases of a
            patient stay together, so that fewer than the number may be held out. None means "auto",
            or, with ``resume``, the original held-out cases.
        device: "auto", "cpu", "cuda" or "mps".
        threads: number of threads on a CPU; None for PyTorch's own choice.
        seed: seed of all random numbers; None means 0, or, with ``resume``, the original seed.
        resume: continue a cancelled or killed adaptation instead of starting anew. The cases,
            classes, held-out cases and seed must be unchanged.
        steps: number of training steps instead of the time limit; None for the time limit.
    """

    model: Path | str
    cases: Path
    output: Path
    name: str
    minutes: float = 15.0
    holdout: str | int | Path | None = None
    device: str = "auto"
    threads: int | None = None
    seed: int | None = None
    resume: bool = False
    steps: int | None = None


@dataclass(frozen=True)
class AdaptationState(Configuration):
    """State of an adaptation after its preparation, saved so that it can be resumed.

    Attributes:
        model: SHA-256 of the weights of the model.
        cases: name of each case, with the SHA-256 of its labelmap and its checked classes.
        seed: seed of all random numbers.
        train: names of the cases to learn.
        held_out: names of the held-out cases.
        classes: names of the corrected classes, in the refiner's order.
        origins: index in the model of the class that each corrected class starts from, 0 for the
            background.
        anchors: see :class:`RefinedConfig`.
        reach: see :class:`RefinedConfig`.
        givers: see :class:`RefinedConfig`.
        subdivision: see :class:`RefinedConfig`.
        window: (T, H, W) of the refiner in voxels.
        queries: index of the query that shows each class of the network from which the refiner is
            initialised, background first.
        seconds: duration of the preparation in seconds.
        comparing: time in seconds to reserve for the comparison and for the results that an
            estimator of the Dice is fitted to.
        small_images: True if some images to learn are much smaller than the base's window.
        results: number of results that an estimator of the Dice is fitted to; 0 for none.
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
    givers: tuple[int, ...]
    window: tuple[int, int, int]
    queries: tuple[int, ...]
    seconds: float
    comparing: float
    subdivision: Parts = UNDIVIDED
    small_images: bool = False
    results: int = 0


@dataclass(frozen=True)
class Task:
    """A model with the cases that it is adapted to.

    Attributes:
        options: choices of the user.
        bundle: bundle of the model.
        model: network of the bundle.
        base: network that the refiner is added to: the model itself, or its base if all classes of
            its refiner are among the corrected ones.
        corrections: corrected cases.
        classes: names of the corrected classes. Names in the dataset that differ only in upper and
            lower case are one class, spelled as in the model, else as the first of them.
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
            MaskSAMError: the model cannot learn the cases.
        """
        if bundle.config.frozen_sam is not None:
            raise MaskSAMError(
                f"model '{bundle.name}' has a large frozen SAM and cannot be adapted:"
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
        own_names = {label.name for label in bundle.labels}
        spellings: dict[str, str] = {}
        for name in dataset.classes:
            if name in checked and (name in own_names or name.casefold() not in spellings):
                spellings[name.casefold()] = name
        classes = tuple(spellings.values())
        if not classes:
            raise MaskSAMError(f"no class is checked in any case of {options.cases}")
        model = bundle.build()
        base = model
        if isinstance(model, RefinedNetwork):
            names = {label.name.casefold() for label in bundle.labels}
            own = {bundle.labels[index - 1].name.casefold() for index in model.config.refined}
            if own <= {name.casefold() for name in classes} & names:
                base = model.base
            elif max(model.config.subdivision) > 1:
                raise MaskSAMError(
                    f"model '{bundle.name}' has learned {', '.join(sorted(own))} in smaller voxels:"
                    " correct these classes as well, or adapt the model that it comes from to all"
                    " corrections together"
                )
        return cls(options, bundle, model, base, corrections, classes, bundle.plan)

    @property
    def device(self) -> str:
        """Kind of the device."""
        return accelerator(self.options.device)

    @property
    def inference(self) -> InferenceSettings:
        """Settings of inference of the new model.

        They are the former model's, but windows are not mirrored unless the model uses mirroring
        at test time, because a corrected class may be one end of a structure.
        """
        former = self.bundle.inference
        return former if former.tta == "mirror" else replace(former, mirror=())

    @property
    def former_refiner(self) -> RefinedNetwork | None:
        """The model if its refiner is trained further, else None."""
        former = self.model if self.base is not self.model else None
        return former if isinstance(former, RefinedNetwork) else None

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
        return len(self.checked(name)) < len(self.classes)

    def complete(self, names: Sequence[str]) -> list[str]:
        """Return the cases, given by their names, in which all corrected classes are checked."""
        return [name for name in names if not self.is_partial(name)]

    def checked(self, name: str) -> tuple[str, ...]:
        """Return the names of the corrected classes that are checked in a case."""
        checked = {each.casefold() for each in self.corrections.checked[name]}
        return tuple(each for each in self.classes if each.casefold() in checked)

    def corrected(self, case: LabelledCase) -> NDArray[np.uint8]:
        """Return the labelmap of a case with the indices of the corrected classes that are checked
        in the case, 0 elsewhere."""
        checked = {each.casefold() for each in self.checked(case.name)}
        indices = {each.casefold(): index for index, each in enumerate(self.classes, start=1)}
        corrected = np.zeros_like(case.labelmap)
        for own, name in enumerate(self.corrections.dataset.classes, start=1):
            if name.casefold() in checked:
                corrected[case.labelmap == own] = indices[name.casefold()]
        return corrected

    def load(self, name: str) -> LabelledCase:
        """Read a case.

        Raises:
            MaskSAMError: the case has problems.
        """
        (case,) = load_cases(self.corrections.dataset, [name])
        return case

    def prepared(self, case: LabelledCase, subdivision: Parts) -> PreparedCase:
        """Preprocess a case, with the labelmap of :meth:`corrected`.

        Args:
            case: the case as it was read.
            subdivision: number of parts that a voxel of the base's plan is divided into.
        """
        plan = self.plan.divided(subdivision)
        return preprocess(case.channels, plan, self.corrected(case))

    def found(
        self, segmenter: MaskSegmenter, case: LabelledCase, clock: Clock
    ) -> NDArray[np.uint8]:
        """Return the class indices (D, R, W) that the base's segmenter predicts for a case."""
        with segmenter.open(case.channels, cache_bytes=0) as session:
            scores = session.scores(cancelled=clock.is_cancelled)
        return scores.classes().to(torch.uint8).numpy()

    def measure(self, segmenter: MaskSegmenter, name: str, clock: Clock) -> MeasuredCase:
        """Segment a case with the base, and preprocess it."""
        case = self.load(name)
        found = self.found(segmenter, case, clock)
        volume = case.channels[0]
        axes, _ = axis_mapping(volume.ijk_to_ras, self.plan.orientation)
        depth, rows, columns = (volume.spacing[2 - axis] for axis in axes)
        prepared = self.prepared(case, UNDIVIDED)
        assert prepared.labelmap is not None
        return MeasuredCase(prepared.labelmap, found, (depth, rows, columns), prepared.image)

    def unknown(
        self, name: str, found: NDArray[np.integer], state: AdaptationState
    ) -> NDArray[np.bool_]:
        """Return a mask of the voxels that may belong to a corrected class that is not checked in
        the case."""
        checked = self.checked(name)
        missing = [each for each in self.classes if each not in checked]
        indices = [self.base_index(each) for each in missing]
        doubtful = {index for index in indices if index is not None}
        if None in indices:
            if not state.anchors:
                return np.ones(found.shape, bool)
            doubtful |= set(state.anchors)
        return np.isin(found, sorted(doubtful))

    def source(self, origins: Sequence[int]) -> tuple[MaskSAM, tuple[int, ...]]:
        """Return the network that initialises the refiner, and the class indices of the origins in
        this network.

        Args:
            origins: class indices of the model.

        Raises:
            MaskSAMError: the network is not a MaskSAM.
        """
        network, own = self.model, tuple(origins)
        while isinstance(network, RefinedNetwork):
            config = network.config
            if all(index in config.refined for index in own):
                own = tuple(config.refined.index(index) + 1 for index in own)
                network = network.refiner
            else:
                known = config.base.num_classes
                own = tuple(
                    index if index <= known else next(iter(config.anchors), 1) for index in own
                )
                network = network.base
        if not isinstance(network, MaskSAM):
            raise MaskSAMError(
                f"model '{self.bundle.name}' is of the kind '{network.config.kind}': only MaskSAM's"
                " models can be adapted"
            )
        return network, own

    def labels_of(self, state: AdaptationState) -> tuple[Label, ...]:
        """Return the labels of the new model: the base's, then those of classes that it lacks."""
        known = self.base.config.num_classes
        labels = list(self.bundle.labels[:known])
        former = {label.name.casefold(): label for label in self.bundle.labels}
        dataset = self.corrections.dataset
        values = dict(zip(dataset.classes, dataset.values, strict=True))
        for name in state.classes:
            if self.base_index(name) is not None:
                continue
            label = former.get(name.casefold()) or self.corrections.segments.get(name)
            if label is None:
                label = Label(values[name], name, default_colors(len(labels) + 1)[-1])
            taken = {each.value for each in labels}
            labels.append(replace(label, value=max(taken) + 1) if label.value in taken else label)
        return tuple(labels)

    def refined(self, state: AdaptationState, refiner: MaskSAM) -> RefinedNetwork:
        """Return the base with a refiner."""
        base = self.base.config
        indices, new = [], base.num_classes
        for name in state.classes:
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
            anchors=state.anchors,
            reach=state.reach,
            givers=state.givers,
            subdivision=state.subdivision,
        )
        network = RefinedNetwork(config)
        network.base.load_state_dict(self.base.state_dict())
        network.refiner.load_state_dict(refiner.state_dict())
        return network.eval().requires_grad_(False)
