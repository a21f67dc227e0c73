"""Reading of volumes from DICOM: a folder with one series, or a file with several frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import LPS_TO_RAS, Volume
from MaskSAMCore.io.dicom_files import (
    ImageFile,
    is_dicom,
    read_image_file,
    read_series,
    silent_pydicom,
    texts,
)
from MaskSAMCore.io.dicom_frames import Frame, frames_of, stated_distance
from MaskSAMCore.io.dicom_stack import Stack, stack_of
from MaskSAMCore.io.dicom_voxels import StackVoxels, voxels_of
from MaskSAMCore.io.files import image_stem
from MaskSAMCore.io.orientation import check_voxel_size

_NAMED_FRAMES = 3
# Ratio of the measured to the stated slice distance above which slices may be missing.
_GAP = 1.5


def read_dicom(path: Path, only: Sequence[Path] = ()) -> Volume:
    """Read the volume of a file with several frames, or of a folder that holds one series.

    Voxels are integers if the slopes and intercepts of all slices are integers, else float32.

    Args:
        path: file or folder.
        only: files of the series, if the folder also holds others; by default all files.

    Raises:
        MaskSAMError: the path does not hold exactly one complete volume of grey levels.
    """
    with silent_pydicom():
        files = read_series(path, only)
        frames = [frame for file in files for frame in frames_of(file)]
        if len(frames) == 1 and not path.is_dir():
            _check_alone(files[0])
        stack = stack_of(path, frames)
        voxels = voxels_of(path, stack)
        notes = tuple(_notes(path, stack, voxels))
    matrix = LPS_TO_RAS @ stack.ijk_to_lps
    check_voxel_size(matrix, path)
    return Volume(
        voxels.array,
        matrix,
        image_stem(path),
        notes=notes,
        modality="".join(texts(files[0].header, "Modality")[:1]),
    )


def _check_alone(file: ImageFile) -> None:
    """Check that a single-slice file is not part of a series.

    Raises:
        MaskSAMError: the folder of the file holds other files of the same series.
    """
    folder = file.path.parent
    for path in sorted(folder.iterdir()):
        if not is_dicom(path) or path.samefile(file.path):
            continue
        try:
            other = read_image_file(path)
        except MaskSAMError:  # the file is damaged or holds no image
            continue
        if other.series == file.series:
            raise MaskSAMError(f"{file.path} is one slice of a series: give the folder {folder}")


def _notes(path: Path, stack: Stack, voxels: StackVoxels) -> Iterator[str]:
    """Yield messages for the user about doubts in a volume."""
    frames = [group[0] for group in stack.slices]
    if voxels.copies:
        count = len(voxels.copies)
        yield f"{path} holds {count} copies of slices, which are left out: {_named(voxels.copies)}"
    if voxels.cut:
        bits = voxels.cut[0].pixels.bits_stored
        yield (
            f"{path} has values of more than the {bits} bits that its header says, which are cut"
            f" off, as in 3D Slicer: {_named(voxels.cut)}"
        )
    spaces = {frame.space for frame in frames if frame.space}
    if len(spaces) > 1:
        yield (
            f"{path} holds slices of {len(spaces)} frames of reference: they may not fit together"
        )
    if len(frames) == 1:
        yield f"{path} holds a single slice: if its series has more, give a folder with all of them"
        return
    distance = float(np.linalg.norm(stack.ijk_to_lps[:3, 2]))
    stated = stated_distance(frames[0])
    if stated and distance > _GAP * stated:
        yield (
            f"{path} holds slices {distance:.3g} mm apart, which were {stated:.3g} mm apart by"
            " their header: slices may be missing"
        )


def _named(frames: Sequence[Frame]) -> str:
    names = ", ".join(frame.name for frame in frames[:_NAMED_FRAMES])
    return f"{names}, ..." if len(frames) > _NAMED_FRAMES else names
