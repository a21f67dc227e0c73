"""Training runs of a few seconds on a dataset whose label values have gaps."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import MaskSegmenter, Segmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import SAM_CONFIGS, build_model
from MaskSAMCore.training.checkpoint import newest_checkpoint
from MaskSAMCore.training.run_folder import BEST, TrainingRecord, load_weights
from Testing.helpers.generated import write_dataset

SMALL = {
    "window": (8, 28, 32),
    "stem_channels": (8, 16, 32),
    "generator_channels": (32, 16, 8),
    "head_channels": 32,
    "sam": dataclasses.replace(
        SAM_CONFIGS["vit_t"], embed_dim=48, num_heads=2, prompt_dim=48, decoder_mlp_dim=64
    ),
}
FROZEN = {**SMALL, "sam": dataclasses.replace(SMALL["sam"], frozen=True)}
QUICK = {
    "warm_up": 10,
    "iterations": 80,
    "learning_rate": 5e-3,
    "augmentation": 0.3,
    "ema": 0.97,
}
# Losses are logged every five steps, so a run needs five iterations to log one.
SHORT = {**QUICK, "iterations": 5}
VALUES = {"Bright": 10, "Dark": 300}


@dataclasses.dataclass(frozen=True)
class ShortRun:
    """A run of a few steps that is validated as often as the time allows.

    Attributes:
        dataset: folder of the dataset.
        run: folder of the run.
        lines: lines that the training reported.
        checkpoint_steps: step of the newest checkpoint at each validation.
    """

    dataset: Path
    run: Path
    lines: list[str]
    checkpoint_steps: list[int]


def write_gapped_dataset(folder: Path, cases: int = 5) -> Path:
    """Write the generated dataset with label values that have gaps."""
    write_dataset(folder, cases)
    for path in (folder / "labelsTr").iterdir():
        image = sitk.ReadImage(str(path))
        array = np.array([0, *VALUES.values()], np.uint16)[sitk.GetArrayFromImage(image)]
        changed = sitk.GetImageFromArray(array)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    description["labels"] = {"background": 0, **VALUES}
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def checkpoint(run: Path) -> dict[str, Any]:
    """Return the content of a run's newest checkpoint."""
    found = newest_checkpoint(run)
    assert found is not None
    state: dict[str, Any] = torch.load(found.path, weights_only=True)
    return state


def logged_losses(run: Path, part: int = 0) -> list[float]:
    """Return the losses that a part of a run has logged."""
    path = run / f"logs/csv/version_{part}/metrics.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream) if row.get("loss")]


def validated_steps(run: Path) -> list[int]:
    """Return the steps after which a run was validated."""
    path = run / "logs/csv/version_0/metrics.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        return [int(row["step"]) for row in csv.DictReader(stream) if row.get("val_dice")]


def dice_of(run: Path, dataset: Path, trained: bool = True) -> float:
    """Return the mean Dice of the validation cases with a run's best weights.

    Args:
        run: folder of the run.
        dataset: folder of the dataset, with images of one channel.
        trained: True for the best weights, False for random ones.
    """
    record = TrainingRecord.load(run)
    model = load_weights(record, run / BEST) if trained else build_model(record.config)
    labels = [
        Label(value, name, (1, 1, 1))
        for value, name in zip(record.values, record.classes, strict=True)
    ]
    segmenter = MaskSegmenter(model, record.plan, labels, device="cpu")
    scores = []
    for case in record.split["val"]:
        image, truth = read_case(dataset, case)
        found = segmenter.segment(image).labelmap
        scores.append(dice_scores(found, truth, record.values))
    return float(np.mean(scores))


def read_case(dataset: Path, case: str) -> tuple[Volume, np.ndarray]:
    """Return the image and the labelmap of a case with one channel."""
    image = read_volume(dataset / f"imagesTr/{case}_0000.nii.gz")
    return image, read_volume(dataset / f"labelsTr/{case}.nii.gz").array


def assert_boxes_bound_their_class(run: Path, dataset: Path, model: Path) -> None:
    """Check that an exported model segments a validation case, and that a box bounds its class.

    Args:
        run: run that was exported.
        dataset: dataset of the run.
        model: folder of the bundle.
    """
    value, other = VALUES.values()
    image, truth = read_case(dataset, TrainingRecord.load(run).split["val"][0])
    with Segmenter.from_model(str(model), device="cpu").open(image) as session:
        automatic = session.segment().labelmap
        assert dice_scores(automatic, truth, [value])[0] > 0.6
        k, j, i = np.nonzero(truth == value)
        box = Box(
            "Bright", (i.min(), j.min(), k.min() + 2), (i.max() + 1, j.max() + 1, k.max() - 1)
        )
        prompted = session.segment(boxes=[box]).labelmap
    inside = np.zeros(truth.shape, bool)
    inside[box.slices()] = True
    assert (prompted[inside] == value).any() and not (prompted[~inside] == value).any()
    np.testing.assert_array_equal(prompted == other, automatic == other)
