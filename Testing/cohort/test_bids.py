"""BIDS datasets: images chosen by suffix, and results written as a derivative dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from MaskSAMCore.cohort.bids import check_derivatives, write_derivatives
from MaskSAMCore.cohort.cases import find_cases
from MaskSAMCore.errors import MaskSAMError
from Testing.helpers.threshold_model import LABELS

FILES = (
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.json",
    "sub-01/ses-2/anat/sub-01_ses-2_acq-3d_run-1_T1w.nii.gz",
    "sub-01/ses-2/func/sub-01_ses-2_task-rest_bold.nii.gz",
    "sub-02/anat/sub-02_T1w.nii",
    "derivatives/other/sub-02/anat/sub-02_T1w.nii.gz",
    "sourcedata/sub-02/anat/sub-02_T1w.nii.gz",
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "bids" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "bids"


def test_anatomical_images_of_the_suffix_are_the_cases(dataset: Path, tmp_path: Path):
    found = find_cases([dataset], tmp_path / "out", 1, "nii.gz")
    assert {case.name: case.output.relative_to(tmp_path).as_posix() for case in found.cases} == {
        "sub-01_ses-1_T1w": "out/sub-01/ses-1/anat/sub-01_ses-1_space-orig_desc-T1w_dseg.nii.gz",
        "sub-01_ses-2_acq-3d_run-1_T1w": "out/sub-01/ses-2/anat/"
        "sub-01_ses-2_acq-3d_run-1_space-orig_desc-T1w_dseg.nii.gz",
        "sub-02_T1w": "out/sub-02/anat/sub-02_space-orig_desc-T1w_dseg.nii.gz",
    }
    assert not found.left_out
    assert found.bids == found.folders == (dataset,)


def test_two_images_of_one_name_are_refused(dataset: Path, tmp_path: Path):
    (dataset / "sub-02/anat/sub-02_T1w.nii.gz").write_bytes(b"")
    with pytest.raises(MaskSAMError, match=r"sub-02_T1w.nii and .*.gz are two images of one name"):
        find_cases([dataset], tmp_path / "out", 1, "nii.gz")


def test_several_suffixes_are_as_many_cases_or_the_channels_of_one(dataset: Path, tmp_path: Path):
    out, both = tmp_path / "out", ("T1w", "T2w")
    separate = find_cases([dataset], out, 1, "nii.gz", both).cases
    assert [case.name for case in separate].count("sub-01_ses-1_T2w") == 1
    assert len(separate) == len({case.output for case in separate}) == 4
    found = find_cases([dataset], out, 2, "nii.gz", both)
    (case,) = found.cases
    assert [path.name for path in case.paths] == [
        "sub-01_ses-1_T1w.nii.gz",
        "sub-01_ses-1_T2w.nii.gz",
    ]
    assert [one.name for one in found.left_out] == ["sub-01_ses-2_acq-3d_run-1", "sub-02"]
    assert all("no image with the suffix T2w" in one.reason for one in found.left_out)


@pytest.mark.parametrize(
    ("suffixes", "channels", "message"),
    [
        (("T3w",), 1, r"no anatomical image named \*_T3w.nii.gz"),
        (("T1w.nii.gz",), 1, "is no BIDS suffix"),
        (("*",), 1, "is no BIDS suffix"),
        (("T1w",), 2, "takes 2 images a case"),
    ],
)
def test_suffixes_that_do_not_fit_are_refused(
    suffixes: tuple[str, ...], channels: int, message: str, dataset: Path, tmp_path: Path
):
    with pytest.raises(MaskSAMError, match=message):
        find_cases([dataset], tmp_path / "out", channels, "nii.gz", suffixes)


def test_results_are_a_dataset_of_derivatives(dataset: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    write_derivatives(out, [dataset], LABELS, "small", "1.2")
    description = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Version"] == "1.2"
    assert description["SourceDatasets"] == [{"URL": dataset.resolve().as_uri()}]
    lines = (out / "dseg.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["index\tname\tcolor", "1\tAnterior\t#ff0000", "2\tPosterior\t#00ff00"]
    check_derivatives(out, [dataset], LABELS)


def test_results_do_not_join_the_images_of_a_dataset(dataset: Path, tmp_path: Path):
    with pytest.raises(MaskSAMError, match="not of derivatives"):
        check_derivatives(dataset, [dataset], LABELS)
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset_description.json").write_text('{"Name": "raw"}', encoding="utf-8")
    with pytest.raises(MaskSAMError, match="not of derivatives"):
        check_derivatives(other, [dataset], LABELS)


def test_results_of_other_classes_are_not_renamed(dataset: Path, tmp_path: Path):
    write_derivatives(tmp_path, [dataset], LABELS, "small", "1.2")
    table = tmp_path / "dseg.tsv"
    written = table.read_text(encoding="utf-8")
    others = (replace(LABELS[0], name="Nose"), LABELS[1])
    with pytest.raises(MaskSAMError, match="other classes"):
        check_derivatives(tmp_path, [dataset], others)
    check_derivatives(tmp_path, [dataset], others, overwrite=True)
    # Columns that a user has added stay.
    extended = "".join(f"{line}\tx\n" for line in written.splitlines())
    table.write_text(extended, encoding="utf-8")
    check_derivatives(tmp_path, [dataset], LABELS)
    write_derivatives(tmp_path, [dataset], LABELS, "small", "1.2")
    assert table.read_text(encoding="utf-8") == extended
    write_derivatives(tmp_path, [dataset], others, "small", "1.2")
    assert "Nose" in table.read_text(encoding="utf-8")
