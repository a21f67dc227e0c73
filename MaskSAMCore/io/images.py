"""Reading and writing of images with SimpleITK, whose LPS is converted to RAS here."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io.dicom import read_series
from MaskSAMCore.io.files import WRITTEN_SUFFIXES, atomic_file, image_stem
from MaskSAMCore.io.segmentations import segment_metadata
from MaskSAMCore.labels import Label

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_ORTHONORMAL_TOLERANCE = 1e-4
# Types that image formats cannot store, and the types that replace them.
_STORED_TYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.uint8),
    "float16": np.dtype(np.float32),
}
_GZIP_BLOCK_BYTES = 1 << 22

_stderr_lock = RLock()


def read_volume(path: Path | str) -> Volume:
    """Read an image file, or a folder that holds one DICOM series.

    NaN and infinite voxels, which some programs put outside the body, are read as 0 from NIfTI
    files and refused in other formats.

    Returns:
        Volume with the voxel type of the file; its name is the file name without suffix.

    Raises:
        MaskSAMError: the path does not exist, is not a 3D grey-level image, or has voxels that are
            complex, NaN or infinite.
    """
    path = Path(path)
    if not path.exists():
        raise MaskSAMError(f"{path} does not exist")
    with _silent_stderr():
        image = _read_series(path) if path.is_dir() else _read_file(path)
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1:
        raise MaskSAMError(
            f"{path} has {components} values per voxel (colour?): give a grey-level image"
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise MaskSAMError(f"{path} is a {image.GetDimension()}D image: give a single 3D volume")
    _check_complete(path, image)
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise MaskSAMError(f"{path} has complex voxels: give the magnitude image")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise MaskSAMError(f"{path} has {count} voxels that are NaN or infinite: replace them")
    return Volume(array, _ijk_to_ras(image), image_stem(path))


def _read_file(path: Path) -> sitk.Image:
    if path.stat().st_size == 0:
        raise MaskSAMError(f"{path} is an empty file")
    # SimpleITK detects MetaImage files only if their suffix is in lower case.
    meta_image = path.suffix.lower() in (".mha", ".mhd")
    try:
        return sitk.ReadImage(str(path), imageIO="MetaImageIO" if meta_image else "")
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise MaskSAMError(
                f"{path} has sheared axes: resample it to a rectangular grid"
            ) from error
        raise MaskSAMError(
            f"{path} cannot be read as an image (NIfTI, NRRD, MetaImage or DICOM): it may be"
            " damaged, incomplete or in another format"
        ) from error


def _read_series(folder: Path) -> sitk.Image:
    try:
        return read_series(folder)
    except RuntimeError as error:
        raise MaskSAMError(f"the DICOM series in {folder} cannot be read") from error


def _check_complete(path: Path, image: sitk.Image) -> None:
    """Check that a NIfTI file holds all voxels of the image that was read from it.

    SimpleITK fills up a truncated NIfTI file with zeros; other readers raise by themselves.

    Raises:
        MaskSAMError: the file is truncated, or its compressed data is damaged.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    # The header has the stored type; the image has the type after scaling.
    voxel_bytes = image.GetNumberOfPixels() * int(image.GetMetaData("bitpix")) // 8
    expected = voxel_bytes + int(float(image.GetMetaData("vox_offset")))
    try:
        size = _decompressed_size(path) if name.endswith(".gz") else path.stat().st_size
    except (OSError, EOFError, zlib.error) as error:
        raise MaskSAMError(f"{path} is damaged or incomplete: copy it again") from error
    if size < expected:
        raise MaskSAMError(f"{path} is incomplete: copy it again")


def _decompressed_size(path: Path) -> int:
    """Return the size of a gzip file's content in bytes; reading it verifies the checksums."""
    size = 0
    with gzip.open(path, "rb") as stream:
        while block := stream.read(_GZIP_BLOCK_BYTES):
            size += len(block)
    return size


