"""An open volume of a SAM: each slice is encoded once, and a changed box only needs decoding."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume, apply_axes
from MaskSAMCore.inference.embedding_cache import EmbeddingCache, copy_window
from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.model_grid import ModelGrid
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.results import Segmentation, find_instances, nothing_found
from MaskSAMCore.inference.sam.box_slices import BoxSlices, box_slices, in_plane
from MaskSAMCore.inference.sam.overlay import Overlay
from MaskSAMCore.inference.sam.preprocessing import (
    Limits,
    ct_limits,
    percentile_limits,
    to_grey,
)
from MaskSAMCore.inference.sam.runner import SamRunner
from MaskSAMCore.inference.session import Session
from MaskSAMCore.inference.sliding_window import hull
from MaskSAMCore.intensities import modality, usable_intensities
from MaskSAMCore.labels import Label, default_colors

# Slices across the three axes are axial, coronal and sagittal as radiologists view them, whatever
# the axes of the volume.
ORIENTATION = "IPL"
# Bytes of memory for the logits of boxes, so that only boxes that change are decoded again.
_LOGITS_BYTES = 256 << 20
_BOXES_AT_ONCE = 8

# Intensity limits, axis and index of a slice.
_SliceKey = tuple[Limits, int, int]


@dataclass
class _BoxJob:
    """A box to segment.

    Attributes:
        key: equal for boxes whose logits are equal.
        value: value of the box's label.
        slices: slices and voxels of the box.
        limits: intensities that its slices show as black and white.
        logits: float16 logits of the box's voxels, filled slice by slice; None if there is no
            memory to keep them.
    """

    key: Hashable
    value: int
    slices: BoxSlices
    limits: Limits
    logits: NDArray[np.float16] | None = None


class SamSession(Session):
    """An open volume of a SAM, see :class:`Session`.

    Each box is segmented slice by slice along its best axis (:func:`box_slices.best_axis`). Its
    mask contains only voxels whose centre lies in the box.

    Args:
        runner: the SAM.
        volume: the image.
        roi: region that becomes the SAM's input, in IJK voxel edges; None for the whole volume.
        cache_bytes: memory for embeddings; further ones go to files. 0 keeps none.

    Raises:
        MaskSAMError: the ROI is empty or outside the volume, the voxel size cannot be in mm, a
            voxel is not a number, or there is no contrast.
    """

    def __init__(
        self, runner: SamRunner, volume: Volume, roi: Box | None, cache_bytes: int
    ) -> None:
        self._runner = runner
        self._volume = volume
        self._grid = ModelGrid.of(volume, roi, ORIENTATION)
        self._grid.check_volume(volume)
        self._image = self._grid.to_plan_axes(volume.array)
        spacing = volume.spacing[::-1]
        a, b, c = (spacing[axis] for axis in self._grid.axes)
        self._spacing = (a, b, c)
        self._cache = EmbeddingCache(cache_bytes)
        self._logits: dict[Hashable, NDArray[np.float16]] = {}
        self._encoded: set[_SliceKey] = set()
        self._notes = volume.notes
        self._is_ct: bool | None = None
        self._limits: Limits | None = None
        self._closed = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of embeddings and masks in memory."""
        return self._cache.used + array_bytes((self._volume.array, *self._logits.values()))

    def close(self) -> None:
        """Free the embeddings and logits; the session cannot be used afterwards."""
        self._cache.clear()
        self._logits.clear()
        self._encoded.clear()
        self._closed = True

    def segment(
        self,
        boxes: Sequence[Box] | None = None,
        *,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment the content of boxes.

        Args:
            boxes: all boxes, in IJK voxel edges; those of one name make one segment. Labels are 1,
                2, … in the order of the names. Where segments overlap, a voxel belongs to the one
                with the highest mask logit.
            overwrite: without effect, because all segments have boxes.
            progress: called with (stage, fraction done, seconds left or None).
            cancelled: polled before each block of the image encoder; True stops the run.
            probabilities: must be False, because a SAM predicts no class probabilities.

        Raises:
            MaskSAMError: there is no box, or one has no name or lies outside the volume or the ROI.
            Cancelled: `cancelled` returned True.
        """
        if self._closed:
            raise MaskSAMError("this session is closed: open the volume again")
        if not boxes:
            raise MaskSAMError(
                "this model segments nothing without boxes: give at least one box, named like the"
                " structure in it"
            )
        if probabilities:
            raise MaskSAMError("a SAM predicts masks, not class probabilities: do not request them")
        named = group_by_name(boxes)
        labels = labels_for(list(named))
        jobs = [
            self._job(box, label.value)
            for label, parts in zip(labels, named.values(), strict=True)
            for box in map(self._grid.clipped, parts)
        ]
        report = Progress(progress, cancelled)
        notes = self._runner.memory.notes
        notes.clear()
        dtype = np.uint8 if len(labels) < 256 else np.uint16
        labelmap = np.zeros(self._volume.shape, dtype=dtype)
        region = hull([job.slices.place for job in jobs])
        overlay = Overlay(self._grid.to_plan_axes(labelmap), region)
        self._segment(jobs, overlay, report)
        report.stage("Writing the labels", until=1.0)
        instances = find_instances(labelmap, labels, overlay.confidences(len(labels)).tolist())
        found = {instance.value for instance in instances}
        empty = [label.name for label in labels if label.value not in found]
        report.finish()
        return Segmentation(
            labelmap,
            labels,
            instances,
            self._volume,
            notes=(*self._notes, *notes, *map(nothing_found, empty)),
        )

    def _job(self, box: Box, value: int) -> _BoxJob:
        edges = self._grid.to_plan(box)
        slices = box_slices(edges, self._grid.shape, self._spacing)
        if self._is_ct is None:
            # The whole volume is examined, because an ROI inside a body contains no air.
            self._is_ct = modality(self._volume) == "CT"
            if not self._is_ct:
                part = self._grid.crop(self._volume)
                usable = usable_intensities(replace(part, modality="MR"))
                self._image = apply_axes(usable.array, self._grid.axes, self._grid.flips)
                self._notes += usable.notes
                self._limits = percentile_limits(self._image)
        limits = self._limits or ct_limits(self._image[slices.place])
        return _BoxJob((*edges.ravel().tolist(),), value, slices, limits)

    def _segment(self, jobs: list[_BoxJob], overlay: Overlay, report: Progress) -> None:
        """Add the masks of all boxes to the overlay; only new boxes are decoded."""
        self._logits = {job.key: self._logits[job.key] for job in jobs if job.key in self._logits}
        keep = _LOGITS_BYTES if self._cache.limit else 0
        room = keep - sum(logits.nbytes for logits in self._logits.values())
        new = []
        for job in jobs:
            place = job.slices.place
            if job.key in self._logits:
                logits = self._logits[job.key]
                for n in range(len(logits)):  # plane by plane, to need little memory
                    plane = slice(place[0].start + n, place[0].start + n + 1)
                    overlay.add(job.value, (plane, *place[1:]), logits[n : n + 1])
                continue
            new.append(job)
            shape = tuple(part.stop - part.start for part in place)
            size = 2 * int(np.prod(shape))
            if size <= room:
                room -= size
                job.logits = np.zeros(shape, dtype=np.float16)
        self._decode(new, overlay, report)
        # Logits are kept only now, because a cancelled run leaves incomplete masks.
        self._logits.update({job.key: job.logits for job in new if job.logits is not None})

    def _decode(self, jobs: list[_BoxJob], overlay: Overlay, report: Progress) -> None:
        """Decode boxes slice by slice and add their masks to the overlay."""
        crossing: dict[_SliceKey, list[_BoxJob]] = {}
        for job in jobs:
            for index in job.slices.slices:
                crossing.setdefault((job.limits, job.slices.axis, index), []).append(job)
        new = sum(key not in self._encoded for key in crossing)
        total, done = new * self._runner.blocks + len(crossing), 0
        slices = f"{new} slice{'' if new == 1 else 's'}"
        report.stage(f"Encoding {slices}" if new else "Decoding the boxes", until=0.97)

        def each_block() -> None:
            nonlocal done
            report.step(done, total)
            done += 1

        for key, boxes in sorted(crossing.items(), key=lambda item: item[0]):
            report.step(done, total)
            embedding = self._embedding(key, each_block)
            done += 1
            for job, logits in self._masks(embedding, boxes, key[1]):
                self._add(job, key[2], logits, overlay)

    def _embedding(self, key: _SliceKey, each_block: Callable[[], None]) -> Tensor:
        kept: Tensor | None = self._cache.get(key, self._runner.device)
        if kept is not None:
            return kept
        limits, axis, index = key
        plane = self._image[(slice(None),) * axis + (index,)]
        embedding = self._runner.encode(to_grey(plane, limits), each_block)
        if self._cache.limit:
            self._cache.put(key, copy_window(embedding, 0))
            self._encoded.add(key)
        return embedding

    def _masks(
        self, embedding: Tensor, jobs: list[_BoxJob], axis: int
    ) -> Iterator[tuple[_BoxJob, NDArray[np.float32]]]:
        """Yield the logits (rows, columns) of each box on a slice."""
        rows, columns = in_plane(axis)
        shape = self._grid.shape[rows], self._grid.shape[columns]
        # Equal boxes share a mask: decoded apart, they would differ in their last digits.
        equal: dict[tuple[float, float, float, float], list[_BoxJob]] = {}
        for job in jobs:
            equal.setdefault(job.slices.rectangle, []).append(job)
        rectangles = list(equal)
        for first in range(0, len(rectangles), _BOXES_AT_ONCE):
            batch = rectangles[first : first + _BOXES_AT_ONCE]
            masks = self._runner.logits(embedding, np.array(batch), shape)
            for rectangle, logits in zip(batch, masks, strict=True):
                for job in equal[rectangle]:
                    yield job, logits

    def _add(self, job: _BoxJob, index: int, logits: NDArray[np.float32], overlay: Overlay) -> None:
        """Add the mask of a box on one slice to the overlay."""
        axis, place = job.slices.axis, list(job.slices.place)
        rows, columns = in_plane(axis)
        inside = np.clip(logits[place[rows], place[columns]], -1e4, 1e4).astype(np.float16)
        if job.logits is not None:
            job.logits[(slice(None),) * axis + (index - place[axis].start,)] = inside
        place[axis] = slice(index, index + 1)
        overlay.add(job.value, (place[0], place[1], place[2]), np.expand_dims(inside, axis))


def group_by_name(boxes: Sequence[Box]) -> dict[str, list[Box]]:
    """Group boxes by name, in the order of the names, whatever the order of the boxes.

    Names that differ only in case or in surrounding spaces are equal.

    Raises:
        MaskSAMError: a box has no name.
    """
    spelled: dict[str, str] = {}
    found: dict[str, list[Box]] = {}
    for box in sorted(boxes, key=lambda box: (box.class_name.strip(), box.lower, box.upper)):
        name = box.class_name.strip()
        if not name:
            raise MaskSAMError("a box has no name: name it like the structure in it")
        name = spelled.setdefault(name.casefold(), name)
        found.setdefault(name, []).append(box)
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


def labels_for(names: Sequence[str]) -> tuple[Label, ...]:
    """Return labels 1, 2, … with these names and distinct colours."""
    colors = default_colors(len(names))
    return tuple(
        Label(value, name, color)
        for value, (name, color) in enumerate(zip(names, colors, strict=True), start=1)
    )
