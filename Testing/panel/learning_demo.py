"""A user's clicks in the section Learn of the real panel, without Slicer.

    python -m Testing.panel.learning_demo DATASET FOLDER [--model brain] [--minutes 10]

Three cases of an nnU-Net dataset are segmented and corrected: their reference labels replace the
segments, as if a user had drawn them. During learning, the unchanged model segments a fourth
volume, which the new model then segments again. Pictures of each step are saved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from Testing import host
from Testing.panel.helpers import User, segmentations
from Testing.panel.learner import Learner
from Testing.slicer.helpers import MODULE, segment_voxels

CORRECTED = 3


def main() -> None:
    """Operate the panel, and save pictures and the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path, help="new folder for the pictures and the corrections")
    parser.add_argument("--model", default="brain")
    parser.add_argument("--minutes", type=int, default=10)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["MASKSAM_HOME"] = home
        host.start()
        host.load_module(MODULE)
        window = host.open_window("MaskSAMSlicer", (1500, 1040))
        try:
            learn(options, folder, window)
        finally:
            host.unload_module("MaskSAMSlicer")
            window.close()
    if host.errors or host.messages.texts("error"):
        sys.exit(f"learning_demo: {[*host.errors, *host.messages.texts('error')]}")


def learn(options: argparse.Namespace, folder: Path, window) -> None:
    """Correct three volumes, learn, and segment a fourth."""
    import slicer

    learner = Learner(User(slicer.modules.MaskSAMSlicerWidget), folder / "corrections")
    user, ui = learner.user, learner.ui
    user.choose_model(options.model)
    host.messages.answers.append(str(learner.folder))
    user.click(ui.learnFolderButton)
    names = sorted(path.name.split(".")[0] for path in (options.dataset / "labelsTr").iterdir())
    labels = json.loads((options.dataset / "dataset.json").read_text())["labels"]
    for name in names[:CORRECTED]:
        volume = load(options.dataset, name)
        user.segment(volume, options.model)
        print(user.status)
        correct(segmentations(volume.GetScene())[-1], volume, options.dataset, name, labels)
    for section in ("inputs", "model", "output", "advanced", "results", "boxes"):
        getattr(ui, f"{section}Button").collapsed = True
    learner.open()
    ui.learnMinutes.value = options.minutes
    save(window, folder / "learn-corrections.png")
    sections = [picture_of(ui.learnButton)]
    began = time.monotonic()
    user.click(learner.button)
    learner.wait_until_it_learns()
    fourth = load(options.dataset, names[CORRECTED])
    user.segment(fourth, options.model)
    print(f"while it learns: {user.status}")
    before = dice(segmentations(fourth.GetScene())[-1], fourth, options.dataset, labels)
    points = learner.logic.learning.validations
    user.wait(lambda: len(points) >= 4 or not learner.logic.busy, "validations")
    save(window, folder / "learn-progress.png")
    sections.append(picture_of(ui.learnButton))
    while learner.logic.busy:  # learning takes longer than `User.wait` allows
        slicer.app.processEvents()
        time.sleep(0.02)
    print(f"{learner.status} ({time.monotonic() - began:.0f} s)")
    save(window, folder / "learn-result.png")
    sections.append(picture_of(ui.learnButton))
    save_beside(sections, folder / "learn.png")
    (folder / "log.txt").write_text(learner.log, encoding="utf-8")
    if not learner.logic.learning.result.kept:
        return
    user.click(ui.chooseModelButton)
    ui.learnButton.collapsed, ui.modelButton.collapsed = True, False
    user.segment(fourth, f"{options.model}-ours")
    ui.resultsButton.collapsed = False
    save(window, folder / "learn-fourth.png")
    after = dice(segmentations(fourth.GetScene())[-1], fourth, options.dataset, labels)
    for name in before:
        print(f"{name}: Dice of the fourth {before[name]:.3f} before, {after[name]:.3f} after")


def load(dataset: Path, name: str):
    """Load the image of a case and show it."""
    import slicer

    path = str(dataset / "imagesTr" / f"{name}_0000.nii.gz")
    volume = slicer.util.loadVolume(path, {"name": name})
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume


def truth_of(dataset: Path, name: str) -> np.ndarray:
    """Return the reference labelmap [K, J, I] of a case."""
    from MaskSAMCore.io.labelmaps import read_labelmap

    return read_labelmap(dataset / "labelsTr" / f"{name}.nii.gz").array


def correct(node, volume, dataset: Path, name: str, labels: dict[str, int]) -> None:
    """Replace the segments of a segmentation by the reference labels of a case with their names."""
    import slicer

    truth, segmentation = truth_of(dataset, name), node.GetSegmentation()
    for label, value in labels.items():
        if value:
            segment_id = segmentation.GetSegmentIdBySegmentName(label)
            segment_id = segment_id or segmentation.AddEmptySegment("", label)
            voxels = (truth == value).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, segment_id, volume)


def dice(node, volume, dataset: Path, labels: dict[str, int]) -> dict[str, float]:
    """Return the Dice of each label in a segmentation; 0 where the label has no segment."""
    truth, found = truth_of(dataset, volume.GetName()), {}
    for label, value in labels.items():
        if value:
            reference, voxels = truth == value, np.zeros(truth.shape, bool)
            if node.GetSegmentation().GetSegmentIdBySegmentName(label):
                voxels = segment_voxels(node, label, volume)
            found[label] = 2 * (voxels & reference).sum() / (voxels.sum() + reference.sum())
    return found


def save(window, path: Path) -> None:
    """Save a picture of the window."""
    window.refresh()
    window.save(path)


def picture_of(widget) -> Image.Image:
    """Return the picture of a widget."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/widget.png"
        widget.grab().save(path)
        return Image.open(path).convert("RGB")


def save_beside(pictures: list[Image.Image], path: Path) -> None:
    """Save pictures side by side, in few colors, as a small file."""
    gap = 12
    size = sum(p.width for p in pictures) + 2 * gap, max(p.height for p in pictures)
    whole = Image.new("RGB", size, "white")
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + gap
    whole.quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
