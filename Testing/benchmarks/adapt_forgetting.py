"""Changes in the result of a whole-head model on the MNI152 head after adaptation.

    python -m Testing.benchmarks.adapt_forgetting ADAPTED... [--before brain]

The program prints the Dice with the white- and grey-matter maps of the template (from nilearn)
before and after, and the volumes of the classes that have changed; corrected classes are marked.
"""

from __future__ import annotations

import argparse

import numpy as np
from nilearn.datasets.struct import GM_MNI152_FILE_PATH, MNI152_FILE_PATH, WM_MNI152_FILE_PATH
from numpy.typing import NDArray

from MaskSAMCore import Segmenter, read_volume
from MaskSAMCore.models import open_model
from Testing.benchmarks.brain_heads import GREY, WHITE, dice


def tissues(found: NDArray[np.integer], segmenter: Segmenter, known: set[str]) -> dict[str, float]:
    """Return the Dice with the template's maps of tissue probability above one half.

    Args:
        found: labelmap of the template.
        segmenter: the model.
        known: names of the classes before adaptation; new classes count as grey matter.
    """
    scores = {}
    new = [label.value for label in segmenter.labels if label.name not in known]
    for word, path, structures in (
        ("white matter", WM_MNI152_FILE_PATH, WHITE),
        ("grey matter", GM_MNI152_FILE_PATH, GREY),
    ):
        values = [one.value for one in segmenter.labels if one.name.endswith(structures)]
        if word.startswith("grey"):
            values += new
        share = read_volume(path).array
        scores[word] = dice(np.isin(found, values), share > 0.5 * share.max())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--before", default="brain")
    options = parser.parse_args()
    head = read_volume(MNI152_FILE_PATH)
    base = Segmenter.from_model(options.before)
    known = {label.name for label in base.labels}
    old = base.segment(head).labelmap
    before = tissues(old, base, known)
    for model in options.models:
        segmenter = Segmenter.from_model(model)
        corrected = open_model(model)[0].card["adapted"]["classes"]
        new = segmenter.segment(head).labelmap
        print(f"{model}: corrected {', '.join(corrected)}")
        for word, score in tissues(new, segmenter, known).items():
            print(f"    {word}: Dice {before[word]:.4f} before, {score:.4f} after")
        for label in segmenter.labels:
            voxels = [int((found == label.value).sum()) for found in (old, new)]
            change = (voxels[1] - voxels[0]) / max(voxels[0], 1)
            mark = " (corrected)" if label.name in corrected else ""
            if voxels[0] != voxels[1]:
                ml = [count * head.voxel_ml for count in voxels]
                print(
                    f"    {label.name}{mark}: {ml[0]:.2f} to {ml[1]:.2f} ml, {100 * change:+.2f} %"
                )


if __name__ == "__main__":
    main()
