"""A training of a few steps, on a dataset whose label values have gaps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import SAM_CONFIGS, build_model
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
QUICK = {"warm_up": 10, "iterations": 160, "augmentation": 0.3, "ema": 0.97}
# Losses are logged at every fifth step.
SHORT = {**QUICK, "iterations": 5}
VALUES = {"Bright": 10, "Dark": 300}


def write_gapped_dataset(folder: Path, cases: int = 3) -> Path:
    """The generated volumes, with other values for the classes."""
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


def dice_of(run: Path, dataset: Path, train: bool = True) -> float:
    """Return the mean Dice of the validation cases with a run's best weights.

    Args:
        run: folder of the run.
        dataset: folder of the dataset, with images of one channel.
        train: whether the best weights are used, instead of random ones.
    """
    record = TrainingRecord.load(run)
    model = load_weights(record, run / BEST) if train else build_model(record.config)
    labels = [Label(i + 1, name, (1, 1, 1)) for i, name in enumerate(record.classes)]
    segmenter = MaskSegmenter(model, record.plan, labels, device="cpu")
    scores = []
    for case in record.split["val"]:
        found = segmenter.segment(read_volume(dataset / f"imagesTr/{case}_0000.nii.gz")).labelmap
        truth = read_volume(dataset / f"labelsTr/{case}.nii.gz").array
        for value in (1, 2):
            a, b = found == value, truth == value
            scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(sum(scores) / len(scores))
