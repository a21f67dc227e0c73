"""A model on its device: batches that shrink, and the CPU, where memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from MaskSAMCore.errors import MaskSAMError, OutOfMemory
from MaskSAMCore.inference.device import DeviceChoice, mixed_precision
from MaskSAMCore.inference.embedding_cache import map_tensors
from MaskSAMCore.inference.proposals import likely_boxes
from MaskSAMCore.modeling.box_prompts import BoxPrompts

# Windows at a time. On a CPU one keeps the caches warm and a cancel quick.
GPU_BATCH = 4
CPU_BATCH = 1


class SemanticPrediction(Protocol):
    """What a decoder returns."""

    def semantic(self) -> Tensor:
        """(B, K + 1, T, H, W) scores >= 0, background first; their sum may be any."""
        ...


class SegmentationModel(Protocol):
    """What the engine asks of a network: MaskSAM and any other with this interface."""

    @property
    def config(self) -> Any:
        """Has `window` (T, H, W), `in_channels` and `num_classes` (K foreground classes); where it
        has `every_slice`, windows are centred on every slice."""
        ...

    def encode(self, images: Tensor) -> Any:
        """(B, C, T, H, W) to an embedding, whose tensors have the batch first."""
        ...

    def decode(self, embedding: Any, prompts: BoxPrompts | None = None) -> SemanticPrediction:
        """A prediction, with a person's boxes where there are any."""
        ...


@dataclass(frozen=True)
class AutomaticScores:
    """A prediction without a person's boxes.

    Attributes:
        scores: (B, K + 1, T, H, W) float32, on the CPU.
        boxes: for models that propose boxes, (B, K, T, 5) of each class (see
            `proposals.likely_boxes`).
        class_logits: for these models, of their queries.
    """

    scores: Tensor
    boxes: Tensor | None = None
    class_logits: Tensor | None = None


class Runner:
    """Runs a network on a device.

    Attributes:
        choice: the device in use and why; it changes where the GPU's memory runs out.
        batch: windows that are encoded together.
    """

    def __init__(self, model: SegmentationModel, choice: DeviceChoice) -> None:
        self.model = model
        self._use(choice)

    def _use(self, choice: DeviceChoice) -> None:
        self.choice = choice
        self.batch = CPU_BATCH if choice.device.type == "cpu" else GPU_BATCH
        if isinstance(self.model, torch.nn.Module):
            self.model.eval().to(choice.device)

    @property
    def window(self) -> tuple[int, int, int]:
        """(T, H, W) of the network's windows."""
        return tuple(self.model.config.window)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Any:
        """Windows (B, C, T, H, W) to an embedding on the device.

        Encoding is the heavy part and runs in mixed precision where the device has it; what it
        yields is float32, so that decoding never rounds a box.
        """
        device = self.choice.device
        with mixed_precision(device):
            embedding = self.model.encode(images.to(device))
        return map_tensors(embedding, lambda t: t.float() if t.is_floating_point() else t)

    @torch.inference_mode()
    def class_scores(
        self, embedding: Any, prompts: BoxPrompts, label: int, class_logits: Tensor | None
    ) -> Tensor:
        """(B, T, H, W) float32 scores of one class from its boxes, on the CPU.

        Args:
            embedding: of the windows.
            prompts: boxes, of this class at least.
            label: the class, 1 to K.
            class_logits: of :meth:`automatic` on the same windows; with them, a network that can
                (`decode_class`) decodes only what shows the class.
        """
        device = self.choice.device
        prompts = map_tensors(prompts, lambda t: t.to(device))
        model: Any = self.model
        if class_logits is not None and hasattr(model, "decode_class"):
            scores = model.decode_class(embedding, class_logits.to(device), prompts, label)
        else:
            scores = model.decode(embedding, prompts).semantic()[:, label]
        return scores.float().cpu()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def automatic(self, embedding: Any) -> AutomaticScores:
        """What the network says without any box from a person."""
        prediction: Any = self.model.decode(embedding)
        scores = prediction.semantic().float().cpu()
        if not (hasattr(prediction, "boxes") and hasattr(prediction, "class_logits")):
            return AutomaticScores(scores)
        boxes = likely_boxes(prediction.class_logits, prediction.boxes).cpu()
        return AutomaticScores(scores, boxes, prediction.class_logits.cpu())

    def shrink(self) -> str:
        """After memory ran out: smaller batches, then the CPU. Returns the change in words.

        Raises:
            OutOfMemory: one window on the CPU is already too much.
        """
        device = self.choice.device
        if self.batch > 1:
            self.batch //= 2
            note = f"{device} ran out of memory: continuing with {self.batch} window(s) at a time"
        elif device.type != "cpu":
            self._use(DeviceChoice(torch.device("cpu"), f"{device} ran out of memory"))
            note = f"{device} ran out of memory: continuing on the CPU"
        else:
            raise OutOfMemory(
                "this computer's memory is too small for one window of this model: close other"
                " programs or choose a smaller model"
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return note


def check_model(model: SegmentationModel, labels: Sequence[object]) -> None:
    """Refuse labels that do not fit the network.

    Raises:
        MaskSAMError: their number differs from the network's classes.
    """
    classes = model.config.num_classes
    if classes != len(labels):
        raise MaskSAMError(f"the model has {classes} classes, but {len(labels)} labels are given")
