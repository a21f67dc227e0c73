"""``masksam submission``: exactly one labelmap for each image of a phase."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from MaskSAMCore.cli import main
from Testing.cli.helpers import error_of
from Testing.helpers.generated import write_image


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of two scans: labelmaps in NRRD files, and images named as in nnU-Net."""
    labelmaps, images = tmp_path / "labelmaps", tmp_path / "imagesTs"
    for name in ("amos_0100", "amos_0410"):
        write_image(np.zeros((2, 3, 4), np.float32), images / f"{name}_0000.nii.gz")
        array = np.zeros((2, 3, 4), np.uint16)
        array[0, 0, 0] = 15
        write_image(array, labelmaps / f"{name}.nrrd")
    (labelmaps / "cases.csv").write_text("case")
    return labelmaps, images


def arguments(folders: tuple[Path, Path], target: Path) -> list[str]:
    labelmaps, images = map(str, folders)
    return ["submission", "amos22", labelmaps, "--images", images, "-o", str(target)]


def test_a_submission_has_a_labelmap_of_each_image(folders: tuple[Path, Path], tmp_path: Path):
    target = tmp_path / "new" / "amos.zip"
    assert main(arguments(folders, target)) == 0
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
        content = archive.read(names[0])
    assert names == ["results/amos_0100.nii.gz", "results/amos_0410.nii.gz"]
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    assert image.get_data_dtype() == np.uint8
    assert np.asanyarray(image.dataobj)[0, 0, 0] == 15
    assert main([*arguments(folders, target), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("imagesTs/amos_0500_0000.nii.gz", np.zeros((2, 3, 4)), "1 image(s) have no labelmap"),
        ("labelmaps/amos_0007.nii.gz", np.zeros((2, 3, 4)), "1 labelmap(s) have no image"),
        ("labelmaps/amos_0100.nii.gz", np.zeros((2, 3, 4)), "has the case 'amos_0100' twice"),
        ("labelmaps/amos_0100.nrrd", np.zeros((2, 3, 5)), "does not lie on the grid of"),
        ("labelmaps/amos_0100.nrrd", np.full((2, 3, 4), 16), "no class of AMOS22: [16]"),
    ],
)
def test_what_the_server_would_refuse_is_reported(
    folders: tuple[Path, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    file: str,
    array: np.ndarray,
    message: str,
):
    write_image(array.astype(np.uint8), tmp_path / file)
    target = tmp_path / "new" / "amos.zip"
    assert message in error_of(capfd, arguments(folders, target))
    assert not target.parent.exists()


def test_a_submission_is_not_written_among_its_inputs(
    folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
):
    target = folders[0] / "amos.zip"
    assert "input" in error_of(capfd, arguments(folders, target))
