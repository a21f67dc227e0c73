"""Reading and writing of images: NIfTI by :mod:`MaskSAMCore.io.nifti`, others with SimpleITK.

SimpleITK's LPS is converted to RAS here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError, is_out_of_memory
from MaskSAMCore.geometry import LPS_TO_RAS, Volume
from MaskSAMCore.io.companions import is_text_header, lacks_voxels
from MaskSAMCore.io.deflated import check_deflated
from MaskSAMCore.io.dicom import read_dicom
from MaskSAMCore.io.dicom_files import is_dicom
from MaskSAMCore.io.files import WRITTEN_SUFFIXES, atomic_file, image_stem, is_segmentation_name
from MaskSAMCore.io.nifti import is_nifti, read_nifti, write_nifti
from MaskSAMCore.io.orientation import (
    RIGHT_ANGLE_TOLERANCE,
    check_voxel_size,
    rectangular_matrix,
    shear,
)
from MaskSAMCore.io.scaling import scaled
from MaskSAMCore.io.segmentations import segment_metadata
from MaskSAMCore.io.standard_streams import silent_stderr
from MaskSAMCore.io.text_headers import read_header_facts
from MaskSAMCore.labels import Label

_LPS_TO_RAS = LPS_TO_RAS[:3, :3]
# Types that image formats cannot store, and the types that replace them.
_STORED_TYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.uint8),
    "float16": np.dtype(np.float32),
}
_NIFTI_SUFFIXES = (".nii", ".nii.gz")
# Starts of files that stand in for an image, in lower case, and messages for the user.
_STAND_INS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the image: run 'git lfs pull'",
    b"/annex/objects/": "is a pointer of git-annex, not the image: run 'git annex get'",
    b"<!doctype html": "is a web page, not an image: download the image again",
    b"<html": "is a web page, not an image: download the image again",
}
# The libraries of some formats truncate or refuse longer paths.
_LONGEST_PATH = 250


def read_volume(path: Path | str, only: Sequence[Path] = ()) -> Volume:
    """Read an image file, multi-frame DICOM included, or a folder with one DICOM series.

    NaN and infinite voxels, which some programs put outside the body, are read as 0 from NIfTI
    files and refused in other formats.

    Args:
        path: image file or folder.
        only: files of the DICOM series, if the folder also holds others; by default all files.

    Returns:
        Volume with the voxel type of the file, the file name without suffix as its name, and notes
        about doubts in the file.

    Raises:
        MaskSAMError: the path does not exist, cannot be read, is damaged or empty, is not a 3D
            grey-level image, has sheared axes, or has voxels that are complex, NaN or infinite.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise MaskSAMError(f"{path} does not exist")
        if not path.is_dir() and path.stat().st_size == 0:
            raise MaskSAMError(f"{path} is an empty file")
        if not path.is_dir() and not path.is_file():
            raise MaskSAMError(f"{path} is a device, not a file")
        dicom = path.is_dir() or is_dicom(path)
        volume = _read_dicom(path, only) if dicom else _read_file(path)
    except (OSError, MemoryError) as error:
        raise MaskSAMError(f"{path} cannot be read: {_reason(error)}") from error
    array = volume.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise MaskSAMError(f"{path} has {count} voxels that are NaN or infinite: replace them")
    return volume


def _read_file(path: Path) -> Volume:
    with open(path, "rb") as file:
        start = file.read(64).lstrip().lower()
    for beginning, message in _STAND_INS.items():
        if start.startswith(beginning):
            raise MaskSAMError(f"{path} {message}")
    if is_nifti(path):
        return read_nifti(path)
    facts = read_header_facts(path)
    volume = _volume(path, _read_image(path), facts.to_mm)
    if facts.deflated is not None:
        check_deflated(volume.array, facts.deflated)
    array = scaled(volume.array, facts.slope, facts.intercept)
    return replace(volume, array=array, notes=(*facts.notes, *volume.notes))


def _read_dicom(path: Path, only: Sequence[Path]) -> Volume:
    with _silent_libraries():
        return read_dicom(path, only)


