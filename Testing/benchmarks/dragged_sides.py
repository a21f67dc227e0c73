"""Share of the way that a class follows a side of its box that is moved outwards.

python -m Testing.benchmarks.dragged_sides HEAD.nii.gz [-m brain]

The sides of the box of each structure are moved one at a time, by 2 and by 4 mm, and the class may
take voxels from other classes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from MaskSAMCore import Box, Segmenter, read_volume
from MaskSAMCore.allocation import keep_freed_memory
from MaskSAMCore.inference import Session

STRUCTURES = (
    "left putamen",
    "left hippocampus",
    "right thalamus",
    "left caudate",
    "right amygdala",
    "left lateral ventricle",
    "brain stem",
)
DISTANCES_MM = (2.0, 4.0)


def followed(session: Session, box: Box, value: int, axis: int, voxels: float) -> tuple[float, int]:
    """Return the share of the way that a class follows a side of its box, and its voxel count.

    Args:
        session: session on the head.
        box: box of the class.
        value: value of the class in the labelmap.
        axis: axis (i, j, k) that the side is perpendicular to.
        voxels: distance by which the side is moved outwards; negative for the lower side.
    """
    sides = [list(box.lower), list(box.upper)]
    sides[int(voxels > 0)][axis] += voxels
    moved = replace(box, lower=tuple(sides[0]), upper=tuple(sides[1]))
    mask = session.segment([moved], overwrite=True).labelmap == value
    along = np.flatnonzero(mask.any(tuple(other for other in range(3) if other != 2 - axis)))
    if not len(along):
        return -1.0, 0
    reached = along[-1] + 1 - box.upper[axis] if voxels > 0 else along[0] - box.lower[axis]
    return float(np.clip(reached / voxels, -1, 1)), int(mask.sum())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head", type=Path)
    parser.add_argument("-m", "--model", default="brain")
    options = parser.parse_args()
    keep_freed_memory()
    segmenter = Segmenter.from_model(options.model, device="cpu")
    volume = read_volume(options.head)
    with segmenter.open(volume) as session:
        found = {one.name: one for one in session.segment().instances}
        for mm in DISTANCES_MM:
            shares, growth = [], []
            for name in STRUCTURES:
                one = found[name]
                for axis in range(3):
                    for sign in (-1, 1):
                        voxels = sign * mm / volume.spacing[axis]
                        share, after = followed(session, one.box, one.value, axis, voxels)
                        shares.append(share)
                        growth.append(after / one.voxel_count - 1)
            print(
                f"{mm:g} mm: followed {np.mean(shares):.2f} of the way, all of it in"
                f" {np.mean(np.array(shares) > 0.999):.0%} of {len(shares)} drags, volume"
                f" {np.mean(growth):+.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
