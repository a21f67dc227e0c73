"""Bad files of ten kinds found in cohorts, none of which can be segmented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.helpers.dicom import oblique_matrix, write_slices
from Testing.helpers.generated import generated_case


def _image() -> np.ndarray:
    return generated_case(7, (8, 14, 16))[0]


def _empty(stem: Path) -> None:
    stem.with_suffix(".nii.gz").write_bytes(b"")


def _cut(stem: Path) -> None:
    path = stem.with_suffix(".nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(_image()), str(path))
    path.write_bytes(path.read_bytes()[:-200])


def _page(stem: Path) -> None:
    stem.with_suffix(".nii.gz").write_bytes(b"<!DOCTYPE html><html>404</html>")


def _pointer(stem: Path) -> None:
    stem.with_suffix(".nii.gz").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    )


def _link(stem: Path) -> None:
    stem.with_suffix(".nii.gz").symlink_to(stem.with_name("nowhere.nii.gz"))


def _nan(stem: Path) -> None:
    image = _image()
    image[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(image), str(stem.with_suffix(".mha")))


def _several_volumes(stem: Path) -> None:
    volumes = [sitk.GetImageFromArray(_image())] * 3
    sitk.WriteImage(sitk.JoinSeries(volumes), str(stem.with_suffix(".nii.gz")))


def _colours(stem: Path) -> None:
    colours = np.stack([_image().clip(0, 255).astype(np.uint8)] * 3, axis=-1)
    image = sitk.GetImageFromArray(colours, isVector=True)
    sitk.WriteImage(image, str(stem.with_suffix(".mha")))


def _spacing(stem: Path) -> None:
    path = stem.with_suffix(".mha")
    sitk.WriteImage(sitk.GetImageFromArray(_image()), str(path))
    path.write_bytes(
        path.read_bytes().replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 0")
    )


def _gap(stem: Path) -> None:
    slices = _image().clip(0).astype(np.uint16)
    write_slices(stem, slices, oblique_matrix(), series=f"1.2.{stem.name[-1]}")[4].unlink()


# For each kind, the function that writes a file, and a part of the reason shown to the user.
KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (_empty, "is an empty file"),
    "cut": (_cut, "is damaged or incomplete"),
    "page": (_page, "is a web page"),
    "pointer": (_pointer, "is a pointer of Git LFS"),
    "link": (_link, "does not exist"),
    "nan": (_nan, "NaN or infinite"),
    "several": (_several_volumes, "is a 4D image"),
    "colours": (_colours, "values per voxel (colour?)"),
    "spacing": (_spacing, "has voxels of size 0"),
    "gap": (_gap, "slices missing"),
}


def write_bad_files(folder: Path, each: int = 1) -> dict[str, str]:
    """Write bad files of all kinds; return a part of the expected reason for each case.

    Args:
        folder: folder for the files; each DICOM series is written to a subfolder.
        each: number of files of each kind, up to ten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for kind, (write, reason) in KINDS.items():
        for number in range(each):
            write(folder / f"{kind}_{number}")
            found[f"{kind}_{number}"] = reason
    return found
