"""Stack of DICOM frames: the slices of one volume, in order and evenly spaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.dicom_frames import Frame, differences, slice_thickness

# Tolerance of slice positions, as a fraction of the slice distance: positions are stored with few
# digits, while missing or tilted slices are off by far more.
POSITION_TOLERANCE = 0.1
# Frames that are closer than this fraction of the pixel spacing have the same position.
_SAME_PLACE = 0.01
# Directions are stored with few digits; this is an angle of 0.06 degrees.
_DIRECTION_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-3
_NAMED_DIFFERENCES = 2
_SAVE_WITH_SLICER = "load it in 3D Slicer and save the volume to segment as .nrrd"


@dataclass(frozen=True)
class Stack:
    """Slices of one volume.

    Attributes:
        slices: frames at each position along the normal; further frames at a position are copies of
            the first or parts of another volume, which only their pixels can tell.
        ijk_to_lps: float64 (4, 4), from voxel indices to LPS mm.
    """

    slices: tuple[tuple[Frame, ...], ...]
    ijk_to_lps: NDArray[np.float64]


def stack_of(path: Path, frames: Sequence[Frame]) -> Stack:
    """Return the frames of a file or folder in their order along the normal.

    Args:
        path: file or folder, for messages.
        frames: all frames of the series, at least one.

    Raises:
        MaskSAMError: the frames are not the evenly spaced slices of one volume.
    """
    _check_localizers(path, frames)
    _check_equal(
        path, frames, "photometric interpretations", lambda frame: [frame.pixels.inverted], 0
    )
    _check_equal(path, frames, "sizes", lambda frame: (frame.pixels.rows, frame.pixels.columns), 0)
    _check_equal(
        path, frames, "orientations", lambda frame: frame.orientation, _DIRECTION_TOLERANCE
    )
    axes = _axes(frames[0])
    spacing = np.array(frames[0].spacing)
    if spacing.min() <= 0:
        raise MaskSAMError(
            f"{frames[0].file.path} has a pixel spacing that is not positive: give the original"
            " images of the scanner"
        )
    tolerance = _SPACING_TOLERANCE * spacing.min()
    _check_equal(path, frames, "pixel spacings", lambda frame: frame.spacing, tolerance)
    _check_rescaled(path, frames)
    positions = np.array([frame.position for frame in frames])
    heights = (positions - positions[0]) @ axes[:, 2]
    order = np.argsort(heights, kind="stable")
    above = np.diff(heights[order]) > _SAME_PLACE * spacing.min()
    groups = np.split(order, np.flatnonzero(above) + 1)
    slices = tuple(tuple(frames[n] for n in group) for group in groups)
    if _contrast_differs(frames):
        raise several_volumes(path, slices)
    origin = positions[groups[0][0]]
    if len(groups) > 1:
        step = (heights[groups[-1][0]] - heights[groups[0][0]]) / (len(groups) - 1)
    else:
        step = slice_thickness(frames[0])
    places = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    expected = origin + places[:, None] * step * axes[:, 2]
    _check_even(path, positions[order] - expected, heights[order], axes[:, 2], step)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * (spacing[1], spacing[0], step)
    matrix[:3, 3] = origin
    return Stack(slices, matrix)


def several_volumes(path: Path, slices: Sequence[Sequence[Frame]]) -> MaskSAMError:
    """Return the error for frames of several volumes.

    Args:
        path: file or folder, for the message.
        slices: frames at each position along the normal.
    """
    frames = [frame for group in slices for frame in group]
    files = {frame.file.path for frame in frames}
    count = max(len({frame.contrast for frame in frames}), *map(len, slices))
    if len(files) == count > 1 and all(frame.pixels.frames > 1 for frame in frames):
        return MaskSAMError(
            f"{path} holds {count} DICOM files with a volume each: give one of them, such as"
            f" {min(files).name}"
        )
    if len(slices) == 1 and not _contrast_differs(frames):
        return MaskSAMError(
            f"{path} holds {count} different images at the same position: give the original images"
            " of the scanner"
        )
    names = differences(max(slices, key=len) if not _contrast_differs(frames) else frames)
    reason = f" that differ in {' and '.join(names[:_NAMED_DIFFERENCES])}" if names else ""
    if len(set(map(len, slices))) > 1 and not _contrast_differs(frames):
        first, second, *_ = max(slices, key=len)
        return MaskSAMError(
            f"{path} holds up to {count} images of the same slice{reason}, such as {first.name} and"
            f" {second.name}: {_SAVE_WITH_SLICER}"
        )
    return MaskSAMError(f"{path} holds {count} volumes{reason}: {_SAVE_WITH_SLICER}")


def _contrast_differs(frames: Sequence[Frame]) -> bool:
    """Return whether frames differ in an element that is equal in all slices of a volume."""
    values: dict[str, str] = {}
    return any(
        values.setdefault(name, value) != value
        for frame in frames
        for name, value in frame.contrast
    )


def _check_localizers(path: Path, frames: Sequence[Frame]) -> None:
    """Check that localizers are not mixed with other slices.

    Raises:
        MaskSAMError: some frames are localizers and others are not.
    """
    localizers = [frame for frame in frames if frame.localizer]
    if 0 < len(localizers) < len(frames):
        raise MaskSAMError(
            f"{path} holds localizers, such as {localizers[0].name}, among its slices: put the"
            " slices into their own folder"
        )


def _check_rescaled(path: Path, frames: Sequence[Frame]) -> None:
    """Check that all frames state a slope or intercept, or none does.

    Raises:
        MaskSAMError: some frames are rescaled and others are not.
    """
    unscaled = [frame for frame in frames if not frame.rescaled]
    trivial = all(frame.slope == 1 and frame.intercept == 0 for frame in frames)
    if 0 < len(unscaled) < len(frames) and not trivial:
        raise MaskSAMError(
            f"{path} holds slices with and without a rescale slope, such as {unscaled[0].name}:"
            " export the series again"
        )


def _check_equal(
    path: Path,
    frames: Sequence[Frame],
    names: str,
    value: Callable[[Frame], Sequence[float]],
    tolerance: float,
) -> None:
    """Check that a value is the same in all frames.

    Raises:
        MaskSAMError: a frame has another value than the first one.
    """
    values = np.array([value(frame) for frame in frames], dtype=np.float64)
    difference = np.abs(values - values[0]).max(axis=1)
    if (difference > tolerance).any():
        other = frames[int(difference.argmax())]
        raise MaskSAMError(
            f"{path} holds slices of different {names} ({frames[0].name} and {other.name}): put the"
            " slices of one volume into their own folder"
        )


def _axes(frame: Frame) -> NDArray[np.float64]:
    """Return the unit vectors along a row, down a column and along the normal as columns, (3, 3).

    Raises:
        MaskSAMError: the directions in the header are not of length 1 or not perpendicular.
    """
    row, column = np.reshape(frame.orientation, (2, 3))
    products = (row @ row - 1, column @ column - 1, row @ column)
    if np.abs(products).max() > _DIRECTION_TOLERANCE:
        raise MaskSAMError(
            f"{frame.file.path} has rows and columns that are not perpendicular: give the original"
            " images of the scanner"
        )
    row = row / np.linalg.norm(row)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    return np.stack([row, np.cross(normal, row), normal], axis=1)


def _check_even(
    path: Path,
    offsets: NDArray[np.float64],
    heights: NDArray[np.float64],
    normal: NDArray[np.float64],
    step: float,
) -> None:
    """Check that frames lie evenly spaced along the normal.

    Args:
        path: file or folder, for the message.
        offsets: (frames, 3), vectors from the expected to the actual positions in mm, in the order
            of ``heights``.
        heights: (frames,), positions along the normal in mm, ascending.
        normal: unit vector perpendicular to the slices.
        step: expected distance of slices in mm.

    Raises:
        MaskSAMError: slices are missing, unevenly spaced or tilted.
    """
    if np.abs(offsets).max() <= POSITION_TOLERANCE * step:
        return
    within = np.linalg.norm(offsets - (offsets @ normal)[:, None] * normal, axis=1)
    if within.max() > POSITION_TOLERANCE * step:
        reason = f"the stack leans by {within.max():.3g} mm from its normal"
    else:
        distances = np.diff(heights)
        distances = distances[distances > POSITION_TOLERANCE * step]
        reason = f"{distances.min():.3g} to {distances.max():.3g} mm apart"
    raise MaskSAMError(
        f"{path} holds a DICOM series with slices missing, unevenly spaced or tilted ({reason}):"
        " load it in 3D Slicer, which resamples it, and save it as .nrrd"
    )
