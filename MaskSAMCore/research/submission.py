"""Files for the server of the AMOS22 challenge (amos22.grand-challenge.org/Evaluation).

A submission is one zip file with a folder ``results`` that holds exactly one labelmap, such as
``amos_0008.nii.gz``, for each image of the phase, on the image's own grid.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation import labelmaps_in
from MaskSAMCore.geometry import SAME_GRID_MM
from MaskSAMCore.io import read_volume, write_labelmap
from MaskSAMCore.io.files import atomic_file
from MaskSAMCore.io.labelmaps import read_labelmap

FOLDER = "results"
# Classes of AMOS22 besides the background.
_CLASSES = 15
# End of the name of an image with one channel in an nnU-Net folder.
_CHANNEL = "_0000"
_LISTED = 5


def write_amos_submission(
    labelmaps: Path, images: Path, path: Path, overwrite: bool = False
) -> int:
    """Write the zip file of a submission, complete or not at all.

    Args:
        labelmaps: folder of the predicted labelmaps.
        images: folder of the images of the phase, such as ``imagesTs``.
        path: zip file to write.
        overwrite: whether an existing file may be replaced.

    Returns:
        Number of labelmaps.

    Raises:
        MaskSAMError: images and labelmaps do not match one to one, a case has two files, a labelmap
            lies on another grid than its image or has values that are no class, or the zip file
            cannot be written.
    """
    found = _by_case(labelmaps)
    wanted = {name.removesuffix(_CHANNEL): file for name, file in _by_case(images).items()}
    if not wanted:
        raise MaskSAMError(f"{images} holds no image")
    for lacking, of, where in (
        (sorted(set(wanted) - set(found)), "image", labelmaps),
        (sorted(set(found) - set(wanted)), "labelmap", images),
    ):
        if lacking:
            more = ", ..." if len(lacking) > _LISTED else ""
            other = "labelmap" if of == "image" else "image"
            raise MaskSAMError(
                f"{len(lacking)} {of}(s) have no {other} in {where}:"
                f" {', '.join(lacking[:_LISTED])}{more}"
            )
    with (
        atomic_file(path, overwrite) as temporary,
        tempfile.TemporaryDirectory(prefix="masksam-") as folder,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for name in sorted(wanted):
            file = Path(folder) / f"{name}.nii.gz"
            _write_checked(found[name], wanted[name], file)
            archive.write(file, f"{FOLDER}/{file.name}")
            file.unlink()
    return len(wanted)


def _by_case(folder: Path) -> dict[str, Path]:
    """Return the images or labelmaps of a folder by the names of their cases."""
    if not folder.is_dir():
        raise MaskSAMError(f"{folder} is not a folder")
    return {name: path for name, path in labelmaps_in(folder).items() if path.parent == folder}


def _write_checked(labelmap: Path, image: Path, file: Path) -> None:
    """Write a labelmap as 8-bit NIfTI, after comparing it with its image.

    Raises:
        MaskSAMError: the labelmap lies on another grid than its image, or has values that are no
            class.
    """
    volume = read_labelmap(labelmap)
    if not volume.same_grid(read_volume(image), SAME_GRID_MM):
        raise MaskSAMError(f"{labelmap} does not lie on the grid of {image}")
    unknown = [int(value) for value in np.unique(volume.array) if not 0 <= value <= _CLASSES]
    if unknown:
        raise MaskSAMError(
            f"{labelmap} has values that are no class of AMOS22: {unknown[:_LISTED]}"
        )
    write_labelmap(volume.array, volume, file, ())
