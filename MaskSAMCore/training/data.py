"""Training data: a dataset that is read, checked, planned and preprocessed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from MaskSAMCore.data import Plan, PreparedCase, preprocess, repeat_edge_slices
from MaskSAMCore.data.dataset import Dataset, LabelledCase, examine_dataset, load_cases
from MaskSAMCore.data.label_scheme import LabelScheme
from MaskSAMCore.data.patients import parted_lookalikes
from MaskSAMCore.data.planning import (
    CaseFingerprint,
    case_fingerprint,
    make_plan,
    summarize,
    with_ct_window,
)
from MaskSAMCore.data.splits import Fold, find_split
from MaskSAMCore.data.synthesis.generator import SynthesisRanges
from MaskSAMCore.data.synthesis.windows import (
    IndexedLabelmap,
    SynthesizedWindows,
    synthesized_case,
)
from MaskSAMCore.data.windows import WindowDataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.run_folder import TrainingRecord


@dataclass
class TrainingData:
    """Cases of a training, with the plan and the network that were made for them.

    Attributes:
        classes: names of the classes 1 to K.
        values: values of the classes 1 to K in the dataset's labelmaps.
        split: names of the cases under "train" and "val".
        validation: validation cases at their own resolution, for inference on whole volumes.
        plan: preprocessing.
        config: configuration of the network.
        cases: preprocessed training cases; empty if images are synthesised from labelmaps.
        labelmaps: labelmaps to synthesise training images from; else empty.
        scheme: meaning of the labels if images are synthesised from labelmaps, else None.
        fingerprint: statistics of the training cases; empty for a resumed training.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    split: dict[str, list[str]]
    validation: list[LabelledCase]
    plan: Plan
    config: NetworkConfig
    cases: list[PreparedCase] = field(default_factory=list)
    labelmaps: list[IndexedLabelmap] = field(default_factory=list)
    scheme: LabelScheme | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def windows(
        self, settings: TrainSettings, seed: int, restarts: int = 0, device: str = "cpu"
    ) -> WindowDataset | SynthesizedWindows:
        """Return an endless sequence of training windows.

        Args:
            settings: hyperparameters.
            seed: seed of the training.
            restarts: number of times that the training has been resumed; each has other windows.
            device: device that synthesises images from labelmaps.
        """
        seed = seed + 15_485_863 * restarts
        if self.scheme is not None:
            ranges = SynthesisRanges(common_contrasts=settings.common_contrasts)
            return SynthesizedWindows(
                self.labelmaps,
                self.scheme,
                self.plan,
                settings.foreground_share,
                seed,
                ranges.scaled(settings.augmentation),
                device,
            )
        return WindowDataset(
            self.cases,
            self.plan,
            settings.augmentation,
            settings.mirror,
            settings.foreground_share,
            seed,
            settings.contrast,
            settings.deformation,
        )

    def loader(
        self,
        windows: WindowDataset | SynthesizedWindows,
        batch: int,
        workers: int,
        device: str = "cpu",
    ) -> DataLoader[Any]:
        """Return an endless sequence of batches.

        Args:
            windows: windows of :meth:`windows`.
            batch: number of windows in a batch.
            workers: number of processes that prepare windows.
            device: device that the windows are prepared on.
        """
        # A GPU cannot be shared with worker processes: it synthesises windows between the steps.
        if self.scheme is not None and device != "cpu":
            workers = 0
        return DataLoader(
            windows,
            batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=8 if workers else None,
            multiprocessing_context="spawn" if workers else None,
        )


def prepare_training_data(
    folder: Path,
    splits: Path | None,
    preset: Preset,
    report: Callable[[str], None],
    chosen: Collection[str] = (),
    targets: Path | None = None,
    fold: Fold | None = None,
) -> TrainingData:
    """Read, check, plan and preprocess a dataset for a new training.

    Args:
        folder: nnU-Net dataset folder.
        splits: JSON file with the training and the validation cases, or None.
        preset: preset to adapt to the dataset.
        report: function that receives lines of text for the user.
        chosen: names of the network's fields that the user has chosen and that are not adapted.
        targets: JSON file that describes the labels of labelmaps without images, or None.
        fold: fold of a cross-validation, or None.

    Raises:
        MaskSAMError: the dataset has problems; the message names them all.
    """
    dataset, problems = examine_dataset(folder, targets)
    split, train, validation = _read_cases(dataset, splits, problems, report, fold)
    fingerprints = [case_fingerprint(c.channels, c.labelmap, seed) for seed, c in enumerate(train)]
    plan, config = _adapt(preset, dataset, fingerprints, chosen)
    data = _preprocess(dataset, split, train, validation, plan, config)
    data.fingerprint = summarize([case.name for case in train], fingerprints, dataset.channels)
    return data


def reload_training_data(
    folder: Path, record: TrainingRecord, report: Callable[[str], None]
) -> TrainingData:
    """Read, check and preprocess a dataset for a resumed training.

    Args:
        folder: nnU-Net dataset folder.
        record: record of the training, which has the split, the plan and the network.
        report: function that receives lines of text for the user.

    Raises:
        MaskSAMError: the dataset has problems, or its classes or channels have changed.
    """
    dataset, problems = examine_dataset(folder, record.label_description)
    if not problems:
        _check_unchanged(dataset, record)
    split, train, validation = _read_cases(dataset, record.split, problems, report)
    return _preprocess(dataset, split, train, validation, record.plan, record.config)


