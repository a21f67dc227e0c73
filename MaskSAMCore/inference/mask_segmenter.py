"""Segmenter of networks with classes, such as MaskSAM and MA-SAM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.data import Plan
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import SAME_GRID_MM, Box, Volume
from MaskSAMCore.inference.channels import as_channels
from MaskSAMCore.inference.device import DeviceChoice, choose_device
from MaskSAMCore.inference.embedding_cache import CACHE_BYTES
from MaskSAMCore.inference.mask_session import MaskSession
from MaskSAMCore.inference.memory import array_bytes
from MaskSAMCore.inference.quality import checked_estimator
from MaskSAMCore.inference.results import Segmentation
from MaskSAMCore.inference.runner import Runner
from MaskSAMCore.inference.settings import SegmenterSettings
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import Network
from MaskSAMCore.models import ANY_INPUT, Bundle, Suitability, open_model
from MaskSAMCore.models.catalog import VERSION_DIGITS
from MaskSAMCore.models.expected_dice import DiceEstimator
from MaskSAMCore.models.inference_settings import InferenceSettings, TestTimeAugmentation


class MaskSegmenter:
    """A network with classes on its device, see :class:`Segmenter`.

    Args:
        model: network that encodes and decodes windows.
        plan: orientation, spacing and intensities of the network's input.
        labels: classes 1 to K in order.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        inference: settings that decide how scores become a labelmap.
        name: name of the model.
        batch_size: windows that are processed together; None for 4 on a GPU, and for 2 on a CPU
            with two cores or more.
        suitability: inputs that the model was made for; any by default.
        version: first digits of the SHA-256 of the weights.
        estimator: estimator of the Dice of results; None if it cannot be estimated.
        intracranial: names of the classes that fill the skull together; empty if unknown.

    Attributes:
        model: the network.
        settings: settings that do not depend on the device.
        name: name of the model.
        version: first digits of the SHA-256 of the weights; empty if the model has no file.
        needs_boxes: True if the model segments nothing without boxes.

    Raises:
        MaskSAMError: the device cannot be used, or the labels do not fit the network.
    """

    def __init__(
        self,
        model: Network,
        plan: Plan,
        labels: Sequence[Label],
        *,
        device: str = "auto",
        inference: InferenceSettings = InferenceSettings(),
        name: str = "",
        batch_size: int | None = None,
        suitability: Suitability = ANY_INPUT,
        version: str = "",
        estimator: DiceEstimator | None = None,
        intracranial: Sequence[str] = (),
    ) -> None:
        classes = model.config.num_classes
        if classes != len(labels):
            raise MaskSAMError(
                f"the model has {classes} classes, but {len(labels)} labels are given"
            )
        self.model = model
        self.settings = SegmenterSettings(
            plan, tuple(labels), inference, suitability, estimator, tuple(intracranial)
        )
        self.name = name
        self.version = version
        self.needs_boxes = model.config.needs_boxes
        self._runner = Runner(model, choose_device(device), batch_size)

    @staticmethod
    def from_model(name_or_path: str | Path, device: str = "auto") -> MaskSegmenter:
        """Load a model by its name in the catalog or the path of its bundle (a folder or a zip).

        Raises:
            MaskSAMError: there is no such model, its files are damaged, or the device is unusable.
        """
        bundle, sam_checkpoint = open_model(name_or_path)
        return MaskSegmenter.from_bundle(bundle, sam_checkpoint, device)

    @staticmethod
    def from_bundle(
        bundle: Bundle, sam_checkpoint: Path | None = None, device: str = "auto"
    ) -> MaskSegmenter:
        """Load the model of a bundle.

        Args:
            bundle: an open bundle.
            sam_checkpoint: weights of the frozen SAM, see :meth:`Bundle.build`.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".

        Raises:
            MaskSAMError: the weights or the estimator of the Dice do not fit, or the device is
                unusable.
        """
        return MaskSegmenter(
            bundle.build(sam_checkpoint),
            bundle.plan,
            bundle.labels,
            device=device,
            inference=bundle.inference,
            name=bundle.name,
            suitability=bundle.suitability,
            version=bundle.weights_sha256[:VERSION_DIGITS],
            estimator=checked_estimator(bundle),
            intracranial=bundle.intracranial,
        )

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes 1 to K in order."""
        return self.settings.labels

    @property
    def plan(self) -> Plan:
        """Preprocessing of the network's input."""
        return self.settings.plan

    @property
    def channels(self) -> int:
        """Number of images per case."""
        return len(self.plan.channels)

    @property
    def tta(self) -> TestTimeAugmentation:
        """Test-time augmentation that the model is meant to be used with."""
        return self.settings.inference.tta

    @property
    def estimates_dice(self) -> bool:
        """True if the bundle has an estimator of the Dice."""
        return self.settings.estimator is not None

    @property
    def intracranial(self) -> tuple[str, ...]:
        """Names of the classes that fill the skull together; empty if unknown."""
        return self.settings.intracranial

    @property
    def device(self) -> DeviceChoice:
        """Device in use and the reason for it; the CPU once a GPU's memory ran out."""
        return self._runner.memory.choice

    @property
    def memory_bytes(self) -> int:
        """Bytes of the network's weights."""
        model = self.model
        return array_bytes((*model.parameters(), *model.buffers()))

    def doubts(self, volume: Volume | Sequence[Volume], has_roi: bool) -> tuple[str, ...]:
        """Return reasons why the model may perform badly, see :meth:`Segmenter.doubts`."""
        return self.settings.doubts(as_channels(volume), has_roi)

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
        # With boxes the embeddings are used twice: the volume is first segmented without them.
        cache_bytes = CACHE_BYTES if boxes else 0
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
    ) -> MaskSession:
        """Open a volume to segment it several times, see :meth:`Segmenter.open`."""
        if tta not in ("none", "mirror"):
            raise MaskSAMError(f"unknown test-time augmentation '{tta}': choose none or mirror")
        volumes = as_channels(volume)
        self._check_channels(volumes)
        return MaskSession(
            self._runner, self.settings, volumes, roi=roi, tta=tta, cache_bytes=cache_bytes
        )

    def _check_channels(self, volumes: Sequence[Volume]) -> None:
        expected = self.model.config.in_channels
        if len(volumes) != expected:
            names = ", ".join(self.plan.channels)
            raise MaskSAMError(
                f"this model takes {expected} image(s) a case ({names}), but {len(volumes)} are"
                " given"
            )
        first = volumes[0]
        for other in volumes[1:]:
            if not first.same_grid(other, SAME_GRID_MM):
                raise MaskSAMError(
                    "the channels of a case must share one grid: resample them to the same size,"
                    " spacing, origin and directions"
                )
