"""Interface of a model that is ready to segment volumes, and the way to load one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.data import Plan
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.device import DeviceChoice
from MaskSAMCore.inference.embedding_cache import CACHE_BYTES
from MaskSAMCore.inference.mask_segmenter import MaskSegmenter
from MaskSAMCore.inference.results import Segmentation
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from MaskSAMCore.inference.session import Session
from MaskSAMCore.labels import Label
from MaskSAMCore.models import catalog
from MaskSAMCore.models.inference_settings import TestTimeAugmentation


class Segmenter(Protocol):
    """A model on its device.

    :class:`MaskSegmenter` and :class:`SamSegmenter` implement it.

    Example:
        >>> segmenter = Segmenter.from_model("hippocampus")
        >>> result = segmenter.segment(read_volume("brain.nii.gz"))
    """

    @staticmethod
    def from_model(name_or_path: str | Path, device: str = "auto") -> Segmenter:
        """Load a model: a :class:`SamSegmenter` for a SAM or MedSAM checkpoint, else a
        :class:`MaskSegmenter`.

        Args:
            name_or_path: name in the catalog, or path of a bundle (a folder or a zip file).
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".

        Raises:
            MaskSAMError: there is no such model, its files are damaged, or the device is unusable.
        """
        checkpoints = {entry.name for entry in catalog() if entry.needs_boxes}
        if str(name_or_path) in checkpoints:
            return SamSegmenter.from_model(name_or_path, device)
        return MaskSegmenter.from_model(name_or_path, device)

    @property
    def name(self) -> str:
        """Name of the model."""
        ...

    @property
    def version(self) -> str:
        """First digits of the SHA-256 of the weights; empty if the model has no file."""
        ...

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes 1 to K in order; empty for a model that takes boxes of any name."""
        ...

    @property
    def plan(self) -> Plan | None:
        """Preprocessing of the model's input; None for a model that takes any grid."""
        ...

    @property
    def channels(self) -> int:
        """Number of images per case."""
        ...

    @property
    def needs_boxes(self) -> bool:
        """True if the model segments nothing without boxes."""
        ...

    @property
    def tta(self) -> TestTimeAugmentation:
        """Test-time augmentation that the model is meant to be used with, for the argument ``tta``
        of :meth:`segment` and :meth:`open`."""
        ...

    @property
    def estimates_dice(self) -> bool:
        """True if results have an expected Dice."""
        ...

    @property
    def intracranial(self) -> tuple[str, ...]:
        """Names of the classes that fill the skull together; empty if unknown."""
        ...

    @property
    def device(self) -> DeviceChoice:
        """Device in use and the reason for it; the CPU once a GPU's memory ran out."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of the network's weights."""
        ...

    def doubts(self, volume: Volume | Sequence[Volume], has_roi: bool) -> tuple[str, ...]:
        """Return reasons why the model may perform badly on a volume, without segmenting it; they
        are among the notes of its result.

        Args:
            volume: as in :meth:`segment`.
            has_roi: whether only an ROI of the volume is processed.
        """
        ...

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
            volume: the image, or one image per channel of the model, all on one grid.
            roi: region to process, in IJK voxel edges of the input, clipped to it. The image is
                cropped to the voxels that the region touches, without a margin, and normalised
                there, as in training on crops. The labelmap is 0 outside.
            boxes: boxes of the user, see :meth:`Session.segment`.
            overwrite: see :meth:`Session.segment`.
            progress: called with (stage, fraction done, seconds left or None).
            cancelled: polled before each step; True stops the run.
            tta: "mirror" averages the mirrored passes of the paper, eight, or fewer if training
                did not mirror all axes; each takes as long as the unmirrored pass.
            probabilities: True adds the probabilities of all classes to the result.

        Raises:
            MaskSAMError: the input does not fit the model, or the ROI or a box is outside it.
            Cancelled: `cancelled` returned True.
        """
        ...

    def open(
        self,
        volume: Volume | Sequence[Volume],
        *,
        roi: Box | None = None,
        tta: TestTimeAugmentation = "none",
        cache_bytes: int = CACHE_BYTES,
    ) -> Session:
        """Open a volume to segment it several times.

        Args:
            volume: as in :meth:`segment`.
            roi: as in :meth:`segment`.
            tta: as in :meth:`segment`.
            cache_bytes: memory for embeddings; further ones go to files until the session is
                closed. 0 keeps none: windows are encoded again.
        """
        ...
