"""A volume held open for SAM: slices are encoded once, and a box costs a decode only."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.checks import check_numbers
from MaskSAMCore.inference.embedding_cache import EmbeddingCache, item
from MaskSAMCore.inference.model_grid import PlanGrid
from MaskSAMCore.inference.progress import CancelledCallback, Progress, ProgressCallback
from MaskSAMCore.inference.results import Segmentation, find_instances
from MaskSAMCore.inference.sam.box_slices import BoxSlices, box_slices, in_plane
from MaskSAMCore.inference.sam.drawn import by_name, labels_of
from MaskSAMCore.inference.sam.intensities import (
    Limits,
    ct_limits,
    is_ct,
    percentile_limits,
    to_grey,
)
from MaskSAMCore.inference.sam.overlay import Overlay
from MaskSAMCore.inference.sam.runner import SamRunner
from MaskSAMCore.inference.sliding_window import hull

# The upright array: slices across its three axes are axial, coronal and sagittal as radiologists
# look at them, feet, face and left ear forward: the same whichever way the volume is stored.
ORIENTATION = "IPL"
# Logits of boxes that may be kept, so that a moved box leaves the others alone.
_KEPT_BYTES = 256 << 20
_BOXES_AT_ONCE = 8

# Of a slice: how it is shown, the axis it is across, and its index along it.
_SliceKey = tuple[Limits, int, int]


@dataclass
class _Work:
    """A box with a label to be segmented.

    Attributes:
        key: equal for equal boxes.
        value: the label.
        slices: where.
        limits: how its slices are shown.
        logits: float16 of its place, filled slice by slice; None where they are not kept.
    """

    key: Hashable
    value: int
    slices: BoxSlices
    limits: Limits
    logits: NDArray[np.float16] | None = None


class SamSession:
    """An open volume of a SAM, see :class:`Session`.

    Each box is segmented slice by slice along its best axis (`box_slices.best_axis`); the segment
    holds voxels whose centre lies in one of its boxes, and no others.

    Args:
        runner: the SAM.
        volume: the image.
        roi: the part that SAM is shown, in IJK voxel edges; None for all of it.
        cache_bytes: for embeddings, see `embeddings.EmbeddingCache`.

    Raises:
        MaskSAMError: the ROI is empty or outside the volume, or voxels are not numbers.
    """

    def __init__(
        self, runner: SamRunner, volume: Volume, roi: Box | None, cache_bytes: int
    ) -> None:
        self._runner = runner
        self._volume = volume
        self._grid = PlanGrid.of(volume, roi, ORIENTATION)
        check_numbers(volume, self._grid)
        self._upright = self._grid.upright(volume.array)
        spacing = volume.spacing[::-1]
        a, b, c = (spacing[axis] for axis in self._grid.axes)
        self._spacing = (a, b, c)
        self._cache = EmbeddingCache(cache_bytes)
        self._done: dict[Hashable, NDArray[np.float16]] = {}
        self._encoded: set[_SliceKey] = set()
        self._is_ct: bool | None = None
        self._limits: Limits | None = None
        self._closed = False

    def __enter__(self) -> SamSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the embeddings and masks; the session cannot be used afterwards."""
        self._cache.clear()
        self._done.clear()
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
        """Segment what the boxes are drawn around.

        Args:
            boxes: all boxes, in IJK voxel edges, of any names; those of one name make one segment.
                Labels are 1, 2, … in the order of the names. Where segments of different names
                overlap, the voxel is that of the higher mask logit.
            overwrite: without effect: there are no other segments than those of boxes.
            progress: called with (stage, fraction done, seconds left or None).
            cancelled: asked before each block of the image encoder; True ends the run.
            probabilities: must be False: masks of boxes are no class probabilities.

        Raises:
            MaskSAMError: there is no box, one has no name, or lies outside the volume or the ROI.
            Cancelled: the caller wished to stop.
        """
        if self._closed:
            raise MaskSAMError("this session is closed: open the volume again")
        if not boxes:
            raise MaskSAMError(
                "this model segments what boxes are drawn around: give at least one box, named"
                " like the structure in it"
            )
        if probabilities:
            raise MaskSAMError("SAM gives masks, not class probabilities: leave them out")
        named = by_name(boxes)
        labels = labels_of(list(named))
        work = [
            self._work(box, label.value)
            for label, parts in zip(labels, named.values(), strict=True)
            for box in map(self._grid.clipped, parts)
        ]
        report = Progress(progress, cancelled)
        self._runner.memory.notes.clear()
        dtype = np.uint8 if len(labels) < 256 else np.uint16
        labelmap = np.zeros(self._volume.shape, dtype=dtype)
        overlay = Overlay(self._grid.upright(labelmap), hull([w.slices.place for w in work]))
        self._fill(work, overlay, report)
        report.stage("Writing the labels", until=1.0)
        instances = find_instances(labelmap, labels, overlay.scores(len(labels)).tolist())
        found = {one.value for one in instances}
        empty = [label.name for label in labels if label.value not in found]
        notes = [
            *self._runner.memory.notes,
            *(f"nothing was found in the box '{n}'" for n in empty),
        ]
        report.finish()
        return Segmentation(labelmap, labels, instances, self._volume, notes=tuple(notes))

    def _work(self, box: Box, value: int) -> _Work:
        edges = self._grid.to_plan(box)
        slices = box_slices(edges, self._grid.shape, self._spacing)
        if self._is_ct is None:
            # An ROI inside a body has no air in it, the CT has.
            self._is_ct = is_ct(self._volume.array)
            if not self._is_ct:
                self._limits = percentile_limits(self._upright)
        limits = self._limits or ct_limits(self._upright[slices.place])
        return _Work((*edges.ravel().tolist(),), value, slices, limits)

    def _fill(self, work: list[_Work], overlay: Overlay, report: Progress) -> None:
        """Masks of all boxes into the overlay; only boxes that are new are decoded."""
        self._done = {w.key: self._done[w.key] for w in work if w.key in self._done}
        keep = _KEPT_BYTES if self._cache.limit else 0
        room = keep - sum(logits.nbytes for logits in self._done.values())
        new = []
        for one in work:
            place = one.slices.place
            if one.key in self._done:
                logits = self._done[one.key]
                for n in range(len(logits)):  # a plane at a time: masks of all would be large
                    plane = slice(place[0].start + n, place[0].start + n + 1)
                    overlay.add(one.value, (plane, *place[1:]), logits[n : n + 1])
                continue
            new.append(one)
            shape = tuple(part.stop - part.start for part in place)
            size = 2 * int(np.prod(shape))
            if size <= room:
                room -= size
                one.logits = np.zeros(shape, dtype=np.float16)
        self._decode(new, overlay, report)
        # Only now: a run that was cancelled must not leave half a mask.
        self._done.update({w.key: w.logits for w in new if w.logits is not None})

    def _decode(self, work: list[_Work], overlay: Overlay, report: Progress) -> None:
        todo: dict[_SliceKey, list[_Work]] = {}
        for one in work:
            for index in one.slices.slices:
                todo.setdefault((one.limits, one.slices.axis, index), []).append(one)
        unknown = sum(key not in self._encoded for key in todo)
        blocks = self._runner.blocks
        total, done = unknown * blocks + len(todo), 0
        what = f"{unknown} slice{'' if unknown == 1 else 's'}"
        report.stage(f"Encoding {what}" if unknown else "Decoding the boxes", until=0.97)

        def each_block() -> None:
            nonlocal done
            report.step(done, total)
            done += 1

        for key, crossing in sorted(todo.items(), key=lambda one: one[0]):
            report.step(done, total)
            embedding = self._embedding(key, each_block)
            done += 1
            for one, logits in self._masks(embedding, crossing, key[1]):
                self._put(one, key[2], logits, overlay)

    def _embedding(self, key: _SliceKey, each_block: Any) -> Tensor:
        kept: Tensor | None = self._cache.get(key, self._runner.device)
        if kept is not None:
            return kept
        limits, axis, index = key
        plane = self._upright[(slice(None),) * axis + (index,)]
        embedding = self._runner.encode(to_grey(plane, limits), each_block)
        if self._cache.limit:
            self._cache.put(key, item(embedding, 0))
            self._encoded.add(key)
        return embedding

    def _masks(
        self, embedding: Tensor, crossing: list[_Work], axis: int
    ) -> Iterator[tuple[_Work, NDArray[np.float32]]]:
        rows, columns = in_plane(axis)
        shape = self._grid.shape[rows], self._grid.shape[columns]
        # Equal boxes share a mask: decoded apart, they would differ in their last digits.
        equal: dict[tuple[float, float, float, float], list[_Work]] = {}
        for one in crossing:
            equal.setdefault(one.slices.rectangle, []).append(one)
        rectangles = list(equal)
        for first in range(0, len(rectangles), _BOXES_AT_ONCE):
            some = rectangles[first : first + _BOXES_AT_ONCE]
            masks = self._runner.logits(embedding, np.array(some), shape)
            for rectangle, logits in zip(some, masks, strict=True):
                for one in equal[rectangle]:
                    yield one, logits

    def _put(self, one: _Work, index: int, logits: NDArray[np.float32], overlay: Overlay) -> None:
        axis, place = one.slices.axis, list(one.slices.place)
        rows, columns = in_plane(axis)
        inside = np.clip(logits[place[rows], place[columns]], -1e4, 1e4).astype(np.float16)
        if one.logits is not None:
            one.logits[(slice(None),) * axis + (index - place[axis].start,)] = inside
        place[axis] = slice(index, index + 1)
        overlay.add(one.value, (place[0], place[1], place[2]), np.expand_dims(inside, axis))
