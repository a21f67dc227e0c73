"""A SAM or MedSAM checkpoint as a model of the product: one segment for each name of a box."""

from __future__ import annotations

from collections.abc import Sequence

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference.device import DeviceChoice, choose_device
from MaskSAMCore.inference.sam.runner import SamRunner
from MaskSAMCore.inference.sam.session import SamSession
from MaskSAMCore.inference.segmenter import CACHE_BYTES, Segmenter, TestTimeAugmentation
from MaskSAMCore.modeling.sam.predictor import PlainSam


class SamSegmenter(Segmenter):
    """Segments anything by a box; it has no classes of its own. What differs from other models:
    :meth:`open`, and :meth:`SamSession.segment`.

    Example:
        >>> segmenter = Segmenter.from_model("sam_vit_b")
        >>> result = segmenter.segment(volume, boxes=[Box("Tumour", (10, 12, 8), (30, 31, 20))])

    Args:
        model: the SAM.
        preparation: "sam" or "medsam": how the checkpoint wants its slices.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        name: of the model, for people.

    Raises:
        MaskSAMError: the device cannot be used.
    """

    needs_boxes = True

    def __init__(
        self, model: PlainSam, preparation: str = "sam", *, device: str = "auto", name: str = ""
    ) -> None:
        self.labels = ()
        self.name = name
        self._sam = SamRunner(model, preparation, choose_device(device))

    @property
    def channels(self) -> int:
        """SAM looks at one image."""
        return 1

    @property
    def device(self) -> DeviceChoice:
        """The device in use and why; it becomes the CPU where a GPU's memory ran out."""
        return self._sam.choice

    def open(
        self,
        volume: Volume | Sequence[Volume],
        *,
        roi: Box | None = None,
        tta: TestTimeAugmentation = "none",
        cache_bytes: int = CACHE_BYTES,
    ) -> SamSession:
        """Hold a volume open, so that boxes cost a decode only.

        Args:
            volume: the image.
            roi: the part that SAM is shown, in IJK voxel edges: what is outside it is neither seen
                nor segmented, and what is inside is seen larger.
            tta: must be "none".
            cache_bytes: see :meth:`Segmenter.open`.
        """
        if tta != "none":
            raise MaskSAMError("mirrored passes are for models without boxes: choose none")
        volumes = (volume,) if isinstance(volume, Volume) else tuple(volume)
        if len(volumes) != 1:
            raise MaskSAMError(f"this model takes one image, but {len(volumes)} are given")
        return SamSession(self._sam, volumes[0], roi, cache_bytes)
