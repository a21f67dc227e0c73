"""An open volume of a network with classes, in which a changed box only needs decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.data import Plan, preprocess
from MaskSAMCore.data.preprocessing import network_intensities
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume, apply_axes
from MaskSAMCore.inference.box_prompts import class_index, class_prompt
from MaskSAMCore.inference.decision import affected_region, filled, write_labels
from MaskSAMCore.inference.embedding_cache import CACHE_BYTES, EmbeddingCache
from MaskSAMCore.inference.grid_scores import GridScores
from MaskSAMCore.inference.intensity_model import IntensityModel
from MaskSAMCore.inference.intracranial import with_intracranial
from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.model_grid import ModelGrid
from MaskSAMCore.inference.progress import Progress
from MaskSAMCore.inference.proposals import Proposal
from MaskSAMCore.inference.quality import rate, refined_indices
from MaskSAMCore.inference.result_features import ResultFeatures, result_features
from MaskSAMCore.inference.results import (
    Instance,
    Segmentation,
    find_instances,
    keep_largest_components,
    nothing_found,
)
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.scoring import EditedScores, Scorer, Shares
from MaskSAMCore.inference.session import Session
from MaskSAMCore.inference.settings import SegmenterSettings
from MaskSAMCore.inference.sliding_window import largest_divided
from MaskSAMCore.models.inference_settings import TestTimeAugmentation

# The user gets a note if other classes keep more voxels from a class with boxes than this share of
# its own.
_NOTED_SHARE = 0.02


class MaskSession(Session):
    """An open volume of a network with classes, see :class:`Session`.

    Args:
        runner: network on its device.
        settings: settings of the segmenter.
        volumes: one image per channel, all on one grid.
        roi: region to process, in IJK voxel edges; None for the whole volume.
        tta: "mirror" averages mirrored passes.
        cache_bytes: memory for embeddings; further ones go to files. 0 keeps none.

    Raises:
        MaskSAMError: the ROI is empty or outside the volume, the voxel size cannot be in mm, a
            voxel is not a number, or there is no contrast.
    """

    def __init__(
        self,
        runner: Runner,
        settings: SegmenterSettings,
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
        for volume, normalization in zip(volumes, settings.plan.normalization, strict=True):
            self._grid.check_volume(volume, settings.plan, normalization.limits)
        self._notes = dict.fromkeys(note for volume in self._volumes for note in volume.notes)
        self._notes.update(dict.fromkeys(settings.doubts(self._volumes, roi is not None)))
        self._cache = EmbeddingCache(cache_bytes)
        self._scorer: Scorer | None = None
        self._scores: Tensor | None = None
        self._intensities: IntensityModel | None = None
        self._proposals: tuple[Proposal | None, ...] = ()
        self._features: ResultFeatures | None = None
        self._has_roi = roi is not None
        self._doubts: tuple[str, ...] = ()
        self._automatic: Segmentation | None = None
        self._before_cleanup: NDArray[Any] | None = None
        self._edited: dict[int, tuple[list[Box], EditedScores]] = {}
        self._closed = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of embeddings, scores and labelmaps in memory."""
        labelmap = None if self._automatic is None else self._automatic.labelmap
        return (
            self._cache.used
            + (0 if self._scorer is None else self._scorer.memory_bytes)
            + array_bytes((self._scores, labelmap, self._before_cleanup))
            + (0 if self._intensities is None else self._intensities.memory_bytes)
            + array_bytes(edited.scores for _, edited in self._edited.values())
            + array_bytes(volume.array for volume in self._volumes)
        )

    def close(self) -> None:
        """Free the embeddings and scores; the session cannot be used afterwards."""
        self._cache.clear()
        self._scorer = self._scores = self._automatic = self._before_cleanup = None
        self._intensities = None
        self._features = None
        self._edited.clear()
        self._closed = True

    def weigh_background(self, weight: float) -> None:
        """Change the factor of the background's scores, without computing any window again."""
        inference = replace(self._settings.inference, background_weight=weight)
        self._settings = replace(self._settings, inference=inference)
        self._automatic = self._features = None

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
            boxes: all boxes of the user, in IJK voxel edges, each with the name of a class. A class
                with boxes is decoded from them and lies inside them; the others keep their
                automatic scores. Several boxes of a class are united slice by slice. A box in space
                bounds its class; a box no thicker than a slice is the class's own box on that
                slice.
            overwrite: True lets a class with boxes take voxels of a class without boxes and leave
                voxels to it, see :mod:`MaskSAMCore.inference.decision`.
            progress: called with (stage, fraction done, seconds left or None).
            cancelled: polled before each channel is preprocessed and before each window (on a GPU,
                each batch of windows); True stops the run.
            probabilities: True adds the probabilities of all classes to the result.

        Raises:
            MaskSAMError: a box names no class, or lies outside the volume or the ROI.
            Cancelled: `cancelled` returned True.
        """
        if self._closed:
            raise MaskSAMError("this session is closed: open the volume again")
        by_class = self._group_by_class(boxes or ())
        report = Progress(progress, cancelled)
        scorer = self._prepared_scorer(report)
        notes = self._runner.memory.notes
        notes.clear()
        if self._scores is None:
            report.stage("Segmenting", until=0.8 if by_class else 0.9)
            scores = scorer.automatic(report)
            self._intensities = self._intensity_model(scores)
            self._scores = scores
            names = [label.name for label in self._settings.labels]
            self._proposals = scorer.proposed.proposals(names, self._grid)
        if self._automatic is None:
            report.stage("Writing the labels", until=0.85 if by_class else 1.0)
            self._automatic = self._rated(self._decide_all(self._scores, report))
        edited = self._edited_scores(by_class, scorer, self._scores, report)
        report.stage("Writing the labels", until=0.97)
        # A class with several boxes keeps all of its components, whatever their size.
        with_several_boxes = {
            self._settings.labels[index - 1].value
            for index, parts in by_class.items()
            if len(parts) > 1
        }
        cleaned = self._settings.inference.largest_component - with_several_boxes
        if edited and not overwrite:
            result = self._decide_near_boxes(self._automatic, self._scores, edited, cleaned, report)
        else:
            result = replace(self._automatic, labelmap=self._automatic.labelmap.copy())
        if probabilities or (edited and overwrite):
            report.stage("Writing the labels", until=1.0)
            decided = self._decide_all(self._scores, report, edited, cleaned, probabilities)
            if overwrite:
                result = self._rated(decided, {int(self._values[index]) for index in edited})
                result = replace(result, notes=self._notes_on_boxes(edited, result.instances))
            else:
                result = replace(result, probabilities=decided.probabilities)
        report.finish()
        result = replace(result, notes=(*self._notes, *self._doubts, *result.notes, *notes))
        return with_intracranial(result, () if self._has_roi else self._settings.intracranial)

    def features(self, refined: bool = True) -> ResultFeatures:
        """Return the features of the automatic result.

        Args:
            refined: whether to add the features of the classes that a refiner decides.

        Raises:
            MaskSAMError: the volume has not been segmented.
        """
        if self._scorer is None or self._scores is None:
            raise MaskSAMError("this volume has no features yet: segment it first")
        shares = self._scorer.shares
        if self._features is None:
            # With a refiner, these are the features of its base; the refiner's are added below.
            known = self._runner.model.config.scored_classes
            features = self._features_of(self._scorer, self._scores[: known + 1])
            self._features = features.with_missing(len(self._settings.labels) - known)
        if refined and shares is not None and self._features.refined is None:
            complete = self._features_of(self._scorer, self._scores, shares)
            own = refined_indices(self._runner.model.config)
            self._features = self._features.with_refiner(complete, own)
        return self._features

    def _features_of(
        self, scorer: Scorer, scores: Tensor, shares: Shares | None = None
    ) -> ResultFeatures:
        """Return the features that follow from the scores of the first classes, with or without the
        decisions of a refiner."""
        settings = self._settings
        labels = settings.labels[: len(scores) - 1]
        cleaned = settings.inference.largest_component
        return result_features(
            scores,
            scorer.image,
            self._grid.spacing_of(self._volumes[0]),
            labels,
            settings.inference.background_weight,
            {i for i, label in enumerate(labels, 1) if label.value in cleaned},
            shares,
        )

    def _rated(self, result: Segmentation, edited: Set[int] = frozenset()) -> Segmentation:
        """Return a result with the expected Dice of the classes that no box of the user decided.

        A class that a refiner does not decide but changes in volume has none, because its Dice is
        estimated without the refiner.

        Args:
            result: result to rate.
            edited: values of the labels with boxes.
        """
        settings = self._settings
        if settings.estimator is None:
            return result
        estimator, features = settings.estimator, self.features(refined=False)
        if estimator.refined is not None or features.found - {*estimator.unrated}:
            features = self.features()
        rating = rate(estimator, features)
        places = [self._grid.place_from_plan(place) for place in rating.weakest]
        without = estimator.unknown | features.changed
        unknown = {settings.labels[index].value for index in without}
        self._doubts = () if self._has_roi and not settings.suitability.needs_roi else rating.doubts
        instances = rating.applied_to(result.instances, settings.labels, places, edited | unknown)
        return replace(result, instances=instances)

    def scores(
        self, progress: ProgressCallback | None = None, cancelled: CancelledCallback | None = None
    ) -> GridScores:
        """Return the scores without boxes, to average them over several networks.

        Args:
            progress: called with (stage, fraction done, seconds left or None).
            cancelled: polled as in :meth:`segment`.

        Raises:
            Cancelled: `cancelled` returned True.
        """
        report = Progress(progress, cancelled)
        scorer = self._prepared_scorer(report)
        self._runner.memory.notes.clear()
        report.stage("Segmenting", until=1.0)
        scores = scorer.automatic(report)
        notes = (*self._notes, *self._runner.memory.notes)
        weight = self._settings.inference.background_weight
        intensities = self._intensity_model(scores)
        return GridScores(scores, self._grid, weight, notes, scorer.shares, intensities)

    def _intensity_model(self, scores: Tensor) -> IntensityModel | None:
        """Return the intensities of the classes; None if they have no weight."""
        weight = self._settings.inference.intensity_weight
        if not weight:
            return None
        images = []
        channels = zip(self._volumes, self._settings.plan.normalization, strict=True)
        for volume, normalization in channels:
            shown = network_intensities(self._grid.crop(volume), normalization)
            images.append(apply_axes(shown.array, self._grid.axes, self._grid.flips))
        spacing = self._grid.spacing_of(self._volumes[0])
        return IntensityModel(images, scores, spacing, weight)

    def _prepared_scorer(self, report: Progress) -> Scorer:
        """Return the scorer of the preprocessed volume, which is made at the first run."""
        if self._scorer is None:
            report.stage("Preparing the image", until=0.05)
            plan, parts = self._settings.plan, self._runner.model.config.parts
            image, fine = self._preprocessed(plan, report), None
            self._grid = self._grid.resampled_to(image.shape[1:])
            if max(parts) > 1:
                # By rounding, the finer grid could otherwise have voxels beyond the last window.
                most = largest_divided(self._grid.shape, self._runner.window, parts)
                fine = self._preprocessed(plan.divided(parts), report, most)
            self._scorer = Scorer(
                self._runner,
                image,
                self._passes,
                self._cache,
                fine,
                self._settings.inference.window_overlap,
            )
        return self._scorer

    def _preprocessed(
        self, plan: Plan, report: Progress, largest: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Return the image (C, depth, rows, columns) on the grid of a plan.

        Args:
            plan: the plan.
            report: receives the progress.
            largest: largest number of voxels along the axes; None for no limit.
        """
        channels = []
        # Cancellation is polled between channels, because each may take seconds.
        for volume, normalization in zip(self._volumes, plan.normalization, strict=True):
            report.check()
            plan_of_channel = replace(plan, normalization=(normalization,))
            prepared = preprocess([self._grid.crop(volume)], plan_of_channel, largest=largest)
            channels.append(prepared.image)
            self._notes.update(dict.fromkeys(prepared.notes))
        return channels[0] if len(channels) == 1 else np.concatenate(channels)

    def _group_by_class(self, boxes: Sequence[Box]) -> dict[int, list[Box]]:
        """Return the boxes by class index, clipped to the processed region."""
        grouped: dict[int, list[Box]] = {}
        for box in boxes:
            index = class_index(box.class_name, self._settings.labels)
            grouped.setdefault(index, []).append(self._grid.clipped(box))
        return grouped

    def _edited_scores(
        self, boxes: dict[int, list[Box]], scorer: Scorer, scores: Tensor, report: Progress
    ) -> dict[int, EditedScores]:
        """Return the new scores of the classes with boxes; a class is decoded only if its boxes
        changed."""
        refined = self._runner.model.config.refined_classes
        edited = {}
        for done, (index, parts) in enumerate(sorted(boxes.items()), start=1):
            if index not in self._edited or self._edited[index][0] != parts:
                name = self._settings.labels[index - 1].name
                report.stage(f"Decoding {name} from its box", 0.85 + 0.1 * done / len(boxes))
                grid = self._grid
                if index in refined:
                    grid = grid.resampled_to(scorer.fine_shape)
                edges = map(grid.to_plan, parts)
                prompt = class_prompt(index, edges, grid.shape[0], grid.slice_thickness)
                decoded = scorer.edited(prompt, report)
                self._edited[index] = parts, filled(decoded, prompt, scores, scorer.shares)
            edited[index] = self._edited[index][1]
        return edited

    def _decide_all(
        self,
        scores: Tensor,
        report: Progress,
        edited: Mapping[int, EditedScores] | None = None,
        cleaned: frozenset[int] | None = None,
        with_probabilities: bool = False,
    ) -> Segmentation:
        """Decide all voxels, where classes with boxes may overwrite others.

        Args:
            scores: automatic scores on the plan's grid.
            report: receives the progress.
            edited: new scores of the classes with boxes; none for the automatic result.
            cleaned: values of labels of which only the largest component is kept.
            with_probabilities: True adds the probabilities of all classes.
        """
        settings, volume, values = self._settings, self._volumes[0], self._values
        labelmap = np.zeros(volume.shape, dtype=values.dtype)
        probabilities = None
        if with_probabilities:
            probabilities = np.zeros((len(scores), *volume.shape), dtype=np.float32)
            probabilities[0] = 1  # outside the ROI
        confidences = write_labels(
            scores,
            values,
            self._grid.to_plan_axes(labelmap),
            report,
            edited=edited,
            shares=None if self._scorer is None else self._scorer.shares,
            intensities=self._intensities,
            background_weight=settings.inference.background_weight,
            probabilities=(
                None
                if probabilities is None
                else [self._grid.to_plan_axes(one) for one in probabilities]
            ),
        )
        if not edited:
            self._before_cleanup = labelmap.copy() if settings.inference.largest_component else None
        keep_largest_components(
            labelmap,
            settings.inference.largest_component if cleaned is None else cleaned,
            self._automatic.labelmap if edited and self._automatic is not None else None,
        )
        instances = find_instances(labelmap, settings.labels, confidences[1:], self._proposals)
        return Segmentation(labelmap, settings.labels, instances, volume, probabilities)

    def _decide_near_boxes(
        self,
        automatic: Segmentation,
        scores: Tensor,
        edited: Mapping[int, EditedScores],
        cleaned: frozenset[int],
        report: Progress,
    ) -> Segmentation:
        """Decide the classes with boxes; classes without boxes keep their automatic voxels.

        Args:
            automatic: result without boxes.
            scores: automatic scores on the plan's grid.
            edited: new scores of the classes with boxes.
            cleaned: values of labels of which only the largest component is kept.
            report: receives the progress.
        """
        labels, values = self._settings.labels, self._values
        labelmap, refused = automatic.labelmap.copy(), np.zeros(len(values), np.int64)
        instances = {instance.value: instance for instance in automatic.instances}
        edited_values = {int(values[index]) for index in edited}
        for value in edited_values & set(instances):
            part = labelmap[instances.pop(value).box.slices()]
            part[part == value] = 0
        before = automatic.labelmap if self._before_cleanup is None else self._before_cleanup
        view = self._grid.to_plan_axes(labelmap)
        shape = (view.shape[0], view.shape[1], view.shape[2])
        region = affected_region(edited, scores.shape[1:], shape)
        if region is not None:
            confidences = write_labels(
                scores,
                values,
                view,
                report,
                edited=edited,
                shares=None if self._scorer is None else self._scorer.shares,
                intensities=self._intensities,
                background_weight=self._settings.inference.background_weight,
                kept=self._grid.to_plan_axes(before),
                region=region,
                refused=refused,
            )
            keep_largest_components(
                view[region],
                edited_values & cleaned,
                self._grid.to_plan_axes(automatic.labelmap)[region],
            )
            found = find_instances(view[region], labels, confidences[1:], self._proposals)
            for instance in found:
                if instance.value in edited_values:
                    box = self._grid.box_of_part(instance.box, region, shape)
                    instances[instance.value] = replace(instance, box=box)
        ordered = [instances[label.value] for label in labels if label.value in instances]
        notes = self._notes_on_boxes(edited, ordered, refused)
        return replace(automatic, labelmap=labelmap, instances=tuple(ordered), notes=notes)

    def _notes_on_boxes(
        self,
        edited: Iterable[int],
        instances: Sequence[Instance],
        refused: NDArray[np.int64] | None = None,
    ) -> tuple[str, ...]:
        """Return notes about classes with boxes that have no voxels, or fewer than they could.

        Args:
            edited: indices of the classes with boxes.
            instances: classes that were found.
            refused: (K + 1,), number of voxels that other classes keep from each class; None if
                they keep none.
        """
        sizes = {instance.value: instance.voxel_count for instance in instances}
        notes: list[str] = []
        for index in sorted(edited):
            name, own = self._settings.labels[index - 1].name, sizes.get(self._values[index], 0)
            lacking = 0 if refused is None else refused[index]
            if lacking > _NOTED_SHARE * own:
                larger = f"be {100 * lacking / own:.0f} % larger" if own else "be found"
                notes.append(f"{name} would {larger} if it could overwrite other classes")
            elif not own:
                notes.append(nothing_found(name))
        return tuple(notes)

    @property
    def _values(self) -> NDArray[Any]:
        """Value of each class in the labelmap, (K + 1,), background first."""
        values = np.array([0, *(label.value for label in self._settings.labels)])
        return values.astype(np.uint8 if values.max() < 256 else np.uint16)