def _read_image(path: Path) -> sitk.Image:
    # SimpleITK detects MetaImage files only if their suffix is in lower case.
    meta_image = path.suffix.lower() in (".mha", ".mhd")
    try:
        with _plain_path(path) as plain, _silent_libraries():
            return sitk.ReadImage(plain, imageIO="MetaImageIO" if meta_image else "")
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        if "change spacing" in str(error) or "determinant" in str(error):
            raise MaskSAMError(
                f"{path} has voxels of size 0 or axes that are not independent: correct its header"
            ) from error
        if lacks_voxels(path):
            raise MaskSAMError(
                f"{path} is only a header: its voxels are missing beside it"
            ) from error
        raise MaskSAMError(
            f"{path} cannot be read as an image (NIfTI, NRRD, MetaImage or DICOM): it may be"
            " damaged, incomplete or in another format"
        ) from error


def _volume(path: Path, image: sitk.Image, to_mm: NDArray[np.float64]) -> Volume:
    """Return the volume of a SimpleITK image.

    Args:
        path: file or folder that the image was read from.
        image: image of any dimension and type.
        to_mm: (3,), see :class:`HeaderFacts`.

    Raises:
        MaskSAMError: the image is not a 3D grey-level image, or its axes are sheared.
    """
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1:
        if is_segmentation_name(path):
            raise MaskSAMError(f"{path} has segments that overlap: export it without overlaps")
        raise MaskSAMError(
            f"{path} has {components} values per voxel (colour?): give a grey-level image"
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise MaskSAMError(f"{path} is a {image.GetDimension()}D image: give a single 3D volume")
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise MaskSAMError(f"{path} has complex voxels: give the magnitude image")
    direction = np.array(image.GetDirection(), dtype=float).reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = _LPS_TO_RAS @ direction @ np.diag(image.GetSpacing())
    matrix[:3, 3] = _LPS_TO_RAS @ np.array(image.GetOrigin())
    matrix[:3] *= to_mm[:, None]
    check_voxel_size(matrix, path)
    matrix, notes = rectangular_matrix(matrix, array.shape, path)
    return Volume(array, matrix, image_stem(path), notes=notes)


def to_image(array: NDArray[Any], ijk_to_ras: NDArray[np.float64], vector: bool = False) -> Any:
    """Return a SimpleITK image of an array at its place in space.

    Args:
        array: [K, J, I], or [K, J, I, components] with ``vector``.
        ijk_to_ras: 4 x 4 matrix from voxel indices to RAS mm.
        vector: whether the last axis holds the components of each voxel.

    Raises:
        MaskSAMError: the array is empty or has NaN, infinite or complex voxels, or the axes are
            sheared, which image formats cannot store.
    """
    array = _storable(array, ijk_to_ras)
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    direction = _LPS_TO_RAS @ ijk_to_ras[:3, :3] / spacing
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vector)
    image.SetSpacing([float(v) for v in spacing])
    image.SetDirection([float(v) for v in direction.ravel()])
    image.SetOrigin([float(v) for v in _LPS_TO_RAS @ ijk_to_ras[:3, 3]])
    return image


def _storable(array: NDArray[Any], ijk_to_ras: NDArray[np.float64]) -> NDArray[Any]:
    """Return an array in a type that image formats store, in the byte order of the processor.

    Raises:
        MaskSAMError: see :func:`to_image`.
    """
    if array.size == 0:
        raise MaskSAMError("the volume has no voxels: there is nothing to write")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise MaskSAMError(f"voxels of type {array.dtype} cannot be written")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MaskSAMError("the volume has NaN or infinite voxels, which cannot be written")
    if shear(ijk_to_ras) > RIGHT_ANGLE_TOLERANCE:
        raise MaskSAMError("the volume has sheared axes, which image files cannot store")
    native = array.dtype.newbyteorder("=")
    return array.astype(_STORED_TYPES.get(array.dtype.name, native), copy=False)


def write_volume(volume: Volume, path: Path | str, overwrite: bool = False) -> None:
    """Write a volume in the format of the path's suffix, complete or not at all.

    A NIfTI file keeps the qform and sform of the NIfTI file that the volume was read from, if any;
    all lengths are in mm.

    Raises:
        MaskSAMError: the file exists, or cannot be written.
    """
    _write(volume.array, volume, Path(path), overwrite)