def _ijk_to_ras(image: sitk.Image) -> NDArray[np.float64]:
    direction = np.array(image.GetDirection(), dtype=float).reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = _LPS_TO_RAS @ direction @ np.diag(image.GetSpacing())
    matrix[:3, 3] = _LPS_TO_RAS @ np.array(image.GetOrigin())
    return matrix


def to_image(array: NDArray[Any], ijk_to_ras: NDArray[np.float64], vector: bool = False) -> Any:
    """Return a SimpleITK image of an array at its place in space.

    Args:
        array: [K, J, I], or [K, J, I, components] with ``vector``.
        ijk_to_ras: 4 x 4 matrix from voxel indices to RAS mm.
        vector: whether the last axis holds the components of each voxel.

    Raises:
        MaskSAMError: the array is empty or has NaN or infinite voxels, or the axes are sheared,
            which image formats cannot store.
    """
    if array.size == 0:
        raise MaskSAMError("the volume has no voxels: there is nothing to write")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MaskSAMError("the volume has NaN or infinite voxels, which cannot be written")
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    direction = _LPS_TO_RAS @ ijk_to_ras[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > _ORTHONORMAL_TOLERANCE:
        raise MaskSAMError("the volume has sheared axes, which image files cannot store")
    native = array.dtype.newbyteorder("=")
    array = array.astype(_STORED_TYPES.get(array.dtype.name, native), copy=False)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vector)
    image.SetSpacing([float(v) for v in spacing])
    image.SetDirection([float(v) for v in direction.ravel()])
    image.SetOrigin([float(v) for v in _LPS_TO_RAS @ ijk_to_ras[:3, 3]])
    return image


def write_volume(volume: Volume, path: Path | str, overwrite: bool = False) -> None:
    """Write a volume in the format of the path's suffix, complete or not at all.

    Raises:
        MaskSAMError: the file exists, or cannot be written.
    """
    _write(to_image(volume.array, volume.ijk_to_ras), Path(path), overwrite)


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
            the volume or values out of range.
    """
    path = Path(path)
    if labelmap.shape != volume.array.shape:
        raise MaskSAMError(
            f"the labelmap has shape {labelmap.shape}, the grid of the volume {volume.array.shape}"
        )
    lowest, highest = labelmap.min(initial=0), labelmap.max(initial=0)
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        raise MaskSAMError(
            f"a labelmap must have values from 0 to 65535, this one has {lowest} to {highest}"
        )
    smallest = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    image = to_image(labelmap.astype(smallest, copy=False), volume.ijk_to_ras)
    if path.name.lower().endswith(".seg.nrrd"):
        for key, value in segment_metadata(labelmap, labels).items():
            image.SetMetaData(key, value)
    _write(image, path, overwrite)


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
    image = to_image(np.moveaxis(probabilities, 0, -1), volume.ijk_to_ras, vector=True)
    _write(image, Path(path), overwrite)


def _write(image: sitk.Image, path: Path, overwrite: bool) -> None:
    if not path.name.lower().endswith(WRITTEN_SUFFIXES):
        raise MaskSAMError(
            f"cannot write {path}: its name must end in {', '.join(WRITTEN_SUFFIXES)}"
        )
    with atomic_file(path, overwrite) as temporary, _silent_stderr():
        # The writers choose a format only by suffixes in lower case.
        lower_case = temporary.with_name(temporary.name.lower())
        try:
            sitk.WriteImage(image, str(lower_case), useCompression=True)
            # Some writers do not notice a full disk, so the file is read back.
            again = sitk.ReadImage(str(lower_case))
        except RuntimeError as error:
            raise MaskSAMError(f"cannot write {path}: the disk may be full") from error
        if sitk.Hash(again) != sitk.Hash(image):
            raise MaskSAMError(f"cannot write {path}: the disk may be full or damaged")
        lower_case.replace(temporary)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard the output of SimpleITK and its libraries to standard error.

    Some of them write to the file descriptor itself, so it is redirected, by one thread at a time.
    Exceptions are raised as usual.
    """
    with _stderr_lock:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            with _redirected_stderr():
                yield
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextmanager
def _redirected_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # a windowed process has no standard error
        yield
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
