"""``masksam predict``: outputs are complete or absent, and lie on the image's own grid."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.cli import main
from MaskSAMCore.geometry import RasBox, box_on_grid
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.io import read_boxes, read_volume, write_boxes
from Testing.cli.helpers import error_of, headings_of
from Testing.helpers.generated import generated_case, write_image
from Testing.helpers.small_bundle import small_bundle


def test_one_image_becomes_one_segmentation_on_its_own_grid(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target = tmp_path / "out" / "result.seg.nrrd"
    assert main(["predict", str(image), "-o", str(target), "-m", model]) == 0
    assert "volume (ml)" in headings_of(capfd.readouterr().out)
    found, given = sitk.ReadImage(str(target)), sitk.ReadImage(str(image))
    assert found.GetSize() == given.GetSize()
    assert found.GetOrigin() == pytest.approx(given.GetOrigin())
    assert found.GetDirection() == pytest.approx(given.GetDirection())
    assert found.GetMetaData("Segment0_Name") == "Bright"
    assert [p.name for p in target.parent.iterdir()] == ["result.seg.nrrd"]


def test_a_single_slice_is_segmented_as_a_volume(model: str, tmp_path: Path):
    path, target = tmp_path / "slice.nii.gz", tmp_path / "result.nii.gz"
    write_image(generated_case(1, (6, 20, 20))[0][:1], path)
    assert main(["predict", str(path), "-o", str(target), "-m", model]) == 0
    assert read_volume(target).shape == (1, 20, 20)


def test_a_folder_of_cases_becomes_a_folder_of_labelmaps(model: str, tmp_path: Path):
    for name in ("a", "b"):
        write_image(generated_case(1, (6, 16, 20))[0], tmp_path / "in" / f"{name}_0000.nii.gz")
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "in"), "-o", str(out), "-m", model, "--format", "mha"]
    assert main(arguments) == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.mha", "b.mha"]


def test_numbered_channels_make_one_case(tmp_path: Path):
    two = str(small_bundle(tmp_path / "two", channels=2))
    for channel in range(2):
        path = tmp_path / "in" / f"a_{channel:04d}.nii.gz"
        write_image(generated_case(1, (6, 16, 20))[0], path)
    assert main(["predict", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", two]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.nii.gz"]


def test_an_existing_output_is_kept_without_overwrite(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target = tmp_path / "result.nii.gz"
    target.write_bytes(b"precious")
    arguments = ["predict", str(image), "-o", str(target), "-m", model]
    assert "--overwrite" in error_of(capfd, arguments)
    assert target.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert read_volume(target).shape == (8, 18, 22)


def test_a_format_that_the_output_file_does_not_have_is_refused(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["predict", str(image), "-m", model, "--format"]
    for name, wanted in (("o.nii.gz", "seg.nrrd"), ("o.seg.nrrd", "nrrd"), ("o.nii", "nii.gz")):
        error = error_of(capfd, [*arguments, wanted, "-o", str(tmp_path / name)])
        assert f"--format {wanted} is for results in a folder" in error
    assert main([*arguments, "seg.nrrd", "-o", str(tmp_path / "o.seg.nrrd")]) == 0


def test_nothing_is_found_outside_the_roi(image: Path, model: str, tmp_path: Path):
    volume = read_volume(image)
    centre = (volume.ijk_to_ras @ np.array([10.5, 8.5, 3.5, 1]))[:3]
    roi = tmp_path / "roi.mrk.json"
    write_boxes([RasBox("ROI", tuple(centre), np.eye(3), (14.0, 12.0, 12.0))], roi)
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(image), "-o", str(target), "-m", model, "--roi", str(roi)]
    assert main(arguments) == 0
    found = np.argwhere(read_volume(target).array > 0)
    assert len(found)
    assert (np.abs(found[:, ::-1] - [10.5, 8.5, 3.5]) <= [7, 6, 3]).all()


def test_a_box_bounds_its_class(image: Path, model: str, tmp_path: Path):
    volume = read_volume(image)
    centre = (volume.ijk_to_ras @ np.array([7.5, 6.5, 3.5, 1]))[:3]
    boxes = tmp_path / "boxes.mrk.json"
    write_boxes([RasBox("Bright", tuple(centre), np.eye(3), (8.0, 6.0, 8.0))], boxes)
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(image), "-o", str(target), "-m", model, "--boxes", str(boxes)]
    assert main(arguments) == 0
    found = np.argwhere(read_volume(target).array == 1)
    assert (np.abs(found[:, ::-1] - [7.5, 6.5, 3.5]) <= [4, 3, 2]).all()


def test_a_box_that_names_no_class_is_refused_before_any_case(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("a", "b"):
        write_image(generated_case(0, (8, 18, 22))[0], tmp_path / "in" / f"{name}.nii.gz")
    boxes = tmp_path / "boxes.mrk.json"
    write_boxes([RasBox("Brihgt", (0.0, 0.0, 0.0), np.eye(3), (8.0, 6.0, 8.0))], boxes)
    arguments = ["predict", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", model]
    error = error_of(capfd, [*arguments, "--boxes", str(boxes)])
    assert "'Brihgt' names no class of this model: choose one of Bright, Dark" in error
    assert not (tmp_path / "out").exists()


def test_a_note_known_before_the_segmentation_is_shown_once(
    tmp_path: Path, image: Path, capfd: pytest.CaptureFixture[str]
):
    model = str(small_bundle(tmp_path / "crops", card={"needs_roi": True}))
    write_image(generated_case(1, (8, 18, 22))[0], tmp_path / "b.nii.gz")
    inputs = [str(image), str(tmp_path / "b.nii.gz")]
    note = "This model needs an ROI around the structure: draw or choose one."
    for given, notes in ((inputs[:1], [f"Note: {note}"]), (inputs, ["bräin", "b"])):
        output = str(tmp_path / f"out-{len(given)}")
        assert main(["predict", *given, "-o", output, "-m", model]) == 0
        found = [line for line in capfd.readouterr().err.splitlines() if note in line]
        assert found == (notes if len(given) == 1 else [f"Note: {name}: {note}" for name in notes])


def test_boxes_change_other_classes_only_with_boxes_overwrite(
    image: Path, model: str, tmp_path: Path
):
    volume = read_volume(image)
    shape = np.array(volume.shape[::-1])
    centre = (volume.ijk_to_ras @ [*(shape / 2 - 0.5), 1])[:3]
    boxes, target = tmp_path / "boxes.mrk.json", tmp_path / "result.nii.gz"
    write_boxes([RasBox("Bright", tuple(centre), np.eye(3), tuple(shape * volume.spacing))], boxes)
    found = {}
    for name, more in (
        ("automatic", []),
        ("kept", ["--boxes", str(boxes)]),
        ("overwritten", ["--boxes", str(boxes), "--boxes-overwrite"]),
    ):
        arguments = ["predict", str(image), "-o", str(target), "-m", model, "--overwrite", *more]
        assert main(arguments) == 0
        found[name] = read_volume(target).array
    assert (found["automatic"] == 2).any()
    np.testing.assert_array_equal(found["kept"] == 2, found["automatic"] == 2)
    box = box_on_grid(read_boxes(boxes)[0], volume)
    expected = Segmenter.from_model(model).segment(volume, boxes=[box], overwrite=True)
    np.testing.assert_array_equal(found["overwritten"], expected.labelmap)


def test_boxes_overwrite_needs_boxes(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["predict", str(image), "-o", str(tmp_path / "result.nii.gz"), "-m", model]
    assert "add --boxes FILE" in error_of(capfd, [*arguments, "--boxes-overwrite"])


def test_a_bids_suffix_needs_a_bids_dataset(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """A folder without anat is not BIDS: all its images would be segmented despite the suffix."""
    folder, out = tmp_path / "bids", tmp_path / "out"
    for suffix in ("T1w", "FLAIR"):
        path = folder / "sub-01" / f"sub-01_{suffix}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.read_bytes())
    arguments = ["predict", str(folder), "-o", str(out), "-m", model, "--bids-suffix", "FLAIR"]
    assert "--bids-suffix chooses images of a BIDS dataset" in error_of(capfd, arguments)
    assert not out.exists()
    (folder / "sub-01" / "anat").mkdir()
    for path in (folder / "sub-01").glob("*.nii.gz"):
        path.rename(path.parent / "anat" / path.name)
    assert main(arguments) == 0
    assert [path.name for path in out.rglob("*.nii.gz")] == [
        "sub-01_space-orig_desc-FLAIR_dseg.nii.gz"
    ]


def test_a_file_that_is_skipped_is_said_to_be(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["predict", str(image), "-o", str(tmp_path / "result.nii.gz"), "-m", model]
    assert main([*arguments, "--skip-existing"]) == 0
    assert "skipped" not in capfd.readouterr().err
    volumes = tmp_path / "volumes.csv"
    assert main([*arguments, "--skip-existing", "--volumes", str(volumes)]) == 0
    printed = capfd.readouterr().err
    assert "1 skipped: the outputs exist" in printed
    assert f"{volumes} was not written: no case was segmented" in printed
    assert not volumes.exists()


def test_probabilities_are_written_as_one_image_that_sums_to_one(
    image: Path, model: str, tmp_path: Path
):
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(image), "-o", str(target), "-m", model, "--probabilities"]
    assert main(arguments) == 0
    path = tmp_path / "result_probabilities.nrrd"
    probabilities = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert probabilities.shape == (8, 18, 22, 3)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-3)
    labelmap = read_volume(target).array
    assert (probabilities.argmax(-1) == labelmap).mean() > 0.99


def test_a_file_of_the_result_that_is_replaced_is_named(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture
):
    arguments = ["predict", str(image), "-o", str(tmp_path / "result.nii.gz"), "-m", model]
    assert main([*arguments, "--probabilities"]) == 0
    assert main([*arguments, "--probabilities", "--overwrite"]) == 0
    assert "result before" not in capfd.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    printed = " ".join(capfd.readouterr().err.split())
    assert "result_probabilities.nrrd is of the result before: remove it." in printed


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"not an image"), "cannot be read as an image"),
        (lambda path: path.write_bytes(b""), "empty file"),
    ],
)
def test_an_unreadable_image_gives_one_line_of_error_and_no_output(
    prepare: Callable[[Path], None],
    message: str,
    model: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    path, target = tmp_path / "in.nii.gz", tmp_path / "result.nii.gz"
    prepare(path)
    assert message in error_of(capfd, ["predict", str(path), "-o", str(target), "-m", model])
    assert not target.exists()


def test_an_image_that_is_not_a_scalar_volume_is_refused(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    flat = sitk.GetImageFromArray(np.zeros((20, 20), np.float32))
    colour = sitk.GetImageFromArray(np.zeros((8, 20, 20, 3), np.uint8), isVector=True)
    moving = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((8, 20, 20), np.float32))] * 3)
    infinite = np.zeros((8, 20, 20), np.float32)
    infinite[0, 0, 0] = np.nan
    for image, message in (
        (flat, "2D image"),
        (colour, "3 values per voxel"),
        (moving, "4D image"),
        (sitk.GetImageFromArray(infinite), "NaN or infinite"),
    ):
        path = tmp_path / "in.mha"
        sitk.WriteImage(image, str(path))
        arguments = ["predict", str(path), "-o", str(tmp_path / "out.nii.gz"), "-m", model]
        assert message in error_of(capfd, arguments)


def test_an_unknown_model_or_device_is_refused(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = ["predict", str(image), "-o", str(tmp_path / "o.mha"), "-m"]
    assert "no model named 'nobody'" in error_of(capfd, [*arguments, "nobody"])
    assert "device" in error_of(capfd, [*arguments, model, "--device", "warp"])


def test_the_volumes_of_all_cases_are_written_and_an_existing_file_is_kept(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for name in ("a", "b"):
        write_image(generated_case(0)[0], tmp_path / "in" / f"{name}.nii.gz", spacing=(1, 1, 2))
    target = tmp_path / "tables" / "volumes.csv"
    arguments = ["predict", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", model]
    assert main([*arguments, "--volumes", str(target)]) == 0
    lines = list(csv.DictReader(target.open(encoding="utf-8")))
    assert {line["case"] for line in lines} == {"a", "b"}
    found = (read_volume(tmp_path / "out" / "a.nii.gz").array > 0).sum()
    assert found > 0
    volumes = [float(line["volume_ml"]) for line in lines if line["case"] == "a"]
    assert sum(volumes) == pytest.approx(2 * found / 1000, abs=1e-3)
    target.write_text("precious")
    assert main([*arguments, "--volumes", str(target)]) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert target.read_text() == "precious"
    for taken in (tmp_path / "out" / "a.nii.gz", tmp_path):
        assert main([*arguments, "--overwrite", "--volumes", str(taken)]) == 2
        assert "name another file" in capfd.readouterr().err


def test_the_intracranial_volume_is_given_for_whole_heads_of_models_that_segment_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    head = str(small_bundle(tmp_path / "head", card={"intracranial": "all"}))
    write_image(generated_case(0)[0], tmp_path / "in" / "a.nii.gz", spacing=(1, 1, 2))
    volumes, out = tmp_path / "volumes.csv", tmp_path / "out"
    arguments = ["predict", str(tmp_path / "in"), "-o", str(out), "-m", head, "--overwrite"]
    arguments += ["--volumes", str(volumes)]
    # A shard keeps its table of cases, even for a single case.
    assert main([*arguments, "--shard", "1/1"]) == 0
    assert "share (%)" in headings_of(capfd.readouterr().out)
    (row,) = csv.DictReader((out / "cases-1-of-1.csv").open(encoding="utf-8"))
    total = 2 * (read_volume(out / "a.nii.gz").array > 0).sum() / 1000
    assert float(row["intracranial volume (ml)"]) == pytest.approx(total, abs=1e-5)
    written = tmp_path / "volumes-1-of-1.csv"
    *classes, last = csv.DictReader(written.open(encoding="utf-8"))
    assert (last["structure"], last["score"]) == ("intracranial volume", "")
    assert float(last["volume_ml"]) == pytest.approx(total, abs=1e-3)
    shares = [float(line["intracranial_percent"]) for line in classes]
    assert sum(shares) == pytest.approx(100, abs=1e-2)
    for line, share in zip(classes, shares, strict=True):
        assert 100 * float(line["volume_ml"]) / total == pytest.approx(share, abs=0.1)
        assert float(row[f"{line['structure']} (% of intracranial)"]) == share
    # An ROI covers only a part of the head.
    volume = read_volume(tmp_path / "in" / "a.nii.gz")
    k, j, i = volume.shape
    centre = (volume.ijk_to_ras @ np.array([i / 2, j / 2, k / 2, 1]))[:3]
    roi = tmp_path / "roi.mrk.json"
    write_boxes([RasBox("ROI", tuple(centre), np.eye(3), (14.0, 14.0, 14.0))], roi)
    assert main([*arguments, "--roi", str(roi)]) == 0
    assert "intracranial" not in capfd.readouterr().out
    assert "intracranial" not in volumes.read_text(encoding="utf-8")


def test_the_error_of_a_single_input_is_the_only_line(
    tmp_path: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    output = tmp_path / "out.nii.gz"
    assert main(["predict", str(tmp_path / "bad.nii.gz"), "-o", str(output), "-m", model]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert [line for line in lines if not line.startswith("Device:")] == [lines[-1]]
    assert lines[-1].startswith("masksam: error: ")


def test_several_models_are_averaged(image: Path, tmp_path: Path):
    bundles = [str(small_bundle(tmp_path / name, name)) for name in ("a", "b")]
    one, both = tmp_path / "one.nii.gz", tmp_path / "both.nii.gz"
    assert main(["predict", str(image), "-o", str(one), "-m", bundles[0]]) == 0
    models = ["-m", bundles[0], "-m", bundles[1]]
    assert main(["predict", str(image), "-o", str(both), *models]) == 0
    # Both bundles have the same weights.
    np.testing.assert_array_equal(read_volume(both).array, read_volume(one).array)


def test_models_of_other_classes_or_with_boxes_are_not_averaged(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    other = str(small_bundle(tmp_path / "other", "other", class_names=("Bright", "Grey")))
    target = tmp_path / "result.nii.gz"
    arguments = ["predict", str(image), "-o", str(target), "-m", model, "-m", other]
    error = error_of(capfd, arguments)
    assert "do not have the same classes ('Dark', 2, and 'Grey', 2): give" in error
    boxes = tmp_path / "boxes.mrk.json"
    write_boxes([], boxes)
    assert "take no boxes" in error_of(capfd, [*arguments, "--boxes", str(boxes)])
    assert not target.exists()


def test_the_proposals_of_one_input_are_drawn(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target, picture = tmp_path / "out" / "result.nii.gz", tmp_path / "out" / "proposals.png"
    options = ["-o", str(target), "-m", model, "--proposals", str(picture)]
    assert main(["predict", str(image), *options]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "other.nii.gz"
    other.write_bytes(image.read_bytes())
    two = ["predict", str(image), str(other), *options[2:], "-o", str(tmp_path / "two")]
    assert "draws one input, but 2 are given" in error_of(capfd, two)


def test_proposals_that_cannot_be_drawn_are_refused_before_the_segmentation(
    image: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target, picture = tmp_path / "result.nii.gz", tmp_path / "proposals.png"
    options = ["-o", str(target), "-m", model, "--proposals", str(picture)]
    boxes = tmp_path / "boxes.mrk.json"
    write_boxes([], boxes)
    assert "one --model" in error_of(capfd, ["predict", str(image), *options, "-m", model])
    assert "--boxes" in error_of(capfd, ["predict", str(image), *options, "--boxes", str(boxes)])
    jpeg = ["predict", str(image), *options, "--proposals", str(tmp_path / "proposals.jpg")]
    assert "end the name of" in error_of(capfd, jpeg)
    assert not target.exists() and not picture.exists()


def test_the_proposals_of_an_roi_are_drawn(image: Path, model: str, tmp_path: Path):
    volume = read_volume(image)
    centre = (volume.ijk_to_ras @ np.array([10.5, 8.5, 3.5, 1]))[:3]
    roi = tmp_path / "roi.mrk.json"
    write_boxes([RasBox("ROI", tuple(centre), np.eye(3), (14.0, 12.0, 12.0))], roi)
    drawn = []
    for name, more in (("whole", []), ("part", ["--roi", str(roi)])):
        picture = tmp_path / f"{name}.png"
        options = ["-o", str(tmp_path / f"{name}.nii.gz"), "-m", model, "--proposals", str(picture)]
        assert main(["predict", str(image), *options, *more]) == 0
        drawn.append(picture.read_bytes())
    assert drawn[0] != drawn[1]
