"""Small look-alikes of the papers' datasets, in the layouts of their archives."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np

from MaskSAMCore.research.conversion.prostate import SITES

SHAPE = (5, 4, 3)  # voxels along I, J, K
_C, _S = np.cos(0.2), np.sin(0.2)
# The grid is oblique, left-handed and anisotropic.
AFFINE = np.array([[-_C, -_S, 0, 0], [_S, -_C, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
AFFINE = AFFINE @ np.diag([1.5, -1.4, 10, 1])
AFFINE[:3, 3] = 9, -7, 3


def nifti(array: np.ndarray, affine: np.ndarray = AFFINE, packed: bool = True) -> bytes:
    """Return the bytes of a NIfTI file with voxels [I, J, K] or [I, J, K, channel]."""
    content = nibabel.Nifti1Image(array, affine).to_bytes()
    return gzip.compress(content, 1, mtime=0) if packed else content


@lru_cache(maxsize=8)
def image(seed: int = 0) -> bytes:
    """Return the bytes of an image file."""
    rng = np.random.default_rng(seed)
    return nifti(rng.integers(-900, 900, SHAPE).astype(np.int16))


@lru_cache(maxsize=8)
def labelmap(*values: int) -> bytes:
    """Return the bytes of a labelmap file with a voxel of each value."""
    return nifti(label_array(*values))


def label_array(*values: int) -> np.ndarray:
    """Return a labelmap [I, J, K] with a voxel of each value."""
    array = np.zeros(SHAPE, np.uint8)
    array.reshape(-1)[: len(values)] = values
    return array


def acdc(patients: Sequence[int] = range(1, 101)) -> dict[str, bytes]:
    """Return the files of ACDC's archive."""
    files = {"database/MANDATORY_CITATION.md": b"cite"}
    for number in patients:
        folder = f"database/training/patient{number:03d}"
        late = 7 + number % 6
        # In patient 90 the end-diastolic frame comes last.
        diastole, systole = (late, 4) if number == 90 else (1, late)
        information = f"ED: {diastole}\nES: {systole}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n"
        files[f"{folder}/Info.cfg"] = information.encode()
        files[f"{folder}/patient{number:03d}_4d.nii.gz"] = b"four dimensions"
        for frame in (diastole, systole):
            stem = f"{folder}/patient{number:03d}_frame{frame:02d}"
            files[f"{stem}.nii.gz"] = image()
            files[f"{stem}_gt.nii.gz"] = labelmap(1, 2, 3)
    return files


def btcv() -> dict[str, bytes]:
    """Return the files of ``RawData.zip``."""
    files = {}
    for number in (*range(1, 11), *range(21, 41)):
        files[f"RawData/Training/img/img{number:04d}.nii.gz"] = image()
        files[f"RawData/Training/label/label{number:04d}.nii.gz"] = labelmap(*range(1, 14))
    for number in (61, 62):
        files[f"RawData/Testing/img/img{number:04d}.nii.gz"] = image()
    return files


def amos22(training: int = 6, mr: int = 2) -> dict[str, bytes]:
    """Return files of ``amos22.zip``: a few CT and MR scans of each part."""
    files = {"amos22/dataset.json": b"{}", "amos22/readme.md": b"read me"}
    parts = (("Tr", range(1, training + 1)), ("Va", (8, 9)), ("Ts", (100, 410)))
    for part, numbers in parts:
        for number in (*numbers, *range(507, 507 + mr)):
            files[f"amos22/images{part}/amos_{number:04d}.nii.gz"] = image()
            if part != "Ts":
                files[f"amos22/labels{part}/amos_{number:04d}.nii.gz"] = labelmap(*range(1, 16))
    return files


def prostate() -> dict[str, bytes]:
    """Return the files of the prostate dataset; some labelmaps have two zones."""
    first = {"HK": 38}
    tested = {"UCL": (1, *range(25, 37))}
    files = {}
    for site, (count, _) in SITES.items():
        start = first.get(site, 0)
        for number in tested.get(site, range(start, start + count)):
            stem = f"Processed_data_nii/{site}/Case{number:02d}"
            word = "Segmentation" if site == "BMC" else "segmentation"
            files[f"{stem}.nii.gz"] = image()
            files[f"{stem}_{word}.nii.gz"] = labelmap(1, 2) if site == "BMC" else labelmap(1)
    return files


def decathlon(channels: int = 1) -> dict[str, bytes]:
    """Return the files of a Decathlon task, with the extra files that macOS leaves in archives."""
    shape = SHAPE if channels == 1 else (*SHAPE, channels)
    numbers = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    description = {
        "name": "Toy",
        "reference": "a paper",
        "modality": {str(index): f"MR{index}" for index in range(channels)},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [
            {"image": f"./imagesTr/toy_{n:03d}.nii.gz", "label": f"./labelsTr/toy_{n:03d}.nii.gz"}
            for n in (1, 3)
        ],
        "test": ["./imagesTs/toy_002.nii.gz"],
    }
    files = {"Task09_Toy/dataset.json": json.dumps(description).encode()}
    for part, case in (("Tr", 1), ("Tr", 3), ("Ts", 2)):
        files[f"Task09_Toy/images{part}/toy_{case:03d}.nii.gz"] = nifti(numbers)
        files[f"Task09_Toy/images{part}/._toy_{case:03d}.nii.gz"] = b"macOS"
    for case in (1, 3):
        files[f"Task09_Toy/labelsTr/toy_{case:03d}.nii.gz"] = labelmap(1, 2)
    return files


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a zip file."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    """Write a tar file."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write the folder that an archive is extracted to."""
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path
