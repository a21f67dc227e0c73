"""Conversion of the papers' datasets to nnU-Net folders."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.data.dataset import load_cases, open_dataset
from MaskSAMCore.data.splits import Fold, find_split
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from MaskSAMCore.research.conversion.convert import CONVERTERS, convert, summary
from Testing.helpers.json_documents import changed
from Testing.research.conversion.helpers import (
    AFFINE,
    SHAPE,
    acdc,
    amos22,
    btcv,
    decathlon,
    image,
    label_array,
    labelmap,
    nifti,
    prostate,
    write_folder,
    write_tar,
    write_zip,
)


def description(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "dataset.json").read_text(encoding="utf-8")))


def splits(folder: Path, name: str = "splits_final.json") -> list[dict[str, list[str]]]:
    return list(json.loads((folder / name).read_text(encoding="utf-8")))


def converted(kind: str, files: dict[str, bytes], folder: Path, **how: Any) -> list[str]:
    """Zip the files, convert the archive to ``folder``, and return the reported lines."""
    lines: list[str] = []
    source = write_zip(folder.with_suffix(".zip"), files)
    convert(kind, source, folder, report=lines.append, **how)
    return lines


def test_acdc_has_two_frames_of_each_patient_and_70_10_and_20_patients(tmp_path: Path):
    folder = tmp_path / "ACDC"
    files = acdc()
    files["database/testing/patient101/patient101_frame01.nii.gz"] = image()
    lines = converted("acdc", files, folder)
    dataset = open_dataset(folder)
    assert (len(dataset.cases), dataset.classes) == (160, ("RV", "MYO", "LV"))
    assert len(list((folder / "imagesTs").iterdir())) == 40
    assert len(list((folder / "labelsTs").iterdir())) == 40
    split, problems = find_split(dataset, None)
    assert not problems
    assert [len(split[side]) for side in ("train", "val")] == [140, 20]
    assert split["val"][:4] == [
        "patient089_frame01",
        "patient089_frame12",
        "patient090_frame04",
        "patient090_frame07",
    ]
    assert description(folder)["patients"]["patient090"] == [
        "patient090_frame04",
        "patient090_frame07",
    ]
    assert "Note: patients of the challenge's testing set are left out: 1" in lines


def test_synapse_has_eight_organs_and_12_of_30_cases_are_held_out(tmp_path: Path):
    folder = tmp_path / "Synapse"
    found = converted("synapse", btcv(), folder)
    dataset = open_dataset(folder)
    assert dataset.classes == (
        "spleen",
        "right kidney",
        "left kidney",
        "gallbladder",
        "liver",
        "stomach",
        "aorta",
        "pancreas",
    )
    labels = read_volume(folder / "labelsTr/img0001.nii.gz").array
    # The organs with the values 5, 9, 10, 12 and 13 become background.
    expected = label_array(1, 2, 3, 4, 0, 5, 6, 7, 0, 0, 8).transpose(2, 1, 0)
    np.testing.assert_array_equal(labels, expected)
    (split,) = splits(folder)
    assert [len(split[side]) for side in ("train", "val")] == [18, 12]
    assert split["val"][:5] == ["img0001", "img0002", "img0003", "img0004", "img0008"]
    assert "Note: 2 scans without labels are left out" in found


def test_btcv_has_thirteen_organs_and_the_six_test_cases_of_ma_sam(tmp_path: Path):
    folder = tmp_path / "BTCV"
    converted("btcv", btcv(), folder)
    assert len(open_dataset(folder).classes) == 13
    (split,) = splits(folder)
    assert len(split["train"]) == 24
    assert split["val"] == [f"img{number:04d}" for number in range(35, 41)]


def test_amos_has_five_folds_of_the_training_ct_scans(tmp_path: Path):
    folder = tmp_path / "AMOS"
    lines = converted("amos22", amos22(), folder, partial=True)
    dataset = open_dataset(folder)
    assert [case.name for case in dataset.cases] == [f"amos_{n:04d}" for n in range(1, 7)]
    folds = splits(folder)
    for index, fold in enumerate(folds):
        # The file holds the folds that nnU-Net, or training without the file, would make.
        (folder / "splits_final.json").unlink(missing_ok=True)
        assert find_split(dataset, None, Fold(index))[0] == fold
    assert len(folds) == 5
    assert sorted(path.name for path in (folder / "imagesVa").iterdir())[0] == (
        "amos_0008_0000.nii.gz"
    )
    assert len(list((folder / "imagesTs").iterdir())) == 2
    assert not (folder / "labelsTs").exists()
    assert "Note: 6 MR scans are left out: the paper uses CT" in lines
    assert "Missing: 194 of 200 CT scans of imagesTr" in lines


def test_the_prostate_dataset_has_six_sites_whose_zones_are_one_label(tmp_path: Path):
    folder = tmp_path / "Prostate"
    lines = converted("prostate", prostate(), folder, partial=True)
    assert "Missing: test cases UCL_34" not in lines
    (split,) = splits(folder)
    assert len(split["train"]) + len(split["val"]) == 116
    (site,) = splits(folder, "splits_HK.json")
    assert site["val"] == ["HK_38", "HK_41", "HK_46"]
    assert len(site["train"]) == 9
    two_zones = read_volume(folder / "labelsTr/BMC_00.nii.gz").array
    assert (two_zones == label_array(1, 1).transpose(2, 1, 0)).all()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_task_of_the_decathlon_is_converted_from_its_tar_file(tmp_path: Path, mode: str):
    source = write_tar(tmp_path / "Task09_Toy.tar", decathlon(), mode)
    found = convert("msd", source, tmp_path / "Toy", report=lambda _: None)
    dataset = open_dataset(tmp_path / "Toy")
    assert (dataset.classes, dataset.channels) == (("Anterior", "Posterior"), ("MR0",))
    assert [case.name for case in dataset.cases] == ["toy_001", "toy_003"]
    assert len(list((tmp_path / "Toy/imagesTs").iterdir())) == 1
    assert summary(found) == "Toy: cases: 2 training and validation, 1 test without labels"


@pytest.mark.parametrize("scaled", [False, True])
def test_channels_of_a_4d_image_become_files_with_its_voxels_and_its_place(
    tmp_path: Path, scaled: bool
):
    files = decathlon(channels=2)
    numbers = np.arange(2 * np.prod(SHAPE), dtype=np.int16).reshape(*SHAPE, 2)
    factor = 1.0
    if scaled:
        factor = 0.5
        scan = nibabel.Nifti1Image(numbers, AFFINE)
        scan.header.set_slope_inter(factor, 0)
        content = bytearray(scan.to_bytes())
        content[112:116] = np.float32(factor).tobytes()  # scl_slope, which to_bytes resets
        for name in files:
            if "/images" in name and "._" not in name:
                files[name] = gzip.compress(bytes(content))
    lines = converted("msd", files, tmp_path / "Toy")
    (case,) = load_cases(open_dataset(tmp_path / "Toy"), ["toy_003"])
    for channel, volume in enumerate(case.channels):
        expected = factor * numbers[..., channel].transpose(2, 1, 0)
        np.testing.assert_array_equal(volume.array, expected)
        np.testing.assert_allclose(volume.ijk_to_ras, AFFINE, atol=1e-5)
    assert not any(line.startswith("Note") for line in lines)


def test_files_of_the_archive_are_copied_byte_by_byte_where_nothing_changes(tmp_path: Path):
    source = write_folder(tmp_path / "RawData", btcv())
    convert("btcv", source, tmp_path / "BTCV", report=lambda _: None)
    assert (tmp_path / "BTCV/imagesTr/img0001_0000.nii.gz").read_bytes() == image()
    assert (tmp_path / "BTCV/labelsTr/img0001.nii.gz").read_bytes() == labelmap(*range(1, 14))


def test_plain_nifti_files_are_compressed(tmp_path: Path):
    files = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in btcv().items()}
    converted("btcv", files, tmp_path / "BTCV")
    packed = tmp_path / "BTCV/imagesTr/img0001_0000.nii.gz"
    assert gzip.decompress(packed.read_bytes()) == gzip.decompress(image())


def test_a_labelmap_with_turned_axes_stays_at_its_place(tmp_path: Path):
    files = btcv()
    array = label_array(1, 2, 3)
    turned = array[::-1].transpose(1, 0, 2)
    affine = AFFINE.copy()
    affine[:3, 3] += (SHAPE[0] - 1) * AFFINE[:3, 0]
    affine[:, :2] = np.stack([AFFINE[:, 1], -AFFINE[:, 0]], 1)
    files["RawData/Training/label/label0001.nii.gz"] = nifti(np.ascontiguousarray(turned), affine)
    lines = converted("btcv", files, tmp_path / "BTCV")
    found = read_volume(tmp_path / "BTCV/labelsTr/img0001.nii.gz")
    np.testing.assert_array_equal(found.array, array.transpose(2, 1, 0))
    np.testing.assert_allclose(found.ijk_to_ras, AFFINE, atol=1e-5)
    assert not any("elsewhere in space" in line for line in lines)


def test_a_labelmap_with_another_header_is_placed_on_its_image_and_noted(tmp_path: Path):
    files = btcv()
    array = label_array(1, 2, 3)
    files["RawData/Training/label/label0001.nii.gz"] = nifti(array, np.eye(4))
    lines = converted("btcv", files, tmp_path / "BTCV")
    found = read_volume(tmp_path / "BTCV/labelsTr/img0001.nii.gz")
    np.testing.assert_array_equal(found.array, array.transpose(2, 1, 0))
    np.testing.assert_allclose(found.ijk_to_ras, AFFINE, atol=1e-5)
    assert any("1 labelmaps put them elsewhere" in line and "img0001" in line for line in lines)


def test_what_is_missing_is_named_and_the_rest_converted_on_request(tmp_path: Path):
    files = acdc(range(1, 9))
    files.pop("database/training/patient004/Info.cfg")
    files.pop("database/training/patient005/patient005_frame01_gt.nii.gz")
    with pytest.raises(MaskSAMError, match="lacks 94 of 100 patients") as error:
        converted("acdc", files, tmp_path / "ACDC")
    assert "(patient004/Info.cfg, patient005_frame01_gt, " in str(error.value)
    assert "add --partial" in str(error.value)
    assert not (tmp_path / "ACDC").exists()
    lines = converted("acdc", files, tmp_path / "ACDC", partial=True)
    assert lines[0].startswith("Missing: ")
    assert len(open_dataset(tmp_path / "ACDC").cases) == 7
    assert "patient005" in description(tmp_path / "ACDC")["patients"]


@pytest.mark.parametrize("kind", sorted(CONVERTERS))
def test_an_archive_of_something_else_is_refused(tmp_path: Path, kind: str):
    with pytest.raises(MaskSAMError, match=r"has no file of .* such as"):
        converted(kind, {"a/b.txt": b"text"}, tmp_path / "new")
    with pytest.raises(MaskSAMError, match=r"give inner/RawData.zip in it"):
        converted(kind, {"inner/RawData.zip": b"PK"}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labelmap(1, 77), r"labelsTr/img0003.nii.gz has values that are no label.*77"),
        (nifti(np.zeros((2, 2, 2), np.uint8)), r"labelsTr/img0003.nii.gz has .2, 2, 2. voxels"),
        (image()[:60], r"labelsTr/img0003.nii.gz"),
        (b"no image", r"labelsTr/img0003.nii.gz"),
    ],
)
def test_a_file_with_problems_is_named_and_nothing_is_left(
    tmp_path: Path, content: bytes, message: str
):
    files = {**btcv(), "RawData/Training/label/label0003.nii.gz": content}
    with pytest.raises(MaskSAMError, match=message) as error:
        converted("btcv", files, tmp_path / "BTCV")
    assert str(tmp_path) not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["BTCV.zip"]


def test_two_copies_of_a_scan_are_refused(tmp_path: Path):
    files = {**btcv(), "copy/img0001.nii.gz": image()}
    with pytest.raises(MaskSAMError, match=r"twice.*copy/img0001.nii.gz: give one copy"):
        converted("btcv", files, tmp_path / "BTCV")


def test_damaged_archives_are_refused(tmp_path: Path):
    source = write_zip(tmp_path / "a.zip", btcv())
    whole = source.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04"):
        source.write_bytes(content)
        with pytest.raises(MaskSAMError, match=r"a\.zip"):
            convert("btcv", source, tmp_path / "new")
    damaged = bytearray(whole)
    damaged[80:120] = bytes(40)
    source.write_bytes(damaged)
    with pytest.raises(MaskSAMError, match="cannot be read: it is damaged"):
        convert("btcv", source, tmp_path / "new", report=lambda _: None)
    source = write_tar(tmp_path / "b.tar.gz", decathlon(), "w:gz")
    source.write_bytes(source.read_bytes()[:-50])
    with pytest.raises(MaskSAMError, match=r"b\.tar\.gz"):
        convert("msd", source, tmp_path / "new", report=lambda _: None)
    assert not (tmp_path / "new").exists()
    with pytest.raises(MaskSAMError, match="does not exist"):
        convert("msd", tmp_path / "none", tmp_path / "new")


def test_no_path_of_an_archive_is_written_or_followed(tmp_path: Path):
    outside = tmp_path / "outside.nii.gz"
    outside.write_bytes(image())
    files = decathlon()
    described = json.loads(files["Task09_Toy/dataset.json"])
    described["training"].append({"image": "../../outside.nii.gz", "label": "../../outside.nii.gz"})
    files["Task09_Toy/dataset.json"] = json.dumps(described).encode()
    source = write_tar(tmp_path / "a.tar", {**files, "../../evil.nii.gz": image()})
    with tarfile.open(source, "a") as archive:
        link = tarfile.TarInfo("Task09_Toy/labelsTr/toy_009.nii.gz")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
    with pytest.raises(MaskSAMError, match="lacks 1 of 3 labelled cases"):
        convert("msd", source, tmp_path / "new", report=lambda _: None)
    convert("msd", source, tmp_path / "new", partial=True, report=lambda _: None)
    assert len(list((tmp_path / "new/labelsTr").iterdir())) == 2
    assert not list(tmp_path.parent.glob("evil*")) and not list(tmp_path.glob("evil*"))


def test_a_case_that_is_no_file_name_is_refused(tmp_path: Path):
    files = decathlon()
    described = json.loads(files["Task09_Toy/dataset.json"])
    described["test"] = ["./imagesTs/a b\\c.nii.gz"]
    files["Task09_Toy/dataset.json"] = json.dumps(described).encode()
    files["Task09_Toy/imagesTs/a b\\c.nii.gz"] = image()
    with pytest.raises(MaskSAMError, match="cannot be the name of a file"):
        converted("msd", files, tmp_path / "new")


def test_an_existing_folder_is_replaced_on_request_only(tmp_path: Path):
    (tmp_path / "BTCV").mkdir()
    with pytest.raises(MaskSAMError, match="exists"):
        converted("btcv", btcv(), tmp_path / "BTCV")
    for _ in range(2):
        converted("btcv", btcv(), tmp_path / "BTCV", overwrite=True)
        assert len(open_dataset(tmp_path / "BTCV").cases) == 30


def test_a_folder_that_is_no_dataset_is_not_replaced(tmp_path: Path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "notes.txt").write_text("precious")
    with pytest.raises(MaskSAMError, match=r"project is not replaced.*no dataset\.json"):
        converted("btcv", btcv(), tmp_path / "project", overwrite=True)
    assert (tmp_path / "project" / "notes.txt").read_text() == "precious"


def test_a_full_disk_is_reported_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(MaskSAMError, match=r"needs 0.0 GB, but its disk has 0.0 GB free"):
        converted("btcv", btcv(), tmp_path / "BTCV")
    assert not (tmp_path / "BTCV").exists()


def test_an_encrypted_zip_is_refused(tmp_path: Path):
    source = write_zip(tmp_path / "a.zip", btcv())
    content = bytearray(source.read_bytes())
    # Bit 0 of the flags says that a file is encrypted.
    for start in (i for i in range(len(content) - 4) if content[i : i + 4] == b"PK\x01\x02"):
        content[start + 8] |= 1
    source.write_bytes(content)
    with pytest.raises(MaskSAMError, match="damaged, incomplete or encrypted"):
        convert("btcv", source, tmp_path / "new", report=lambda _: None)


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.text(max_size=30), max_size=4),
    content=st.binary(max_size=40),
    kind=st.sampled_from(sorted(CONVERTERS)),
    wrapped=st.booleans(),
)
def test_any_archive_is_converted_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    content: bytes,
    kind: str,
    wrapped: bool,
):
    folder = tmp_path_factory.mktemp("any")
    stream = io.BytesIO()
    if wrapped:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("Task01_A/dataset.json", content)
            for name in {
                name.encode("utf-8", "replace").split(b"\0")[0].decode() for name in names
            }:
                archive.writestr(f"x{name}", content)
    (folder / "a.zip").write_bytes(stream.getvalue() or content)
    with pytest.raises(MaskSAMError):
        convert(kind, folder / "a.zip", folder / "new", report=lambda _: None)
    assert os.listdir(folder) == ["a.zip"]


@settings(max_examples=15, deadline=None)
@given(document=changed([json.loads(decathlon()["Task09_Toy/dataset.json"])]))
def test_any_description_of_a_task_is_read_or_refused(
    document: Any, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("any")
    files = {**decathlon(), "Task09_Toy/dataset.json": json.dumps(document).encode()}
    source = write_zip(folder / "a.zip", files)
    try:
        convert("msd", source, folder / "new", partial=True, report=lambda _: None)
    except MaskSAMError:
        assert os.listdir(folder) == ["a.zip"]
    else:
        assert open_dataset(folder / "new").cases
