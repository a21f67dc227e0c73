"""What a training works on: checked, planned and prepared cases, and their validation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
from MaskSAMCore.modeling import NetworkConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.preset import Preset

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
    report: Callable[[str], None],
    *,
    preset: Preset | None = None,
    record: TrainingRecord | None = None,
    chosen: Collection[str] = (),
    targets: Path | None = None,
) -> Material:
    """Reads, checks, plans and prepares a dataset.

    Args:
        folder: an nnU-Net dataset folder.
        splits: a JSON file, the split itself, or None.
        report: receives lines for people.
        preset: a preset to adapt to the dataset, for a new run.
        record: the record of a run to go on with.
        chosen: names of the network's fields that the user has chosen and that are not adapted.
        targets: a JSON file on the labels of labelmaps without images, or None.

    Raises:
        MaskSAMError: problems of the dataset, all of them named.
    """
    kept = None if record is None else record.label_maps
    dataset, problems = examine_dataset(folder, kept or targets)
    split, wrong = find_split(dataset, splits)
    names = [*split["train"], *split["val"]]
    report(f"reading and checking {len(names)} cases of {dataset.name}")
    for note in dataset.notes:
        report(note)
    if record is not None and not problems:
        _check_same(record, dataset)
    loaded = load_cases(dataset, names, known_problems=[*problems, *wrong])
    train, validation = loaded[: len(split["train"])], loaded[len(split["train"]) :]
    fingerprint: dict[str, Any] = {}
    if record is not None:
        plan, config, settings = record.plan, record.config, record.settings
    elif preset is not None:
        prints = [case_fingerprint(c.channels, c.labelmap, seed) for seed, c in enumerate(train)]
        plan, config = _adapt(preset, dataset, prints, chosen)
        settings = preset.training
        fingerprint = summarize([case.name for case in train], prints, dataset.channels)
    else:
        raise ValueError("a new run needs a preset, and a resumed one its record")
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
    preset: Preset, dataset: Dataset, prints: list[CaseFingerprint], chosen: Collection[str]
) -> tuple[Plan, NetworkConfig]:
    """Return the plan and the network of a preset for a dataset."""
    start, fixed = preset.network, preset.plan
    plan = make_plan(
        prints,
        dataset.channels,
        start.token_voxels,
        start.window,
        fixed.orientation,
        fixed.spacing,
    )
    if fixed.ct_window is not None:
        plan = with_ct_window(plan, prints, fixed.ct_window)
    config = start.adapted(
        plan.window, plan.spacing, len(dataset.classes), len(dataset.channels), chosen
    )
    return replace(plan, window=config.window), config
