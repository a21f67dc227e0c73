"""Training data: a dataset that is read, checked, planned and preprocessed into a cache."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from MaskSAMCore.data import Plan
from MaskSAMCore.data.case_cache import CaseCache
from MaskSAMCore.data.dataset import Dataset, examine_cases, examine_dataset
from MaskSAMCore.data.label_scheme import LABEL_KEYS, LabelScheme
from MaskSAMCore.data.patients import parted_lookalikes
from MaskSAMCore.data.planning import (
    CaseFingerprint,
    CaseGrid,
    PlannedGrid,
    make_plan,
    plan_grid,
    summarize,
    with_ct_window,
)
from MaskSAMCore.data.splits import Fold, find_split
from MaskSAMCore.data.synthesis.generator import SynthesisRanges
from MaskSAMCore.data.synthesis.windows import SynthesizedWindows
from MaskSAMCore.data.window_numbers import WindowNumbers
from MaskSAMCore.data.windows import WindowDataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from MaskSAMCore.labels import side_of
from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.prepared_cases import CasePreparation, ExaminedCase, PreparedCases
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.processes import interrupts_blocked
from MaskSAMCore.training.run_folder import TrainingRecord


@dataclass
class TrainingData:
    """Cases of a training, with the plan and the network that were made for them.

    Attributes:
        classes: names of the classes 1 to K.
        values: values of the classes 1 to K in the dataset's labelmaps.
        split: names of the cases under "train" and "val".
        plan: preprocessing.
        config: configuration of the network.
        prepared: preprocessed cases in a cache.
        scheme: meaning of the labels if images are synthesised from labelmaps, else None.
        fingerprint: statistics of the training cases; empty for a resumed training.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    split: dict[str, list[str]]
    plan: Plan
    config: NetworkConfig
    prepared: PreparedCases
    scheme: LabelScheme | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def windows(
        self, settings: TrainSettings, seed: int, restarts: int = 0, device: str = "cpu"
    ) -> WindowDataset | SynthesizedWindows:
        """Return an endless sequence of training windows.

        Args:
            settings: hyperparameters.
            seed: seed of the training.
            restarts: number of times that the training has been resumed, each time with other
                windows.
            device: device that synthesises images from labelmaps.
        """
        seed = seed + 15_485_863 * restarts
        if self.scheme is not None:
            ranges = SynthesisRanges(common_contrasts=settings.common_contrasts)
            return SynthesizedWindows(
                self.prepared.labelmaps,
                self.scheme,
                self.plan,
                settings.foreground_share,
                seed,
                ranges.scaled(settings.augmentation),
                device,
            )
        return WindowDataset(
            self.prepared.cases,
            self.plan,
            settings.augmentation,
            settings.mirror,
            settings.foreground_share,
            seed,
            settings.contrast,
            settings.deformation,
            settings.augmentation_kind,
            settings.acquisition,
        )

    def loader(
        self,
        windows: WindowDataset | SynthesizedWindows,
        batch: int,
        workers: int,
    ) -> DataLoader[Any]:
        """Return an endless sequence of batches.

        Args:
            windows: windows of :meth:`windows`.
            batch: number of windows that a process computes at a time.
            workers: number of processes that prepare windows.
        """
        # A GPU cannot be shared with worker processes: it synthesises windows between the steps.
        if isinstance(windows, SynthesizedWindows) and windows.device != "cpu":
            workers = 0
        windows.numbers = WindowNumbers(batch)
        return _Loader(
            windows,
            batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=8 if workers else None,
            multiprocessing_context="spawn" if workers else None,
        )


class _Loader(DataLoader[Any]):
    """Loader whose processes ignore Ctrl-C, which a shell sends to all processes of a command.

    The training ends them when it has completed its step.
    """

    def __iter__(self) -> Any:
        """Start the processes."""
        with interrupts_blocked():
            return super().__iter__()


