"""Segmenter of a SAM or MedSAM checkpoint: one segment per box name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.channels import as_channels
from MaskSAMCore.inference.device import DeviceChoice, choose_device
from MaskSAMCore.inference.embedding_cache import CACHE_BYTES
from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.results import Segmentation
from MaskSAMCore.inference.sam.runner import SamRunner
from MaskSAMCore.inference.sam.session import SamSession
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling.sam.predictor import PlainSam
from MaskSAMCore.models import open_checkpoint
from MaskSAMCore.models.catalog import VERSION_DIGITS
from MaskSAMCore.models.inference_settings import TestTimeAugmentation


class SamSegmenter:
    """A SAM on its device, which segments anything by a box, see :class:`Segmenter`.

    Example:
        >>> segmenter = SamSegmenter.from_model("sam_vit_b")
        >>> result = segmenter.segment(volume, boxes=[Box("Tumour", (10, 12, 8), (30, 31, 20))])

    Args:
        model: the SAM.
        preparation: "sam" or "medsam", the checkpoint's own preprocessing of slices.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        name: name of the model.
        version: first digits of the SHA-256 of the checkpoint.

    Attributes:
        model: the SAM.
        name: name of the model.
        version: first digits of the SHA-256 of the checkpoint; empty if the model has no file.
        labels: empty, because a SAM has no classes.
        intracranial: empty, because a SAM has no classes.
        plan: None, because slices are used as they are in the volume.
        channels: 1.
        tta: "none", because there are no mirrored passes.

    Raises:
        MaskSAMError: the device cannot be used.
    """

    needs_boxes = True
    estimates_dice = False
    labels: tuple[Label, ...] = ()
    intracranial: tuple[str, ...] = ()
    plan = None
    channels = 1
    tta: TestTimeAugmentation = "none"

    def __init__(
        self,
        model: PlainSam,
        preparation: str = "sam",
        *,
        device: str = "auto",
        name: str = "",
        version: str = "",
    ) -> None:
        self.model = model
        self.name = name
        self.version = version
        self._runner = SamRunner(model, preparation, choose_device(device))

    @staticmethod
    def from_model(name_or_path: str | Path, device: str = "auto") -> SamSegmenter:
        """Load a checkpoint by its name in the catalog.

        Raises:
            MaskSAMError: the checkpoint is unknown, not installed or damaged, or the device is
                unusable.
        """
        checkpoint = open_checkpoint(str(name_or_path))
        if checkpoint is None:
            raise MaskSAMError(f"'{name_or_path}' is not a checkpoint of a SAM")
        entry = checkpoint.entry
        return SamSegmenter(
            checkpoint.build(),
            entry.preparation,
            device=device,
            name=entry.name,
            version=entry.sha256[:VERSION_DIGITS],
        )

    @property
    def device(self) -> DeviceChoice:
        """Device in use and the reason for it; the CPU once a GPU's memory ran out."""
        return self._runner.memory.choice

    @property
    def memory_bytes(self) -> int:
        """Bytes of the network's weights."""
        model = self._runner.model
        return array_bytes((*model.parameters(), *model.buffers()))

    def doubts(self, volume: Volume | Sequence[Volume], has_roi: bool) -> tuple[str, ...]:
        """Return no reasons, because a SAM segments any image."""
        return ()

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
        """Segment a volume once, see :meth:`Segmenter.segment`."""
        with self.open(volume, roi=roi, tta=tta, cache_bytes=0) as session:
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
    ) -> SamSession:
        """Open a volume to segment it several times.

        Args:
            volume: the image.
            roi: region that becomes the SAM's input, in IJK voxel edges; a smaller region is
                enlarged more. Nothing is segmented outside.
            tta: "none"; there are no mirrored passes.
            cache_bytes: memory for embeddings; further ones go to files until the session is
                closed. 0 keeps none.
        """
        if tta != "none":
            raise MaskSAMError("mirrored passes are for models without boxes: choose none")
        volumes = as_channels(volume)
        if len(volumes) != 1:
            raise MaskSAMError(f"this model takes one image, but {len(volumes)} are given")
        return SamSession(self._runner, volumes[0], roi, cache_bytes)
