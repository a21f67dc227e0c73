"""Generated volumes with known labels: a bright and a dark body in noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

CLASSES = {"background": 0, "Bright": 1, "Dark": 2}


def generated_case(seed: int, shape: tuple[int, int, int] = (14, 26, 30)):
    """Return image and labelmap [K, J, I] of two ellipsoids of random position and size."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    label = np.zeros(shape, np.uint8)
    size = np.array(shape)
    for value, place in ((1, (0.5, 0.3, 0.35)), (2, (0.5, 0.65, 0.65))):
        centre = size * np.array(place) + rng.uniform(-1.5, 1.5, 3)
        radius = size * rng.uniform(0.16, 0.22, 3)
        label[(((grid - centre) / radius) ** 2).sum(-1) < 1] = value
    noise = rng.normal(0, 0.3, shape)
    image = 100 + 40 * ((label == 1) * 2.0 - (label == 2) * 2.0 + noise)
    return image.astype(np.float32), label


def write_image(array: np.ndarray, path: Path, direction=None, spacing=(1.0, 1.0, 2.0)) -> None:
    """Write an array [K, J, I] with a direction (nine LPS numbers) and a spacing (I, J, K; mm)."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((12.0, -7.0, 3.0))
    if direction is not None:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_dataset(folder: Path, cases: int = 8, channels: int = 1) -> Path:
    """Write an nnU-Net dataset folder; every other case has another direction on disk."""
    turned = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    for number in range(cases):
        image, label = generated_case(number)
        direction = turned if number % 2 else None
        if direction is not None:
            # Flipping the arrays keeps the bodies in place in space.
            image, label = image[:, ::-1, ::-1], label[:, ::-1, ::-1]
        name = f"case_{number:02d}"
        for channel in range(channels):
            path = folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
            write_image(np.ascontiguousarray(image), path, direction)
        write_image(np.ascontiguousarray(label), folder / "labelsTr" / f"{name}.nii.gz", direction)
    description = {
        "channel_names": {str(c): f"MR{c}" for c in range(channels)},
        "labels": CLASSES,
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "name": "Generated",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def change_description(folder: Path, **changes: Any) -> None:
    """Change keys of a folder's ``dataset.json``; None removes a key."""
    path = folder / "dataset.json"
    description = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in description.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
