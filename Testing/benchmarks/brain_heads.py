"""Plausibility of a whole-head model on real heads without reference labels.

    python -m Testing.benchmarks.brain_heads PAIRS... -o pictures

The program prints the agreement of the result on the MNI152 template (from nilearn) with the
template's white- and grey-matter maps, the agreement between two contrasts of one patient (each of
PAIRS is a folder of files named CASE_0000 and CASE_0001), the asymmetry of each structure, and, on
the template, the agreement of the hippocampi with those of the dedicated model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore import Segmenter, read_boxes, read_volume
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import Volume, box_on_grid
from MaskSAMCore.pictures import outline_picture
from MaskSAMCore.resources import resources
from MaskSAMCore.volumetry import structure_volumes

WHITE = ("cerebral white matter", "cerebellar white matter", "brain stem", "ventral diencephalon")
GREY = (
    "cerebral cortex",
    "cerebellar cortex",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "hippocampus",
    "amygdala",
    "accumbens",
)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the Dice of two masks, NaN if both are empty."""
    return dice_scores(a.astype(np.uint8), b.astype(np.uint8), [1])[0]


class Heads:
    """Whole-head model that segments heads and writes a picture of each."""

    def __init__(self, model: str, output: Path) -> None:
        self.segmenter = Segmenter.from_model(model)
        self.output = output

    def values(self, structures: tuple[str, ...]) -> list[int]:
        """Return the values of the classes whose names end with one of the structures."""
        return [label.value for label in self.segmenter.labels if label.name.endswith(structures)]

    def segment(self, volume: Volume) -> NDArray[np.integer]:
        """Return the labelmap; print seconds, volumes and asymmetries, and write a picture."""
        began = time.perf_counter()
        result = self.segmenter.segment(volume)
        seconds = time.perf_counter() - began
        found = [(one.name, one.confidence, one.voxel_count) for one in result.instances]
        rows = structure_volumes(found, volume.voxel_ml)
        print(f"{volume.name}: {len(rows)} of {len(self.segmenter.labels)}, {seconds:.1f} s")
        for row in rows:
            side = "" if row.asymmetry is None else f", asymmetry {row.asymmetry:+.1f} %"
            print(f"    {row.name}: {row.ml:.2f} ml{side}")
        outline_picture(
            [(volume.name, volume, result.labelmap, None)],
            self.segmenter.labels,
            self.output / f"brain-{volume.name}.png",
        )
        return result.labelmap

    def tissues(self, found: NDArray[np.integer], threshold: float) -> None:
        """Print the Dice with the template's maps of tissue probability on its own grid."""
        from nilearn.datasets.struct import GM_MNI152_FILE_PATH, WM_MNI152_FILE_PATH

        for word, path, structures in (
            ("white matter", WM_MNI152_FILE_PATH, WHITE),
            ("grey matter", GM_MNI152_FILE_PATH, GREY),
        ):
            known = read_volume(path).array
            mask = known > threshold * known.max()
            score = dice(np.isin(found, self.values(structures)), mask)
            print(f"    {word}, probability above {threshold}: Dice {score:.3f}")

    def agreement(self, a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
        """Return the mean Dice of the structures of two labelmaps of one head."""
        labels = self.segmenter.labels
        dice_of_each = dice_scores(a, b, [label.value for label in labels])
        scores = {label.name: score for label, score in zip(labels, dice_of_each, strict=True)}
        known = [name for name, score in scores.items() if score == score]
        worst = sorted(known, key=lambda name: scores[name])[:5]
        absent = len(scores) - len(known)
        print("    least alike: " + ", ".join(f"{name} {scores[name]:.2f}" for name in worst))
        print(f"    {absent} structures in neither")
        return float(np.nanmean(list(scores.values())))

    def hippocampi(self, volume: Volume, found: NDArray[np.integer]) -> None:
        """Print hippocampal volumes of this and the dedicated model in its ROIs, and their Dice."""
        dedicated = Segmenter.from_model("hippocampus")
        ml = volume.voxel_ml
        for side in ("left", "right"):
            file = resources() / "SampleData" / f"hippocampus-{side}.mrk.json"
            other = dedicated.segment(volume, roi=box_on_grid(read_boxes(file)[0], volume))
            theirs = other.labelmap > 0
            mine = np.isin(found, self.values((f"{side} hippocampus",)))
            print(
                f"    {side} hippocampus: {mine.sum() * ml:.2f} ml, dedicated model"
                f" {theirs.sum() * ml:.2f} ml, Dice {dice(mine, theirs):.3f}"
            )


def main() -> None:
    """Print the results and write a picture of each head."""
    from nilearn.datasets.struct import MNI152_FILE_PATH

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, nargs="*")
    parser.add_argument("-m", "--model", default="brain")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    heads = Heads(options.model, options.output)
    template = read_volume(MNI152_FILE_PATH)
    template = Volume(template.array, template.ijk_to_ras, "MNI152")
    found = heads.segment(template)
    for threshold in (0.2, 0.5):
        heads.tissues(found, threshold)
    heads.hippocampi(template, found)
    for folder in options.pairs:
        for first in sorted(folder.glob("*_0000.nii.gz")):
            second = first.with_name(first.name.replace("_0000.", "_0001."))
            one, two = (heads.segment(read_volume(path)) for path in (first, second))
            print(f"{first.name} and {second.name}: mean Dice {heads.agreement(one, two):.3f}")


if __name__ == "__main__":
    main()