def write_labelmap(
    labelmap: NDArray[np.integer],
    volume: Volume,
    path: Path | str,
    labels: Sequence[Label],
    overwrite: bool = False,
) -> None:
    """Write a labelmap on the grid of a volume, complete or not at all.

    Args:
        labelmap: integers [K, J, I], values 0 to 65535.
        volume: volume whose grid the labelmap lies on.
        path: file to write. The suffix ``.seg.nrrd`` gives a segmentation with names, colours and
            terminology, as 3D Slicer itself writes it; other suffixes give a plain labelmap.
        labels: classes of the labelmap.
        overwrite: whether an existing file may be replaced.

    Raises:
        MaskSAMError: the file exists or cannot be written, or the labelmap has another shape than
            the volume, values out of range, or numbers that are no integers.
    """
    path = Path(path)
    if labelmap.shape != volume.array.shape:
        raise MaskSAMError(
            f"the labelmap has shape {labelmap.shape}, the grid of the volume {volume.array.shape}"
        )
    if labelmap.dtype.kind not in "biu" and not (labelmap == np.rint(labelmap)).all():
        raise MaskSAMError("a labelmap must have integers, this one has other numbers")
    lowest, highest = labelmap.min(initial=0), labelmap.max(initial=0)
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise MaskSAMError(
            f"a labelmap must have values from 0 to 65535, this one has {lowest} to {highest}"
        )
    smallest = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    segments = is_segmentation_name(path)
    metadata = segment_metadata(labelmap, labels) if segments else {}
    _write(labelmap.astype(smallest, copy=False), volume, path, overwrite, metadata)


def write_probabilities(
    probabilities: NDArray[np.float32], volume: Volume, path: Path | str, overwrite: bool = False
) -> None:
    """Write class probabilities as one image with a component per class.

    Args:
        probabilities: (classes + 1, K, J, I), the background first.
        volume: volume whose grid the probabilities lie on.
        path: file to write.
        overwrite: whether an existing file may be replaced.

    Raises:
        MaskSAMError: the file exists, or cannot be written.
    """
    _write(probabilities, volume, Path(path), overwrite)


def _write(
    array: NDArray[Any],
    volume: Volume,
    path: Path,
    overwrite: bool,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an array [K, J, I] or [components, K, J, I] on the grid of a volume."""
    if not path.name.lower().endswith(WRITTEN_SUFFIXES):
        raise MaskSAMError(
            f"cannot write {path}: its name must end in {', '.join(WRITTEN_SUFFIXES)}"
        )
    nifti = path.name.lower().endswith(_NIFTI_SUFFIXES)
    if nifti:
        array = _storable(array, volume.ijk_to_ras)
    else:
        vector = array.ndim == 4
        image = to_image(
            np.moveaxis(array, 0, -1) if vector else array, volume.ijk_to_ras, vector=vector
        )
        for key, value in (metadata or {}).items():
            image.SetMetaData(key, value)
    with atomic_file(path, overwrite) as temporary:
        if nifti:
            same = write_nifti(array, volume.ijk_to_ras, volume.orientation, temporary)
        else:
            same = _write_image(image, temporary)
        if not same:
            raise MaskSAMError(f"cannot write {path}: the disk may be full or damaged")


def _write_image(image: sitk.Image, path: Path) -> bool:
    """Write an image with SimpleITK; return whether it was read back unchanged."""
    # The writers recognize a format only by a suffix in lower case.
    name = f"image{path.suffix.lower()}"
    with _plain_path(path.parent) as folder, _silent_libraries():
        written = Path(folder, name)
        try:
            sitk.WriteImage(image, str(written), useCompression=True)
            # Some writers do not notice a full disk, so the file is read back.
            same = sitk.Hash(sitk.ReadImage(str(written))) == sitk.Hash(image)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            return False
    path.with_name(name).replace(path)
    return same


@contextmanager
def _plain_path(path: Path) -> Iterator[str]:
    """Yield a path that SimpleITK can open: the path itself, or a temporary link to it.

    SimpleITK ends the process on file names that are not UTF-8; Windows has no such names.
    """
    if os.name == "nt" or _is_plain(str(path.absolute())):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="masksam-") as folder:
        suffix = path.suffix if _is_plain(path.suffix) else ""
        link = Path(folder, f"image{suffix}")
        link.symlink_to(path.absolute())
        if is_text_header(path):  # its voxels are in files beside it
            for beside in path.absolute().parent.iterdir():
                if _is_plain(beside.name):
                    with suppress(FileExistsError):
                        Path(folder, beside.name).symlink_to(beside)
        yield str(link)


def _is_plain(name: str) -> bool:
    try:
        return len(name.encode("utf-8")) <= _LONGEST_PATH
    except UnicodeEncodeError:
        return False


def _reason(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than there is: close other programs"
    return (error.strerror or str(error)).lower()


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Discard the output of SimpleITK and its libraries to standard error.

    Some of them write to the file descriptor itself, so it is redirected.
    """
    with silent_stderr():
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)
