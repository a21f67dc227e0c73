"""A volume held open: its scores and embeddings are kept, so that a box costs a decode only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.data import preprocess
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.box_prompts import class_prompt
from MaskSAMCore.inference.decision import affected_region, write_labels
from MaskSAMCore.inference.embedding_cache import CACHE_BYTES, EmbeddingCache
from MaskSAMCore.inference.model_grid import ModelGrid
from MaskSAMCore.inference.progress import CancelledCallback, Progress, ProgressCallback
from MaskSAMCore.inference.proposals import Proposal
from MaskSAMCore.inference.results import Segmentation, find_instances, keep_largest_components
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.scoring import EditedScores, Scorer
from MaskSAMCore.inference.settings import InferenceSettings, TestTimeAugmentation


class MaskSession:
    """An open volume of a network with classes, see :class:`Session`.

    Args:
        runner: the network.
        settings: settings of the segmenter.
        volumes: one image per channel, all on one grid.
        roi: region to process, in IJK voxel edges; None for the whole volume.
        tta: "mirror" averages mirrored passes.
        cache_bytes: memory for embeddings; further ones go to files. 0 keeps none.

    Raises:
        MaskSAMError: the ROI is empty or outside the volume, or a voxel is not a number.
    """

    def __init__(
        self,
        runner: Runner,
        settings: InferenceSettings,
        volumes: Sequence[Volume],
        *,
        roi: Box | None = None,
        tta: TestTimeAugmentation = "none",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._runner = runner
        self._settings = settings
        self._volumes = tuple(volumes)
        self._passes = settings.passes(tta)
        self._grid = ModelGrid.of(volumes[0], roi, settings.plan.orientation)
        for volume in volumes:
            self._grid.check_finite(volume)
        self._cache = EmbeddingCache(cache_bytes)
        self._scorer: Scorer | None = None
        self._scores: Tensor | None = None
        self._proposals: tuple[Proposal | None, ...] = ()
        self._automatic: Segmentation | None = None
        self._before_postprocessing: NDArray[Any] | None = None
        self._edited: dict[int, tuple[list[Box], EditedScores]] = {}
        self._closed = False

    def __enter__(self) -> MaskSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of embeddings and scores."""
        self._cache.clear()
        self._scorer = self._scores = self._automatic = self._before_postprocessing = None
        self._edited.clear()
        self._closed = True

    def weigh_background(self, weight: float) -> None:
        """Change the factor of the background's scores; no window is computed again for it."""
        self._settings = replace(self._settings, background_weight=weight)
        self._automatic = None

    def segment(
        self,
        boxes: Sequence[Box] | None = None,
        *,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment the volume.

        Args:
            boxes: all boxes that a person gave, in IJK voxel edges, each labelled with a class's
                name. A class with boxes is decoded from them and lies inside them; the others keep
                their automatic scores. Several boxes of a class are united slice by slice. A box in
                space bounds its class; one that is no thicker than a slice is the class's own box
                on that slice.
            overwrite: whether a class with boxes may take voxels that belong to a class without
                (and give up voxels to it); else only classes with boxes change.
            progress: called with (stage, fraction done, seconds left or None).
            cancelled: asked before each channel is prepared and before each window (on a GPU, each
                batch of them); True ends the run.
            probabilities: also return the probabilities of all classes.

        Raises:
            MaskSAMError: a box names no class, or lies outside the volume or the ROI.
            Cancelled: the caller wished to stop.
        """
        if self._closed:
            raise MaskSAMError("this session is closed: open the volume again")
        clipped = self._by_class(boxes or ())
        report = Progress(progress, cancelled)
        scorer = self._prepared(report)
        self._runner.memory.notes.clear()
        if self._scores is None:
            report.stage("Segmenting", until=0.8 if clipped else 0.9)
            self._scores = scorer.automatic(report)
            names = [label.name for label in self._settings.labels]
            self._proposals = scorer.proposed.proposals(names, self._grid)
        if self._automatic is None:
            report.stage("Writing the labels", until=0.85 if clipped else 1.0)
            self._automatic = self._write(self._scores, {}, set(), False, report)
        edited = self._edit(clipped, scorer, report)
        report.stage("Writing the labels", until=0.97)
        # A person who draws two boxes of a class wants both parts, whatever their size.
        drawn = {
            self._settings.labels[i - 1].value for i, parts in clipped.items() if len(parts) > 1
        }
        if edited and not overwrite:
            result = self._rewrite(self._automatic, self._scores, edited, drawn, report)
        else:
            result = replace(self._automatic, labelmap=self._automatic.labelmap.copy())
        if probabilities or (edited and overwrite):
            report.stage("Writing the labels", until=1.0)
            whole = self._write(self._scores, edited, drawn, probabilities, report)
            result = whole if overwrite else replace(result, probabilities=whole.probabilities)
        report.finish()
        return replace(result, notes=tuple(self._runner.memory.notes))

    def _prepared(self, report: Progress) -> Scorer:
        if self._scorer is None:
            report.stage("Preparing the image", until=0.05)
            plan = self._settings.plan
            channels = []
            # One channel at a time: each may take seconds, and a cancel waits for no more than one.
            for volume, how in zip(self._volumes, plan.normalization, strict=True):
                report.check()
                of_channel = replace(plan, normalization=(how,))
                channels.append(preprocess([self._grid.crop(volume)], of_channel).image)
            image = channels[0] if len(channels) == 1 else np.concatenate(channels)
            self._grid = self._grid.resampled_to(image.shape[1:])
            self._scorer = Scorer(self._runner, image, self._passes, self._cache)
        return self._scorer

    def _by_class(self, boxes: Sequence[Box]) -> dict[int, list[Box]]:
        """The boxes by class index, clipped to what is processed."""
        names = {label.name.casefold(): i for i, label in enumerate(self._settings.labels, start=1)}
        found: dict[int, list[Box]] = {}
        for box in boxes:
            index = names.get(box.class_name.strip().casefold())
            if index is None:
                known = ", ".join(label.name for label in self._settings.labels)
                raise MaskSAMError(
                    f"the box '{box.class_name}' names no class of this model: "
                    f"choose one of {known}"
                )
            found.setdefault(index, []).append(self._grid.clipped(box))
        return found

    def _edit(
        self, boxes: dict[int, list[Box]], scorer: Scorer, report: Progress
    ) -> dict[int, EditedScores]:
        """New scores of the classes with boxes; where the boxes are as before, the scores are."""
        depth = scorer.image.shape[1]
        edited = {}
        for done, (index, parts) in enumerate(sorted(boxes.items()), start=1):
            if index not in self._edited or self._edited[index][0] != parts:
                name = self._settings.labels[index - 1].name
                report.stage(f"Decoding {name} from its box", 0.85 + 0.1 * done / len(boxes))
                edges = map(self._grid.to_plan, parts)
                prompt = class_prompt(index, edges, depth, self._grid.slice_thickness)
                self._edited[index] = parts, scorer.edited(prompt, report)
            edited[index] = self._edited[index][1]
        return edited

    def _write(
        self,
        scores: Tensor,
        edited: dict[int, EditedScores],
        drawn: set[int],
        with_probabilities: bool,
        report: Progress,
    ) -> Segmentation:
        """Everything on the input's grid; `drawn` labels keep all of their components."""
        labels, volume = self._settings.labels, self._volumes[0]
        shape = volume.array.shape
        values = self._values
        labelmap = np.zeros(shape, dtype=values.dtype)
        probabilities = None
        if with_probabilities:
            probabilities = np.zeros((len(scores), *shape), dtype=np.float32)
            probabilities[0] = 1  # outside the ROI
        confidences = write_labels(
            scores,
            values,
            self._grid.to_plan_axes(labelmap),
            report,
            edited=edited,
            background_weight=self._settings.background_weight,
            probabilities=(
                None
                if probabilities is None
                else [self._grid.to_plan_axes(p) for p in probabilities]
            ),
        )
        before = labelmap.copy() if self._settings.largest_component and not edited else None
        keep_largest_components(labelmap, self._settings.largest_component - drawn)
        if not edited:
            self._before_postprocessing = before
        instances = find_instances(labelmap, labels, confidences[1:], self._proposals)
        return Segmentation(labelmap, labels, instances, volume, probabilities)

    def _rewrite(
        self,
        automatic: Segmentation,
        scores: Tensor,
        edited: dict[int, EditedScores],
        drawn: set[int],
        report: Progress,
    ) -> Segmentation:
        """The automatic result with the classes that have boxes decided anew, and no other."""
        labels, values = self._settings.labels, self._values
        labelmap = automatic.labelmap.copy()
        instances = {one.value: one for one in automatic.instances}
        own = {int(values[index]) for index in edited}
        for value in own & set(instances):
            part = labelmap[instances.pop(value).box.slices()]
            part[part == value] = 0
        before = self._before_postprocessing
        before = automatic.labelmap if before is None else before
        upright = self._grid.to_plan_axes(labelmap)
        kept = self._grid.to_plan_axes(before)
        region = affected_region(edited, scores.shape[1:], upright.shape)
        if region is not None:
            confidences = write_labels(
                scores,
                values,
                upright,
                report,
                edited=edited,
                background_weight=self._settings.background_weight,
                kept=kept,
                region=region,
            )
            keep_largest_components(upright[region], own & self._settings.largest_component - drawn)
            for one in find_instances(upright[region], labels, confidences[1:], self._proposals):
                if one.value in own:
                    box = self._grid.box_of_part(one.box, region, upright.shape)
                    instances[one.value] = replace(one, box=box)
        ordered = tuple(instances[lb.value] for lb in labels if lb.value in instances)
        return replace(automatic, labelmap=labelmap, instances=ordered)

    @property
    def _values(self) -> NDArray[Any]:
        """(K + 1,): the label value of each class, background first."""
        values = np.array([0, *(label.value for label in self._settings.labels)])
        return values.astype(np.uint8 if values.max() < 256 else np.uint16)