def _read_cases(
    dataset: Dataset,
    splits: Path | dict[str, list[str]] | None,
    problems: list[str],
    report: Callable[[str], None],
    fold: Fold | None = None,
) -> tuple[dict[str, list[str]], list[LabelledCase], list[LabelledCase]]:
    """Read the cases of a split.

    Args:
        dataset: dataset that has been examined.
        splits: JSON file, the split itself, or None.
        problems: problems of the dataset found so far.
        report: function that receives lines of text for the user.
        fold: fold of a cross-validation, or None.

    Returns:
        Case names under "train" and "val", the training cases and the validation cases.

    Raises:
        MaskSAMError: the dataset, the split or a case has problems; the message names them all.
    """
    split, split_problems = find_split(dataset, splits, fold)
    names = [*split["train"], *split["val"]]
    report(f"reading and checking {len(names)} cases of {dataset.name}")
    doubt = parted_lookalikes(split, dataset.patients)
    for note in (*dataset.notes, *([doubt] if doubt else [])):
        report(note)
    cases = load_cases(dataset, names, known_problems=[*problems, *split_problems])
    count = len(split["train"])
    train, validation = cases[:count], cases[count:]
    _check_foreground(dataset, train, validation, report)
    return split, train, validation


def _check_foreground(
    dataset: Dataset,
    train: list[LabelledCase],
    validation: list[LabelledCase],
    report: Callable[[str], None],
) -> None:
    """Check that the training and the validation cases have labelled voxels.

    A class that no training case has is reported: it cannot be learned, but others can.

    Raises:
        MaskSAMError: no case, no training case or no validation case has a voxel of any class.
    """
    learned, validated = _classes_in(train), _classes_in(validation)
    names = ", ".join(f"'{name}'" for name in dataset.classes)
    if not learned | validated:
        raise MaskSAMError(
            f"{dataset.folder}: no case has a voxel of {names}: compare the labelmaps with the"
            " values in dataset.json"
        )
    for kind, found in (("training", learned), ("validation", validated)):
        if not found:
            raise MaskSAMError(
                f"{dataset.folder}: no {kind} case has a voxel of {names}: choose the cases with"
                " --splits"
            )
    missing = [n for index, n in enumerate(dataset.classes, start=1) if index not in learned]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing)
        report(f"note: no training case has a voxel of {listed}, which cannot be learned")


def _classes_in(cases: list[LabelledCase]) -> set[int]:
    """Return the indices of the classes that occur in cases, without the background."""
    found: set[int] = set()
    for case in cases:
        for plane in case.labelmap:  # plane by plane, because sorting makes a copy
            found.update(np.unique(plane).tolist())
    return found - {0}


def _check_unchanged(dataset: Dataset, record: TrainingRecord) -> None:
    """Raise an error if the dataset was changed since the training began."""
    for part, now, before in (
        ("classes", dataset.classes, record.classes),
        ("channels", dataset.channels, record.plan.channels),
    ):
        if now != before:
            raise MaskSAMError(
                f"{dataset.folder} has the {part} {', '.join(now)}, but the run was started with"
                f" {', '.join(before)}"
            )


def _adapt(
    preset: Preset,
    dataset: Dataset,
    fingerprints: list[CaseFingerprint],
    chosen: Collection[str],
) -> tuple[Plan, NetworkConfig]:
    """Return the plan and the network of a preset for a dataset."""
    network, constraints = preset.network, preset.plan
    plan = make_plan(
        fingerprints,
        dataset.channels,
        network.token_voxels,
        network.window,
        constraints.orientation,
        constraints.spacing,
    )
    if constraints.ct_window is not None:
        plan = with_ct_window(plan, fingerprints, constraints.ct_window)
    config = network.adapted(
        plan.window, plan.spacing, len(dataset.classes), len(dataset.channels), chosen
    )
    return replace(plan, window=config.window), config


def _preprocess(
    dataset: Dataset,
    split: dict[str, list[str]],
    train: list[LabelledCase],
    validation: list[LabelledCase],
    plan: Plan,
    config: NetworkConfig,
) -> TrainingData:
    """Preprocess the training cases, and synthesise validation images where there are none."""
    scheme = dataset.scheme
    cases: list[PreparedCase] = []
    labelmaps: list[IndexedLabelmap] = []
    if scheme is None:
        cases = [preprocess(case.channels, plan, case.labelmap) for case in train]
        if config.every_slice:
            cases = [repeat_edge_slices(case, plan.window[0] // 2) for case in cases]
    else:
        labelmaps = [IndexedLabelmap.from_case(c, scheme, plan.orientation) for c in train]
        validation = [synthesized_case(c, scheme, seed) for seed, c in enumerate(validation)]
    return TrainingData(
        classes=dataset.classes,
        values=dataset.values,
        split=split,
        validation=validation,
        plan=plan,
        config=config,
        cases=cases,
        labelmaps=labelmaps,
        scheme=scheme,
    )
