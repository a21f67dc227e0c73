"""``masksam predict --boxes`` with SAM, whose boxes may have any name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from MaskSAMCore import Segmenter, read_boxes, read_volume
from MaskSAMCore.cli import main
from MaskSAMCore.geometry import RasBox, box_on_grid
from MaskSAMCore.io import write_boxes
from MaskSAMCore.modeling.sam import checkpoint
from Testing.cli.helpers import error_line
from Testing.helpers.generated import write_image
from Testing.helpers.sam_reference import SMALL, small_sam, synthetic_slice

# Oblique and left-handed: I runs to the left and up, J forward, K down.
DIRECTION = (-0.96, 0.0, 0.28, 0.0, -1.0, 0.0, 0.28, 0.0, 0.96)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a small SAM with the official 1024-pixel input, added like a user's checkpoint."""
    folder = tmp_path_factory.mktemp("sam")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKSAM_HOME", str(folder / "home"))
        patch.setattr(checkpoint, "SAM_CONFIGS", dict.fromkeys(("vit_b", "vit_l", "vit_h"), SMALL))
        path = folder / "weights.pth"
        torch.save(small_sam(1024).sam.state_dict(), path)
        assert main(["models", "add", str(path), "--name", "mine", "--unverified"]) == 0
        yield "mine"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "bräin.nii.gz"
    array = np.stack([synthetic_slice(26, 32, seed) for seed in range(4)]).astype(np.int16)
    write_image(array, path, DIRECTION, (1.0, 1.0, 2.5))
    return path


def write_markups(image: Path, path: Path) -> Path:
    """Write two ROIs along the image's axes, and one that is rotated."""
    volume = read_volume(image)
    boxes = []
    for name, (i, j, k), size, rotated in (
        ("Leber", (12, 12, 1), (14.0, 12.0, 2.5), False),
        ("tumour 1", (18, 15, 2), (12.0, 10.0, 2.5), False),
        ("Leber", (25, 6, 2), (8.0, 8.0, 2.5), True),
    ):
        x, y, z, _ = volume.ijk_to_ras @ [i, j, k, 1]
        axes = np.eye(3) if rotated else volume.directions
        boxes.append(RasBox(name, (float(x), float(y), float(z)), axes, size))
    write_boxes(boxes, path)
    return path


def test_predict_writes_the_segments_that_python_returns(
    model: str, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    file = write_markups(image, tmp_path / "boxes.mrk.json")
    target = tmp_path / "out.seg.nrrd"
    arguments = ["predict", str(image), "--boxes", str(file), "-m", model, "--device", "cpu"]
    assert main([*arguments, "-o", str(target)]) == 0
    assert "Leber" in capfd.readouterr().out
    volume = read_volume(image)
    boxes = [box_on_grid(box, volume) for box in read_boxes(file)]
    expected = Segmenter.from_model(model, device="cpu").segment(volume, boxes=boxes)
    found = sitk.ReadImage(str(target))
    assert np.array_equal(sitk.GetArrayFromImage(found), expected.labelmap)
    assert sorted(np.unique(expected.labelmap)) == [0, 1, 2]
    assert found.GetDirection() == pytest.approx(DIRECTION, abs=1e-5)
    names = {found.GetMetaData(f"Segment{n}_Name") for n in (0, 1)}
    assert names == {"Leber", "tumour 1"}
    assert main([*arguments, "-o", str(tmp_path / "out.nii.gz")]) == 0
    again = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(again), expected.labelmap)


def test_missing_boxes_names_and_unsupported_options_are_refused(
    model: str, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target = tmp_path / "out.nii.gz"
    arguments = ["predict", str(image), "-m", model, "-o", str(target)]
    assert main(arguments) == 2
    assert re.search(r"error: 'mine' segments the objects in boxes.* --boxes", error_line(capfd))
    boxes = write_markups(image, tmp_path / "boxes.mrk.json")
    text = boxes.read_text(encoding="utf-8").replace("tumour 1", "ROI")
    unnamed = tmp_path / "R.mrk.json"
    unnamed.write_text(text, encoding="utf-8")
    assert main([*arguments, "--boxes", str(unnamed)]) == 2
    assert "a box has no name: name it" in error_line(capfd)
    assert main([*arguments, "--boxes", str(boxes), "--tta", "mirror"]) == 2
    assert "mirrored passes" in error_line(capfd)
    assert main([*arguments, "--boxes", str(boxes), "--probabilities"]) == 2
    assert "not class probabilities" in error_line(capfd)
    # The options are checked before the model is, which need not be installed.
    arguments[3] = "medsam"
    assert main([*arguments, "--boxes", str(boxes), "--probabilities"]) == 2
    assert "not class probabilities" in error_line(capfd)
    assert not list(tmp_path.glob("out*"))


def test_a_benchmark_of_sam_times_one_box_on_one_slice(
    model: str, capfd: pytest.CaptureFixture[str]
):
    arguments = ["benchmark", "-m", model, "--shape", "3x20x24", "--repeats", "1"]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert "one slice of 3 x 20 x 24 voxels in" in " ".join(capfd.readouterr().out.split())
