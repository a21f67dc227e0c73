"""Voxels of a DICOM stack: real values of its frames in the smallest suitable type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.dicom_frames import Frame
from MaskSAMCore.io.dicom_pixels import stored_pixels
from MaskSAMCore.io.dicom_stack import Stack, several_volumes

# Integer types; the first one that holds all values is used.
_INTEGER_TYPES = ("u1", "i2", "u2", "i4", "u4", "i8")

_Planes = Callable[[Frame], NDArray[Any]]


@dataclass(frozen=True)
class StackVoxels:
    """Voxels of a stack.

    Attributes:
        array: voxels [K, J, I].
        copies: frames that are left out because they repeat others.
        cut: frames whose values lost the bits beyond those that the header states.
    """

    array: NDArray[Any]
    copies: tuple[Frame, ...]
    cut: tuple[Frame, ...]


def voxels_of(path: Path, stack: Stack) -> StackVoxels:
    """Return the voxels of a stack.

    Args:
        path: file or folder of the stack, for messages.
        stack: slices in order.

    Raises:
        MaskSAMError: frames at the same position differ, or pixels are damaged.
    """
    # The cache holds two files, because copies are compared in pairs of frames.
    stored = lru_cache(maxsize=2)(stored_pixels)
    cut: list[Frame] = []

    def plane(frame: Frame) -> NDArray[Any]:
        return _real_values(frame, stored(frame.file, frame.pixels).values[frame.index])

    copies = _copies(path, stack, plane)
    frames = [group[0] for group in stack.slices]
    pixels = frames[0].pixels
    array = np.empty((len(frames), pixels.rows, pixels.columns), _value_type(frames))
    # The frames of a file are read together, wherever they lie in the stack.
    for k in sorted(range(len(frames)), key=lambda k: str(frames[k].file.path)):
        array[k] = plane(frames[k])
        if stored(frames[k].file, frames[k].pixels).cut:
            cut.append(frames[k])
    return StackVoxels(array, tuple(copies), tuple(cut))


def _copies(path: Path, stack: Stack, plane: _Planes) -> list[Frame]:
    """Return the frames that repeat another one.

    Raises:
        MaskSAMError: frames at the same position differ, so they belong to several volumes.
    """
    copies: list[Frame] = []
    for first, *others in stack.slices:
        for other in others:
            if not np.array_equal(plane(first), plane(other)):
                raise several_volumes(path, stack.slices)
        copies += others
    return copies


def _real_values(frame: Frame, stored: NDArray[Any]) -> NDArray[Any]:
    """Return the values of a plane after slope and intercept.

    Raises:
        MaskSAMError: the slope is 0, but stored values are not.
    """
    if frame.slope == 1 and frame.intercept == 0:
        return stored
    if frame.slope == 0 and stored.any():
        raise MaskSAMError(
            f"{frame.file.path} has a rescale slope of 0, which makes all its values equal: export"
            " it again"
        )
    if _is_whole(frame):
        return stored.astype(np.int64) * int(frame.slope) + int(frame.intercept)
    return stored * np.float64(frame.slope) + frame.intercept


def _is_whole(frame: Frame) -> bool:
    """Return whether all real values of a frame are integers of at most 64 bits."""
    return (
        frame.slope.is_integer()
        and frame.intercept.is_integer()
        and max(map(abs, _extremes(frame))) <= np.iinfo(np.int64).max
    )


def _extremes(frame: Frame) -> tuple[float, ...]:
    """Return the real values of the lowest and the highest value that can be stored."""
    return tuple(value * frame.slope + frame.intercept for value in frame.pixels.range)


def _value_type(frames: Sequence[Frame]) -> np.dtype[Any]:
    """Return the type that holds the real values of all frames."""
    if all(frame.slope == 1 and frame.intercept == 0 for frame in frames):
        types = {frame.pixels.dtype for frame in frames}
        if len(types) == 1:
            return types.pop()
    if all(map(_is_whole, frames)):
        values = [value for frame in frames for value in _extremes(frame)]
        for name in _INTEGER_TYPES:
            limits = np.iinfo(name)
            if limits.min <= min(values) and max(values) <= limits.max:
                return np.dtype(name)
    return np.dtype(np.float32)
