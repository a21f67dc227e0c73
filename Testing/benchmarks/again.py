"""Variation of volumes when the same head is acquired again.

    python -m Testing.benchmarks.again HEADS... -m brain --times 5 -o again.json

Each acquisition turns the head by up to ten degrees about each axis and has voxels of another size
(0.9 to 1.5 mm along each axis), a smooth bias of up to 20 %, and noise of 2 % of the largest
intensity. The measure is the median over structures of the coefficient of variation of the volume.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.io import read_volume

_DEGREES = 10.0
_VOXEL_MM = (0.9, 1.5)
_BIAS = 0.2
_NOISE = 0.02


def acquired(volume: Volume, rng: np.random.Generator) -> Volume:
    """Return another acquisition of a head."""
    spacing = rng.uniform(*_VOXEL_MM, 3)
    turn = Rotation.from_euler("xyz", rng.uniform(-_DEGREES, _DEGREES, 3), degrees=True)
    shape = np.array(volume.array.shape[::-1])
    size = np.ceil(shape * volume.spacing / spacing).astype(int)
    # Both grids have the same centre; the new grid is rotated relative to the head.
    step = np.diag(1 / np.array(volume.spacing)) @ turn.as_matrix() @ np.diag(spacing)
    offset = (shape - 1) / 2 - step @ ((size - 1) / 2)
    values = volume.array.astype(np.float32)
    # Larger voxels average over their extent; without smoothing, they would sample single points.
    blur = 0.4 * np.maximum(spacing / volume.spacing - 1, 0)
    values = ndimage.gaussian_filter(values, blur[::-1])
    values = ndimage.affine_transform(
        values, step[::-1, ::-1], offset[::-1], tuple(size[::-1]), order=1
    )
    coarse = rng.uniform(1 - _BIAS, 1 + _BIAS, (4, 4, 4))
    factors = [n / 4 for n in values.shape]
    bias = ndimage.zoom(coarse, factors, order=1)
    noise = rng.normal(0, _NOISE * values.max(), values.shape)
    scale = np.diag([*(spacing / volume.spacing), 1.0])
    return Volume((values * bias + noise).astype(np.float32), volume.ijk_to_ras @ scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path, nargs="+")
    parser.add_argument("-m", "--model", default="brain")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    segmenter = Segmenter.from_model(options.model)
    names = [label.name for label in segmenter.labels]
    record: dict[str, dict[str, list[float]]] = {}
    for path in options.heads:
        rng = np.random.default_rng(options.seed)
        head = read_volume(path)
        volumes: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.times):
            again = acquired(head, rng)
            found = segmenter.segment(again).labelmap
            ml = float(np.prod(again.spacing)) / 1000
            for label in segmenter.labels:
                volumes[label.name].append(int((found == label.value).sum()) * ml)
        variation = {n: float(np.std(v, ddof=1) / np.mean(v)) for n, v in volumes.items() if any(v)}
        print(
            f"{path.name}: median coefficient of variation {np.median([*variation.values()]):.3f}"
        )
        for name in sorted(variation, key=lambda n: -variation[n]):
            print(f"  {name:32s} {variation[name]:.3f}, mean {np.mean(volumes[name]):.2f} ml")
        record[path.name] = volumes
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
