"""What a training works on: checked, planned and prepared cases, and their validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from MaskSAMCore.data import Plan, PreparedCase, preprocess, repeat_edge_slices
from MaskSAMCore.data.dataset import Dataset, LabelledCase, examine_dataset, load_cases
from MaskSAMCore.data.label_scheme import LabelScheme
from MaskSAMCore.data.patches import WindowDataset
from MaskSAMCore.data.planning import (
    CaseFingerprint,
    case_fingerprint,
    make_plan,
    summarize,
    with_ct_window,
)
from MaskSAMCore.data.splits import find_split
from MaskSAMCore.data.synthesis.generator import SynthesisRanges
from MaskSAMCore.data.synthesis.patches import (
    IndexedLabelmap,
    SynthesizedWindows,
    synthesized_case,
)
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import axis_mapping
from MaskSAMCore.modeling import MaskSAMConfig, NetworkConfig, UNetConfig, preset
from MaskSAMCore.training.hyperparameters import FIXED, SETTINGS, TrainSettings

if TYPE_CHECKING:
    from MaskSAMCore.training.run_folder import TrainingRecord


@dataclass
class Material:
    """The cases of a training.

    Attributes:
        classes: names of the classes 1 to K.
        values: their values in the dataset's labelmaps.
        split: names of the cases under "train" and "val".
        train: prepared training cases; where there are no images, their labelmaps.
        validation: validation cases as they are, for whole-volume inference.
        plan, config, settings: what the preset became for this dataset.
        fingerprint: the training cases in figures; empty where a run goes on.
        scheme: what the labels are where images are synthesised from them, else None.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    split: dict[str, list[str]]
    train: list[PreparedCase] | list[IndexedLabelmap]
    validation: list[LabelledCase]
    plan: Plan
    config: NetworkConfig
    settings: TrainSettings
    fingerprint: dict[str, Any]
    scheme: LabelScheme | None = None

    def loader(
        self, record: TrainingRecord, workers: int, restarts: int, device: str = "cpu"
    ) -> DataLoader[Any]:
        """Batches of windows, without end; a GPU synthesises its own."""
        settings = record.settings
        if self.scheme is not None and device != "cpu":
            workers = 0
        windows = self.windows(record, restarts, device)
        return DataLoader(
            windows,
            settings.batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=8 if workers else None,
            multiprocessing_context="spawn" if workers else None,
        )

    def windows(
        self, record: TrainingRecord, restarts: int = 0, device: str = "cpu"
    ) -> IterableDataset[Any]:
        """Windows one by one."""
        settings = record.settings
        seed = record.seed + 15_485_863 * restarts
        if self.scheme is not None:
            return SynthesizedWindows(
                cast("list[IndexedLabelmap]", self.train),
                self.scheme,
                record.plan,
                settings.foreground_share,
                seed,
                SynthesisRanges(common_contrasts=settings.common_contrasts).scaled(
                    settings.augmentation
                ),
                device,
            )
        return WindowDataset(
            cast("list[PreparedCase]", self.train),
            record.plan,
            settings.augmentation,
            settings.mirror,
            settings.foreground_share,
            seed,
            settings.contrast,
        )


