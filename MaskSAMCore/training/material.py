"""What a training works on: checked, planned and prepared cases, and their validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader

from MaskSAMCore.data import Plan, Prepared, preprocess
from MaskSAMCore.data.dataset import Dataset, LabelledCase, load_cases, open_dataset
from MaskSAMCore.data.planning import case_fingerprint, make_plan
from MaskSAMCore.data.sampling import WindowDataset
from MaskSAMCore.data.splits import split_cases
from MaskSAMCore.modeling import MaskSAMConfig, preset

from .settings import SETTINGS, TrainSettings

if TYPE_CHECKING:
    from .fit import FitOptions
    from .module import MaskSAMModule
    from .run import RunRecord


@dataclass
class Material:
    """The cases of a training.

    Attributes:
        classes: names of the classes 1 to K.
        split: names of the cases under "train" and "val".
        train: prepared training cases.
        validation: validation cases as they are, for whole-volume inference.
        plan, config, settings: what the preset became for this dataset.
    """

    classes: tuple[str, ...]
    split: dict[str, list[str]]
    train: list[Prepared]
    validation: list[LabelledCase]
    plan: Plan
    config: MaskSAMConfig
    settings: TrainSettings

    def loader(self, record: RunRecord, options: FitOptions, restarts: int) -> DataLoader[Any]:
        """Batches of windows, without end."""
        settings = record.settings
        windows = WindowDataset(
            self.train,
            record.plan,
            settings.augmentation,
            settings.mirror,
            settings.foreground_share,
            options.seed + 15_485_863 * restarts,
        )
        workers = options.workers
        return DataLoader(
            windows,
            settings.batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=8 if workers else None,
            multiprocessing_context="spawn" if workers else None,
        )

    def evaluator(
        self, record: RunRecord, device: str
    ) -> Callable[[MaskSAMModule], dict[str, float]]:
        """A function that gives the Dice of each class, averaged over the validation cases."""
        return _Evaluator(self.validation, self.classes, record.plan, device)


class _Evaluator:
    """Whole validation cases through the one inference engine."""

    def __init__(
        self, cases: list[LabelledCase], classes: tuple[str, ...], plan: Plan, device: str
    ) -> None:
        self.cases = cases
        self.classes = classes
        self.plan = plan
        self.device = device

    def __call__(self, module: MaskSAMModule) -> dict[str, float]:
        from MaskSAMCore.inference import Segmenter
        from MaskSAMCore.labels import Label

        labels = [Label(i + 1, name, (1.0, 1.0, 1.0)) for i, name in enumerate(self.classes)]
        device = "cuda" if module.device.type == "cuda" else module.device.type
        segmenter = Segmenter(module.model, self.plan, labels, device=device)
        scores: dict[str, list[float]] = {name: [] for name in self.classes}
        for case in self.cases:
            found = segmenter.segment(case.channels).labelmap
            for index, name in enumerate(self.classes):
                a, b = found == index + 1, case.label == index + 1
                total = int(a.sum()) + int(b.sum())
                if total:
                    scores[name].append(2 * int((a & b).sum()) / total)
        return {name: float(np.mean(values)) for name, values in scores.items() if values}


def prepare_material(
    folder: Path,
    splits: Path | dict[str, list[str]] | None,
    preset_or_record: str | RunRecord,
    report: Callable[[str], None],
    config_changes: dict[str, Any] | None = None,
) -> Material:
    """Reads, checks, plans and prepares a dataset.

    Args:
        folder: an nnU-Net dataset folder.
        splits: a JSON file, the split itself, or None.
        preset_or_record: a preset to adapt to the dataset, or the record of a run to go on with.
        report: receives lines for people.
        config_changes: fields of the preset's network to change.

    Raises:
        MaskSAMError: problems of the dataset, all of them named.
    """
    dataset = open_dataset(folder)
    split = splits if isinstance(splits, dict) else split_cases(dataset, splits)
    report(
        f"reading and checking {len(split['train']) + len(split['val'])} cases of {dataset.name}"
    )
    loaded = load_cases(dataset, [*split["train"], *split["val"]])
    train, validation = loaded[: len(split["train"])], loaded[len(split["train"]) :]
    if isinstance(preset_or_record, str):
        plan, config, settings = _adapt(preset_or_record, dataset, train, config_changes or {})
    else:
        record = preset_or_record
        plan, config, settings = record.plan, record.config, record.settings
    prepared = [preprocess(case.channels, plan, case.label) for case in train]
    return Material(dataset.classes, split, prepared, validation, plan, config, settings)


def _adapt(
    name: str, dataset: Dataset, train: list[LabelledCase], changes: dict[str, Any]
) -> tuple[Plan, MaskSAMConfig, TrainSettings]:
    """A preset for this dataset: its classes, channels and grid."""
    start = preset(name, **{k: v for k, v in changes.items() if k != "orientation"})
    tokens = max(1, start.sam.patch // start.upsampling)
    fingerprints = [
        case_fingerprint(case.channels, case.label, seed) for seed, case in enumerate(train)
    ]
    plan = make_plan(
        fingerprints, dataset.channels, tokens, start.window, changes.get("orientation")
    )
    classes = len(dataset.classes)
    config = start.replace(
        num_classes=classes,
        in_channels=len(dataset.channels),
        window=plan.window,
        queries=max(start.queries, classes + 2),
    )
    settings = SETTINGS[name]
    return plan, config, dataclasses.replace(settings)
