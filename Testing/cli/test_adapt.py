"""``masksam adapt``: folders, pairs of files, and one-line errors for bad input."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.cli import main
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import write_labelmap, write_volume
from MaskSAMCore.labels import Code, Label, Terminology
from MaskSAMCore.models import load_bundle
from MaskSAMCore.models.unfinished import learning_folder
from MaskSAMCore.training.module import MaskSAMModule
from Testing.helpers.generated import generated_case
from Testing.helpers.short_run import checkpoint
from Testing.helpers.small_bundle import small_bundle

# Oblique grid with the model's voxel size.
GRID = np.array([[0.8, -0.6, 0, 4], [0.6, 0.8, 0, -9], [0, 0, 2, 31], [0, 0, 0, 1.0]])
CODES = Terminology(
    Code("SCT", "49755003", "Morphologically Altered Structure"), Code("SCT", "4147007", "Mass")
)
LABELS = (Label(1, "Bright", (1, 0, 0)), Label(9, "Spot", (0.25, 1, 0), CODES))


@pytest.fixture
def pair(tmp_path: Path) -> str:
    """An image with a segmentation of a known and a new class."""
    image, labelmap = generated_case(3)
    volume = Volume(image, GRID)
    write_volume(volume, tmp_path / "head.nii.gz")
    segmentation = np.where(labelmap == 2, 9, labelmap).astype(np.uint8)
    write_labelmap(segmentation, volume, tmp_path / "head.seg.nrrd", LABELS)
    return f"{tmp_path / 'head.nii.gz'}={tmp_path / 'head.seg.nrrd'}"


def test_a_pair_makes_a_new_model_with_a_new_class(pair: str, tmp_path: Path, capsys):
    base = small_bundle(tmp_path / "small")
    output = tmp_path / "ours"
    options = ["--class", "Spot", "--steps", "2", "--device", "cpu"]
    status = main(["adapt", str(base), pair, "-o", str(output), *options])
    assert status == 0 and "'ours' is written" in capsys.readouterr().out
    bundle = load_bundle(output)
    assert [label.name for label in bundle.labels] == ["Bright", "Dark", "Spot"]
    assert bundle.labels[2] == LABELS[1] and bundle.labels[0].color != LABELS[0].color
    assert bundle.card["adapted"]["classes"] == ["Spot"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_pair_for_a_model_of_several_channels_is_refused(pair: str, tmp_path: Path, capsys):
    base = small_bundle(tmp_path / "small", channels=2)
    assert main(["adapt", str(base), pair, "-o", str(tmp_path / "ours")]) == 2
    assert "a pair has one image, but 'small' needs 2 channels" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_two_segmentations_of_one_image_with_the_same_class_are_refused(
    pair: str, tmp_path: Path, capsys
):
    base = small_bundle(tmp_path / "small")
    image, segmentation = (Path(path) for path in pair.split("="))
    copies = [path.with_name(f"copy-{path.name}") for path in (image, segmentation)]
    for path, copy in zip((image, segmentation), copies, strict=True):
        copy.write_bytes(path.read_bytes())
    again = f"{copies[0]}={copies[1]}"
    assert main(["adapt", str(base), pair, pair, again, "-o", str(tmp_path / "ours")]) == 2
    message = f"'Bright' is in two segmentations of one image, {segmentation} and {copies[1]}:"
    assert message in " ".join(capsys.readouterr().err.split("\n"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_class_in_any_spelling_is_right_in_each_pair_and_absent_where_it_has_no_segment(
    tmp_path: Path, capsys
):
    folder = tmp_path / "a=b"
    folder.mkdir()
    pairs = []
    for number, shown in enumerate(([1, 9], [9])):
        image, labelmap = generated_case(number)
        volume = Volume(image, GRID)
        path = folder / f"{number}.nii.gz"
        write_volume(volume, path)
        mask = np.where(labelmap == 2, 9, labelmap).astype(np.uint8)
        mask[~np.isin(mask, shown)] = 0
        written = [label for label in LABELS if label.value in shown]
        write_labelmap(mask, volume, folder / f"{number}.seg.nrrd", written)
        pairs.append(f"{path}={folder / f'{number}.seg.nrrd'}")
    base, output = small_bundle(tmp_path / "small"), tmp_path / "ours"
    options = ["-o", str(output), "--device", "cpu", "--steps", "1"]
    classes = ["--class", "spot", "--class", "BRIGHT"]
    assert main(["adapt", str(base), *pairs, *options, *classes]) == 0
    assert load_bundle(output).card["adapted"]["classes"] == ["Bright", "Spot"]
    capsys.readouterr()
    other = ["-o", str(tmp_path / "other"), "--class", "Dot"]
    assert main(["adapt", str(base), *pairs, *other]) == 2
    message = (
        "neither a segmentation nor the model has a class Dot: choose among Bright, Dark, Spot"
    )
    assert message in capsys.readouterr().err
    # The name of a folder of cases may have a '=', too.
    assert main(["adapt", str(base), str(folder), "-o", str(tmp_path / "other")]) == 2
    assert "is not a dataset folder" in capsys.readouterr().err


def test_a_class_that_no_labelmap_shows_is_left_as_it_is(tmp_path: Path, capsys):
    pairs = []
    for number, shown in enumerate(([1], [])):
        image, labelmap = generated_case(number)
        volume = Volume(image, GRID)
        path, mask = tmp_path / f"{number}.nii.gz", tmp_path / f"{number}-labels.nii.gz"
        write_volume(volume, path)
        kept = np.where(np.isin(labelmap, shown), labelmap, 0).astype(np.uint8)
        write_labelmap(kept, volume, mask, [])
        pairs.append(f"{path}={mask}")
    base, output = small_bundle(tmp_path / "small"), tmp_path / "ours"
    options = ["-o", str(output), "--device", "cpu", "--steps", "1"]
    assert main(["adapt", str(base), *pairs, *options]) == 0
    assert load_bundle(output).card["adapted"]["classes"] == ["Bright"]
    capsys.readouterr()
    assert main(["adapt", str(base), pairs[1], "-o", str(tmp_path / "other")]) == 2
    message = "1-labels.nii.gz shows no class: give the names of absent classes with --class"
    assert message in " ".join(capsys.readouterr().err.split("\n"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none is not a dataset folder"),
        (["none.nii.gz=none.seg.nrrd"], "none.nii.gz"),
        (["a", "b"], "one folder of cases, or pairs"),
        (["a=b", "c"], "'c' is no pair"),
        (["none", "--class", "x"], "--class is for pairs"),
        (["none", "--holdout", "missing.json"], "none is not a dataset folder"),
        (["none", "--minutes", "inf"], "--minutes"),
        (["none", "--steps", "99999999999999999999"], "--steps"),
        (["none", "--threads", "99999999999999999999"], "--threads"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small_bundle(tmp_path / "small")
    assert main(["adapt", "small", *arguments, "-o", "ours"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("masksam: error: ") and message in line
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def stop_at_the_first_step(
    arguments: list[str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a command, and stop it by a signal in its first training step."""
    plain = MaskSAMModule.training_step

    def step(self: MaskSAMModule, *given: object) -> torch.Tensor:
        signal.raise_signal(number)
        return plain(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(MaskSAMModule, "training_step", step)
        assert main(arguments) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_learning_and_resume_goes_on(
    number: int, pair: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "ours"
    arguments = ["adapt", str(small_bundle(tmp_path / "small")), pair, "-o", str(output)]
    arguments += ["--steps", "3", "--device", "cpu"]
    stop_at_the_first_step(arguments, number, monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert "stopped" in line and not output.exists()
    assert checkpoint(learning_folder(output))["global_step"] == 1
    assert main([*arguments, "--resume"]) == 0
    assert load_bundle(output).card["adapted"]["cases"] == 1


def test_resume_refuses_other_choices_than_those_of_the_first_command(
    pair: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    output = tmp_path / "ours"
    command = ["adapt", str(small_bundle(tmp_path / "small")), "-o", str(output), "--device", "cpu"]
    command += ["--steps", "2"]
    first = [*command, pair, "--class", "Spot", "--seed", "3", "--holdout", "0"]
    stop_at_the_first_step(first, signal.SIGINT, monkeypatch)
    image, segmentation = pair.split("=")
    other = tmp_path / "other.nii.gz"
    other.write_bytes(Path(image).read_bytes())
    capsys.readouterr()
    for changed, message in (
        ([pair, "--class", "Bright"], "the cases or their checked classes have changed"),
        ([pair], "the cases or their checked classes have changed"),
        ([f"{other}={segmentation}", "--class", "Spot"], "the cases or their checked classes have"),
        ([pair, "--class", "Spot", "--seed", "0"], "begun with another --seed: leave it out"),
        ([pair, "--class", "Spot", "--holdout", "1"], "none is left to learn"),
    ):
        assert main([*command, *changed, "--resume"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert main([*command, pair, "--class", "Spot", "--resume"]) == 0
    assert load_bundle(output).card["adapted"]["seed"] == 3


def test_a_model_that_exists_is_not_replaced(pair: str, tmp_path: Path, capsys):
    base = small_bundle(tmp_path / "small")
    before = (base / "masksam.json").read_bytes()
    assert main(["adapt", str(base), pair, "-o", str(base)]) == 2
    assert "exists: choose another folder" in capsys.readouterr().err
    assert (base / "masksam.json").read_bytes() == before
