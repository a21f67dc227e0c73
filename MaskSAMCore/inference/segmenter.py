"""The one engine behind the shell, the worker and Python: from a volume to named segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from MaskSAMCore.data import Plan
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.device import DeviceChoice, choose_device
from MaskSAMCore.inference.progress import CancelledCallback, ProgressCallback
from MaskSAMCore.inference.results import Segmentation
from MaskSAMCore.inference.runner import Runner, SegmentationModel, check_model
from MaskSAMCore.inference.scoring import ONE_PASS, mirrored_passes
from MaskSAMCore.inference.session import Session, Task
from MaskSAMCore.labels import Label

if TYPE_CHECKING:
    from MaskSAMCore.models import Bundle

TestTimeAugmentation = Literal["none", "mirror"]
# Memory that a session keeps embeddings in; what exceeds it goes to files.
CACHE_BYTES = 1 << 30


class Segmenter:
    """A model ready to segment volumes.

    Example:
        >>> segmenter = Segmenter.from_model("hippocampus")
        >>> result = segmenter.segment(read_volume("brain.nii.gz"))

    Args:
        model: a network with `config`, `encode` and `decode` (see `runner.SegmentationModel`).
        plan: the orientation, spacing and intensities it was trained with.
        labels: its classes 1 to K in order.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        largest_component: values of labels of which only the largest component is kept, because
            that helped in validation.
        background_weight: what the background's scores are multiplied with before classes are
            compared, because that helped in validation: masks learned by Dice come out too large.
        mirror: axes of a window (0 depth, 1 rows, 2 columns) that training mirrored, and mirrored
            passes may.
        name: of the model, for people.

    Raises:
        MaskSAMError: the device cannot be used, or the labels do not fit the network.
    """

    # Whether it segments nothing without boxes, and takes boxes of any names.
    needs_boxes = False

    def __init__(
        self,
        model: SegmentationModel,
        plan: Plan,
        labels: Sequence[Label],
        *,
        device: str = "auto",
        largest_component: Sequence[int] = (),
        background_weight: float = 1.0,
        mirror: Sequence[int] = (0, 1, 2),
        name: str = "",
    ) -> None:
        check_model(model, labels)
        self.plan = plan
        self.labels = tuple(labels)
        self.name = name
        self._largest_component = frozenset(largest_component)
        self._background_weight = background_weight
        self._passes = mirrored_passes(mirror)
        self._runner = Runner(model, choose_device(device))

    @staticmethod
    def from_model(name_or_path: str | Path, device: str = "auto") -> Segmenter:
        """A model by its name in the catalog, or by the path of its bundle (a folder or a zip).

        For a SAM or MedSAM checkpoint, it is a :class:`SamSegmenter`, which needs boxes.

        Raises:
            MaskSAMError: there is no such model, its files are damaged, or the device is unusable.
        """
        from MaskSAMCore.models import open_checkpoint, open_model

        checkpoint = open_checkpoint(str(name_or_path))
        if checkpoint is not None:
            from MaskSAMCore.inference.sam.segmenter import SamSegmenter

            name, how = checkpoint.entry.name, checkpoint.entry.preparation
            return SamSegmenter(checkpoint.build(), how, device=device, name=name)
        bundle, sam_checkpoint = open_model(name_or_path)
        return Segmenter.from_bundle(bundle, sam_checkpoint, device)

    @staticmethod
    def from_bundle(
        bundle: Bundle, sam_checkpoint: Path | None = None, device: str = "auto"
    ) -> Segmenter:
        """A model by its bundle; ``sam_checkpoint`` as for :meth:`Bundle.build`.

        Raises:
            MaskSAMError: the weights do not fit, or the device is unusable.
        """
        return Segmenter(
            bundle.build(sam_checkpoint),
            bundle.plan,
            bundle.labels,
            device=device,
            largest_component=bundle.largest_component,
            background_weight=bundle.background_weight,
            mirror=bundle.mirror,
            name=bundle.name,
        )

    @property
    def channels(self) -> int:
        """How many images of a case the model takes."""
        return len(self.plan.channels)

    @property
    def device(self) -> DeviceChoice:
        """The device in use and why; it becomes the CPU where a GPU's memory ran out."""
        return self._runner.choice

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
        """Segment a volume once.

        Args:
            volume: the image, or one for each of the model's channels, all on one grid.
            roi: the part to process, in IJK voxel edges of the input; clipped to it. The image is
                cropped to exactly the voxels it touches and normalised there, without any margin:
                a model that was trained on crops finds what it knows. Outside, labels are 0.
            boxes, overwrite: see :meth:`Session.segment`.
            progress: called with (stage in words, fraction done, seconds left or None).
            cancelled: see :meth:`Session.segment`.
            tta: "mirror" averages the mirrored passes of the paper (eight, or fewer where training
                did not mirror all axes), each for the time of a whole pass.
            probabilities: also return the probabilities of all classes (much memory).

        Raises:
            MaskSAMError: the input does not fit the model, or the ROI or a box is outside it.
            Cancelled: the caller wished to stop.
        """
        # Embeddings are used twice where the volume is segmented first without the boxes.
        cache_bytes = CACHE_BYTES if boxes and not self.needs_boxes else 0
        with self.open(volume, roi=roi, tta=tta, cache_bytes=cache_bytes) as session:
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
    ) -> Session:
        """Hold a volume open, so that boxes cost a decode only. Arguments as in :meth:`segment`.

        Args:
            cache_bytes: memory for embeddings; what exceeds it goes to files until the session is
                closed. 0 keeps none: windows are encoded again.
        """
        if tta not in ("none", "mirror"):
            raise MaskSAMError(f"unknown test-time augmentation '{tta}': choose none or mirror")
        volumes = (volume,) if isinstance(volume, Volume) else tuple(volume)
        self._check_channels(volumes)
        task = Task(
            self._runner,
            self.plan,
            self.labels,
            volumes,
            roi,
            self._passes if tta == "mirror" else ONE_PASS,
            self._largest_component,
            cache_bytes,
            self._background_weight,
        )
        return Session(task)

    def _check_channels(self, volumes: Sequence[Volume]) -> None:
        wanted = self._runner.model.config.in_channels
        if len(volumes) != wanted:
            names = ", ".join(self.plan.channels)
            raise MaskSAMError(
                f"this model takes {wanted} image(s) a case ({names}), but {len(volumes)} are given"
            )
        first = volumes[0]
        for other in volumes[1:]:
            if not first.same_grid(other):
                raise MaskSAMError(
                    "the channels of a case must share one grid: resample them to the same size,"
                    " spacing, origin and directions"
                )
