"""Ensembles: the mean of the probabilities of several networks with the same classes.

Each network segments a volume on its own grid, one after the other. Its scores are kept in memory
up to a limit and in a file beyond it, and a few planes of the volume are decided at a time, so that
the memory does not grow with the number of networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.channels import as_channels
from MaskSAMCore.inference.decision import SHARPENING_ARRAYS, SLAB_VOXELS, update_argmax
from MaskSAMCore.inference.device import DeviceChoice
from MaskSAMCore.inference.embedding_cache import CACHE_BYTES, EmbeddingCache
from MaskSAMCore.inference.grid_scores import GridScores
from MaskSAMCore.inference.intracranial import with_intracranial
from MaskSAMCore.inference.mask_segmenter import MaskSegmenter
from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.results import Segmentation, find_instances, keep_largest_components
from MaskSAMCore.inference.session import Session
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import Network
from MaskSAMCore.models.catalog import VERSION_DIGITS
from MaskSAMCore.models.inference_settings import TestTimeAugmentation

_CPU = torch.device("cpu")


class EnsembleSegmenter:
    """Several networks with classes as one segmenter, see :class:`Segmenter`.

    A class keeps its largest component only if most of the networks do so.

    Args:
        members: the networks' segmenters, one or more.

    Attributes:
        members: the networks' segmenters.
        largest_component: values of the labels of which only the largest component is kept.
        tta: test-time augmentation that all networks are meant to be used with, else "none".

    Raises:
        MaskSAMError: the networks differ in classes, labelmap values or channels.
    """

    needs_boxes = False
    estimates_dice = False
    plan = None

    def __init__(self, members: Sequence[MaskSegmenter]) -> None:
        first, *others = members
        for other in others:
            _check_fits(first, other)
            # On a GPU nothing is shared: a network may move to the CPU alone when memory runs out.
            if all(one.device.device.type == "cpu" for one in (first, other)):
                _share_frozen(first.model, other.model)
        self.members = tuple(members)
        most = len(members) / 2
        cleaned = [one.settings.inference.largest_component for one in members]
        self.largest_component = frozenset(
            label.value
            for label in first.labels
            if sum(label.value in values for values in cleaned) > most
        )
        mirrored = all(one.tta == "mirror" for one in members)
        self.tta: TestTimeAugmentation = "mirror" if mirrored else "none"

    @staticmethod
    def from_model(
        name_or_path: str | Path | Sequence[str | Path], device: str = "auto"
    ) -> EnsembleSegmenter:
        """Load models by their names in the catalog or the paths of their bundles.

        Raises:
            MaskSAMError: a model cannot be loaded or has no classes, or the models do not fit each
                other.
        """
        models = [name_or_path] if isinstance(name_or_path, str | Path) else name_or_path
        return EnsembleSegmenter([MaskSegmenter.from_model(model, device) for model in models])

    @property
    def name(self) -> str:
        """Names of the networks, joined."""
        return " + ".join(member.name for member in self.members)

    @property
    def version(self) -> str:
        """First digits of the SHA-256 of the networks' versions."""
        joined = " ".join(member.version for member in self.members)
        return hashlib.sha256(joined.encode()).hexdigest()[:VERSION_DIGITS]

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes 1 to K in order."""
        return self.members[0].labels

    @property
    def intracranial(self) -> tuple[str, ...]:
        """Names of the classes that fill the skull together; empty unless all networks agree."""
        first, *others = (member.intracranial for member in self.members)
        return first if all(other == first for other in others) else ()

    @property
    def channels(self) -> int:
        """Number of images per case."""
        return self.members[0].channels

    @property
    def device(self) -> DeviceChoice:
        """Device in use and the reason for it."""
        return self.members[0].device

    @property
    def memory_bytes(self) -> int:
        """Bytes of all networks' weights; the weights of a shared frozen SAM count once."""
        tensors = {
            tensor.data_ptr(): tensor
            for member in self.members
            for tensor in (*member.model.parameters(), *member.model.buffers())
        }
        return array_bytes(tensors.values())

    def doubts(self, volume: Volume | Sequence[Volume], has_roi: bool) -> tuple[str, ...]:
        """Return reasons why a network may perform badly, see :meth:`Segmenter.doubts`."""
        each = (member.doubts(volume, has_roi) for member in self.members)
        return tuple(dict.fromkeys(chain.from_iterable(each)))

    def segment(
        self,
        volume: Volume | Sequence[Volume],
        *,
        roi: Box | None = None,
        boxes: Sequence[Box] | None = None,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        tta: TestTimeAugmentation = "none",
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment a volume once, see :meth:`Segmenter.segment`.

        Raises:
            MaskSAMError: boxes are given, which only a single network takes, or an error of
                :meth:`Segmenter.segment` occurs.
        """
        with self.open(volume, roi=roi, tta=tta) as session:
            return session.segment(
                boxes,
                overwrite=overwrite,
                progress=progress,
                cancelled=cancelled,
                probabilities=probabilities,
            )

    def open(
        self,
        volume: Volume | Sequence[Volume],
        *,
        roi: Box | None = None,
        tta: TestTimeAugmentation = "none",
        cache_bytes: int = CACHE_BYTES,
    ) -> EnsembleSession:
        """Open a volume, see :meth:`Segmenter.open`."""
        volumes = as_channels(volume)
        return EnsembleSession(self, volumes, roi, tta, cache_bytes)


class EnsembleSession(Session):
    """An open volume of an ensemble, see :class:`Session`.

    Args:
        ensemble: the networks.
        volumes: one image per channel, all on one grid.
        roi: region to process, in IJK voxel edges; None for the whole volume.
        tta: "mirror" averages mirrored passes.
        cache_bytes: memory for the scores of the networks; further ones go to files.
    """

    def __init__(
        self,
        ensemble: EnsembleSegmenter,
        volumes: Sequence[Volume],
        roi: Box | None,
        tta: TestTimeAugmentation,
        cache_bytes: int,
    ) -> None:
        self._ensemble = ensemble
        self._volumes = tuple(volumes)
        self._roi = roi
        self._tta = tta
        # The files have no limit because, unlike embeddings, scores cannot be computed again later.
        self._cache = EmbeddingCache(max(1, cache_bytes), spill_limit=None)
        self._closed = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of scores and images in memory."""
        return self._cache.used + array_bytes(volume.array for volume in self._volumes)

    def close(self) -> None:
        """Free the scores; the session cannot be used afterwards."""
        self._cache.clear()
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
        """Segment the volume, see :meth:`Session.segment`.

        Raises:
            MaskSAMError: the session is closed, boxes are given, or the disk for temporary files is
                too full for the scores.
            Cancelled: `cancelled` returned True.
        """
        if self._closed:
            raise MaskSAMError("this session is closed: open the volume again")
        if boxes:
            raise MaskSAMError("several models together take no boxes: give one model with --model")
        report = Progress(progress, cancelled)
        scored = self._scored(report, progress, cancelled)
        report.stage("Writing the labels", until=1.0)
        result = self._decide(scored, report, probabilities)
        report.finish()
        return result

    def _scored(
        self,
        report: Progress,
        progress: ProgressCallback | None,
        cancelled: CancelledCallback | None,
    ) -> list[GridScores]:
        """Return the scores of all networks, which are computed at the first run."""
        members, found = self._ensemble.members, []
        for index, member in enumerate(members):
            scores = self._cache.get(index, _CPU)
            if scores is None:
                until = 0.9 * (index + 1) / len(members)
                report.stage(f"Model {index + 1} of {len(members)}", until)
                with member.open(
                    self._volumes, roi=self._roi, tta=self._tta, cache_bytes=0
                ) as session:
                    own = _part(progress, index, len(members))
                    self._cache.put(index, session.scores(own, cancelled))
                scores = self._cache.get(index, _CPU)
            if scores is None:
                raise MaskSAMError(
                    "the folder for temporary files is too full for the scores of"
                    f" {len(members)} models: free disk space, or give fewer models"
                )
            found.append(scores)
        return found

    def _decide(
        self, scored: Sequence[GridScores], report: Progress, with_probabilities: bool
    ) -> Segmentation:
        """Give each voxel the class with the largest mean probability."""
        labels, volume = self._ensemble.labels, self._volumes[0]
        values = np.array([0, *(label.value for label in labels)])
        values = values.astype(np.uint8 if values.max() < 256 else np.uint16)
        labelmap = np.zeros(volume.shape, values.dtype)
        shares = None
        if with_probabilities:
            shares = np.zeros((len(values), *volume.shape), np.float32)
            shares[0] = 1  # outside the ROI
        part = scored[0].grid.region.slices()
        inside = labelmap[part]
        sums, voxels = np.zeros(len(values)), np.zeros(len(values))
        sharpened = any(one.intensities is not None for one in scored)
        arrays = len(scored) * (SHARPENING_ARRAYS if sharpened else 1)
        step = max(1, SLAB_VOXELS // (arrays * max(1, inside[0].size)))
        for first in range(0, len(inside), step):
            report.step(first, len(inside))
            planes = slice(first, min(first + step, len(inside)))
            best = torch.full(inside[planes].shape, -1.0)
            winner = torch.zeros(best.shape, dtype=torch.int32)
            for index, mean in enumerate(_means(scored, planes)):
                update_argmax(best, winner, index, torch.from_numpy(mean))
                if shares is not None:
                    shares[index][part][planes] = mean
            inside[planes] = values[winner.numpy()]
            flat = winner.flatten()
            voxels += torch.bincount(flat, minlength=len(values)).numpy()
            sums += torch.bincount(flat, best.flatten(), minlength=len(values)).numpy()
        keep_largest_components(labelmap, self._ensemble.largest_component)
        confidences = sums / np.maximum(voxels, 1)
        instances = find_instances(labelmap, labels, confidences[1:])
        notes = dict.fromkeys(note for one in scored for note in one.notes)
        result = Segmentation(labelmap, labels, instances, volume, shares, tuple(notes))
        whole = () if self._roi is not None else self._ensemble.intracranial
        return with_intracranial(result, whole)


def _means(scored: Sequence[GridScores], planes: slice) -> Iterator[NDArray[np.float32]]:
    """Yield the mean probability of each class, background first, float32 [K, J, I]."""
    for each in zip(*(scores.probabilities(planes) for scores in scored), strict=True):
        total = each[0].copy()
        for probability in each[1:]:
            total += probability
        yield total / len(scored)


def _part(progress: ProgressCallback | None, index: int, count: int) -> ProgressCallback | None:
    """Return a callback that reports the progress of one of several networks as part of a run."""
    if progress is None:
        return None

    def report(stage: str, fraction: float, seconds_left: float | None) -> None:
        text = f"Model {index + 1} of {count}: {stage.lower()}"
        progress(text, 0.9 * (index + fraction) / count, None)

    return report


def _check_fits(first: MaskSegmenter, other: MaskSegmenter) -> None:
    """Check that two networks have the same classes and channels.

    Raises:
        MaskSAMError: the networks differ, or one of them segments nothing without boxes.
    """
    prompted = [one.name for one in (first, other) if one.needs_boxes]
    if prompted:
        raise MaskSAMError(f"'{prompted[0]}' needs boxes: only models without boxes are averaged")
    classes = [[(label.name, label.value) for label in one.labels] for one in (first, other)]
    if classes[0] != classes[1]:
        pairs = zip(*classes, strict=False)
        different = next(
            (f"'{a}', {m}, and '{b}', {n}" for (a, m), (b, n) in pairs if (a, m) != (b, n)),
            f"{len(classes[0])} and {len(classes[1])} classes",
        )
        raise MaskSAMError(
            f"'{first.name}' and '{other.name}' do not have the same classes ({different}): give"
            " models of one dataset"
        )
    if first.plan.channels != other.plan.channels:
        raise MaskSAMError(
            f"'{first.name}' and '{other.name}' take different channels"
            f" ({', '.join(first.plan.channels)}; {', '.join(other.plan.channels)}): give models of"
            " one dataset"
        )


def _share_frozen(first: Network, other: Network) -> None:
    """Let a network use the weights of another's frozen SAM where they are equal."""
    if other.config.frozen_sam is None:
        return
    own = set(other.kept_names())
    known = dict(first.named_parameters())
    for name, value in list(other.named_parameters()):
        same = known.get(name)
        if name in own or same is None or not torch.equal(same, value):
            continue
        place, _, last = name.rpartition(".")
        setattr(other.get_submodule(place), last, same)