def prepare_training_data(
    folder: Path,
    splits: Path | None,
    preset: Preset,
    report: Callable[[str], None],
    cache: CaseCache,
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
        cache: cache of the preprocessed cases.
        chosen: names of the network's fields that the user has chosen and that are not adapted.
        targets: JSON file that describes the labels of labelmaps without images, or None.
        fold: fold of a cross-validation, or None.

    Raises:
        MaskSAMError: the dataset has problems (the message names them all), or the cache cannot be
            written.
    """
    dataset, problems = examine_dataset(folder, targets)
    split, split_problems = find_split(dataset, splits, fold)
    problems += split_problems
    names = [*split["train"], *split["val"]]
    examined = _examine(dataset, split, names, problems, report)
    _check_foreground(dataset, split, {name: examined[name].classes for name in names}, report)
    fingerprints = [examined[name].fingerprint for name in split["train"]]
    plan, config = _adapt(preset, dataset, fingerprints, chosen)
    if dataset.scheme is None and (note := _mirrored_sides(dataset, plan, preset.training)):
        report(note)
    preparation = CasePreparation(dataset, split, plan, config.every_slice, cache)
    prepared = preparation.prepare(examined, report)
    data = _training_data(dataset, split, plan, config, prepared)
    data.fingerprint = summarize(split["train"], fingerprints, dataset.channels)
    return data


def reload_training_data(
    folder: Path, record: TrainingRecord, report: Callable[[str], None], cache: CaseCache
) -> TrainingData:
    """Read and check a dataset for a resumed training.

    Cases that are in the cache, and whose files have not changed, are not read again.

    Args:
        folder: nnU-Net dataset folder.
        record: record of the training, which has the split, the plan and the network.
        report: function that receives lines of text for the user.
        cache: cache of the preprocessed cases.

    Raises:
        MaskSAMError: the dataset has problems, its classes, their values, its channels or the
            description of its labels have changed, or the cache cannot be written.
    """
    # A run started without --targets has the labels of dataset.json, which may have changed.
    described = record.facts.get("targets", "") is None
    dataset, problems = examine_dataset(folder, None if described else record.label_description)
    if not problems:
        _check_unchanged(dataset, record)
    split, split_problems = find_split(dataset, record.split)
    problems += split_problems
    plan, config = record.plan, record.config
    preparation = CasePreparation(dataset, split, plan, config.every_slice, cache)
    missing = preparation.missing()
    examined = _examine(dataset, split, missing, problems, report)
    classes = {
        name: examined[name].classes if name in examined else preparation.classes_in(name)
        for name in (*split["train"], *split["val"])
    }
    _check_foreground(dataset, split, classes, report)
    prepared = preparation.prepare(examined, report)
    return _training_data(dataset, split, plan, config, prepared)


def _examine(
    dataset: Dataset,
    split: dict[str, list[str]],
    names: list[str],
    problems: list[str],
    report: Callable[[str], None],
) -> dict[str, ExaminedCase]:
    """Read and check cases.

    Args:
        dataset: dataset that has been examined.
        split: names of all cases under "train" and "val".
        names: names of the cases to read.
        problems: problems of the dataset and the split found so far.
        report: function that receives lines of text for the user.

    Returns:
        The grid, intensities and classes of each case by its name.

    Raises:
        MaskSAMError: the dataset, the split or a case has problems; the message names them all.
    """
    if names:
        report(f"reading and checking {len(names)} cases of {dataset.name}")
    doubt = parted_lookalikes(split, dataset.patients)
    for note in (*dataset.notes, *([doubt] if doubt else [])):
        report(note)
    found = examine_cases(dataset, names, ExaminedCase.of, problems)
    return dict(zip(names, found, strict=True))


def _check_foreground(
    dataset: Dataset,
    split: dict[str, list[str]],
    classes: dict[str, frozenset[int]],
    report: Callable[[str], None],
) -> None:
    """Check that the training and the validation cases have labelled voxels.

    A class that no training case has is reported: it cannot be learned, but others can.

    Args:
        dataset: dataset with the cases.
        split: names of the cases under "train" and "val".
        classes: indices of the classes that occur in each case.
        report: function that receives lines of text for the user.

    Raises:
        MaskSAMError: no case, no training case or no validation case has a voxel of any class.
    """
    learned, validated = (
        frozenset().union(*(classes[name] for name in split[side])) for side in ("train", "val")
    )
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


def _mirrored_sides(dataset: Dataset, plan: Plan, settings: TrainSettings) -> str:
    """Return a note if windows are mirrored from left to right although the dataset has separate
    left and right classes; else ""."""
    across = next(axis for axis, code in enumerate(plan.orientation) if code in "LR")
    sides = [side_of(name) for name in dataset.classes]
    paired = any(side == "left" and ("right", structure) in sides for side, structure in sides)
    used = settings.augmentation > 0 and settings.augmentation_kind == "nnunet"
    if not paired or not used or across not in settings.mirror:
        return ""
    others = ",".join(str(axis) for axis in settings.mirror if axis != across)
    return (
        "note: training windows are mirrored from left to right, so that left and right classes are"
        f" hard to tell apart: add --set mirror=[{others}] to mirror along the other axes only"
    )


def _check_unchanged(dataset: Dataset, record: TrainingRecord) -> None:
    """Raise an error if the dataset was changed since the training began."""
    for part, now, before in (
        ("classes", dataset.classes, record.classes),
        ("values", dataset.values, record.values),
        ("channels", dataset.channels, record.plan.channels),
    ):
        if now != before:
            raise MaskSAMError(
                f"{dataset.folder} has the {part} {', '.join(map(str, now))}, but the run was"
                f" started with {', '.join(map(str, before))}"
            )
    described = {} if dataset.scheme is None else dataset.scheme.description
    recorded = record.label_description or {}
    changed = [f"'{key}'" for key in LABEL_KEYS if described.get(key) != recorded.get(key)]
    if changed:
        raise MaskSAMError(
            f"{dataset.folder / 'dataset.json'} has other {', '.join(changed)} than when the run"
            " was started: restore them, or start another run"
        )


def plan_network(
    folder: Path,
    splits: Path | None,
    preset: Preset,
    targets: Path | None = None,
    fold: Fold | None = None,
) -> tuple[PlannedGrid, NetworkConfig]:
    """Plan the grid and the network of a training from its labelmaps, without reading images.

    Args:
        folder: nnU-Net dataset folder.
        splits: JSON file with the training and the validation cases, or None.
        preset: preset to adapt to the dataset.
        targets: JSON file that describes the labels of labelmaps without images, or None.
        fold: fold of a cross-validation, or None.

    Raises:
        MaskSAMError: the dataset or a labelmap has problems; the message names them.
    """
    dataset, problems = examine_dataset(folder, targets)
    split, split_problems = find_split(dataset, splits, fold)
    if problems or split_problems:
        raise MaskSAMError("; ".join([*problems, *split_problems]))
    cases = dataset.select(split["train"])
    network, constraints = preset.network, preset.plan
    grid = plan_grid(
        [CaseGrid.of(read_volume(case.labelmap)) for case in cases],
        network.token_voxels,
        network.window,
        constraints.orientation,
        constraints.spacing,
    )
    config = network.adapted(
        grid.window, grid.spacing, len(dataset.classes), len(dataset.channels), preset.changes
    )
    return replace(grid, window=config.window), config


def _adapt(
    preset: Preset,
    dataset: Dataset,
    fingerprints: list[CaseFingerprint],
    chosen: Collection[str],
) -> tuple[Plan, NetworkConfig]:
    """Return the plan and the network of a preset, adapted to a dataset."""
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
    try:
        config = network.adapted(
            plan.window, plan.spacing, len(dataset.classes), len(dataset.channels), chosen
        )
    except ValueError as error:
        raise MaskSAMError(
            f"preset '{preset.name}' cannot be used for {dataset.folder}: {error}"
        ) from error
    return replace(plan, window=config.window), config


def _training_data(
    dataset: Dataset,
    split: dict[str, list[str]],
    plan: Plan,
    config: NetworkConfig,
    prepared: PreparedCases,
) -> TrainingData:
    return TrainingData(
        classes=dataset.classes,
        values=dataset.values,
        split=split,
        plan=plan,
        config=config,
        prepared=prepared,
        scheme=dataset.scheme,
    )