def prepare_material(
    folder: Path,
    splits: Path | dict[str, list[str]] | None,
    preset_or_record: str | TrainingRecord,
    report: Callable[[str], None],
    config_changes: dict[str, Any] | None = None,
    targets: Path | None = None,
) -> Material:
    """Reads, checks, plans and prepares a dataset.

    Args:
        folder: an nnU-Net dataset folder.
        splits: a JSON file, the split itself, or None.
        preset_or_record: a preset to adapt to the dataset, or the record of a run to go on with.
        report: receives lines for people.
        config_changes: fields of the preset's network to change.
        targets: a JSON file on the labels of labelmaps without images, or None.

    Raises:
        MaskSAMError: problems of the dataset, all of them named.
    """
    kept = None if isinstance(preset_or_record, str) else preset_or_record.label_maps
    dataset, problems = examine_dataset(folder, kept or targets)
    split, wrong = find_split(dataset, splits)
    names = [*split["train"], *split["val"]]
    report(f"reading and checking {len(names)} cases of {dataset.name}")
    for note in dataset.notes:
        report(note)
    if not isinstance(preset_or_record, str) and not problems:
        _check_same(preset_or_record, dataset)
    loaded = load_cases(dataset, names, known_problems=[*problems, *wrong])
    train, validation = loaded[: len(split["train"])], loaded[len(split["train"]) :]
    fingerprint: dict[str, Any] = {}
    if isinstance(preset_or_record, str):
        prints = [case_fingerprint(c.channels, c.labelmap, seed) for seed, c in enumerate(train)]
        plan, config = _adapt(preset_or_record, dataset, prints, config_changes or {})
        settings = SETTINGS[preset_or_record]
        fingerprint = summarize([case.name for case in train], prints, dataset.channels)
    else:
        record = preset_or_record
        plan, config, settings = record.plan, record.config, record.settings
    scheme = dataset.scheme
    prepared: list[PreparedCase] | list[IndexedLabelmap]
    if scheme is None:
        prepared = [preprocess(case.channels, plan, case.labelmap) for case in train]
        if config.every_slice:
            prepared = [repeat_edge_slices(case, plan.window[0] // 2) for case in prepared]
    else:
        prepared = [IndexedLabelmap.from_case(case, scheme, plan.orientation) for case in train]
        validation = [synthesized_case(c, scheme, seed) for seed, c in enumerate(validation)]
    return Material(
        dataset.classes,
        dataset.values,
        split,
        prepared,
        validation,
        plan,
        config,
        settings,
        fingerprint,
        scheme,
    )


def preset_config(name: str, changes: dict[str, Any]) -> NetworkConfig:
    """The network of a preset, with some fields changed, before it meets a dataset.

    Raises:
        MaskSAMError: there is no such preset, or a change does not fit; also the wanted
            "orientation" is checked here, and "spacing" left to the plan.
    """
    changes = dict(changes)
    orientation = changes.pop("orientation", None)
    changes.pop("spacing", None)
    if orientation is not None:
        axis_mapping(np.eye(4), orientation)
    try:
        return preset(name, **changes)
    except ValueError as error:
        raise MaskSAMError(str(error)) from error


def _check_same(record: TrainingRecord, dataset: Dataset) -> None:
    """A dataset of the same name may have been changed since the run began."""
    for what, now, then in (
        ("classes", dataset.classes, record.classes),
        ("channels", dataset.channels, record.plan.channels),
    ):
        if now != then:
            raise MaskSAMError(
                f"{dataset.folder} has the {what} {', '.join(now)}, but the run was started with"
                f" {', '.join(then)}"
            )


def _adapt(
    name: str, dataset: Dataset, prints: list[CaseFingerprint], changes: dict[str, Any]
) -> tuple[Plan, NetworkConfig]:
    """A preset for this dataset: its classes, channels and grid."""
    start = preset_config(name, changes)
    fixed = {**FIXED.get(name, {}), **changes}
    plan = make_plan(
        prints,
        dataset.channels,
        start.token_voxels,
        start.window,
        fixed.get("orientation"),
        fixed.get("spacing"),
    )
    classes = len(dataset.classes)
    if "ct_window" in fixed:
        plan = with_ct_window(plan, prints, fixed["ct_window"])
    known: dict[str, Any] = {"num_classes": classes, "in_channels": len(dataset.channels)}
    config: NetworkConfig
    if isinstance(start, UNetConfig):
        config = start.on_grid(plan.window, plan.spacing, **known)
    elif start.every_slice:
        config = start.replace(window=(start.window[0], *plan.window[1:]), **known)
    else:
        if isinstance(start, MaskSAMConfig) and "queries" not in changes:
            known["queries"] = query_count(classes, start)
        config = start.replace(window=plan.window, **known)
    return replace(plan, window=config.window), config


def query_count(classes: int, start: MaskSAMConfig) -> int:
    """How many queries N: the preset's own for its own number of classes (8 for ACDC, 24 for
    Synapse and AMOS); else 1.5 a class, and at least 8, or 4 for ``tiny``, which is meant for
    ordinary computers. That always leaves one for each class and one for the background."""
    if classes == start.num_classes:
        return start.queries
    return max(min(8, start.queries), math.ceil(1.5 * classes))
