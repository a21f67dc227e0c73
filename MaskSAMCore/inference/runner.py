"""A network on its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from MaskSAMCore.inference.device import DeviceChoice, MemoryFallback, mixed_precision
from MaskSAMCore.inference.embedding_cache import map_tensors
from MaskSAMCore.inference.proposals import likely_boxes
from MaskSAMCore.modeling import BoxPrompts, Network

# Windows at a time. On a CPU one keeps the caches warm and a cancel quick.
GPU_BATCH = 4
CPU_BATCH = 1


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

    Args:
        model: the network.
        choice: device to begin with.
        batch_size: windows that are encoded together; None for 4 on a GPU and 1 on the CPU.

    Attributes:
        model: the network.
        memory: device and batch size in use, which change when memory runs out.
    """

    def __init__(self, model: Network, choice: DeviceChoice, batch_size: int | None = None) -> None:
        if batch_size is None:
            batch_size = CPU_BATCH if choice.device.type == "cpu" else GPU_BATCH
        self.model = model
        self.memory = MemoryFallback(choice, model.eval().to, "window", batch_size)

    @property
    def device(self) -> torch.device:
        """Device in use."""
        return self.memory.choice.device

    @property
    def window(self) -> tuple[int, int, int]:
        """(T, H, W) of the network's windows."""
        return self.model.config.window

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Any:
        """Windows (B, C, T, H, W) to an embedding on the device.

        Encoding is the heavy part and runs in mixed precision where the device has it; what it
        yields is float32, so that decoding never rounds a box.
        """
        device = self.device
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
            class_logits: of :meth:`automatic` on the same windows; with them a network with
                queries decodes only those that show the class.
        """
        device = self.device
        prompts = map_tensors(prompts, lambda t: t.to(device))
        if class_logits is not None:
            class_logits = class_logits.to(device)
        return self.model.decode_class(embedding, class_logits, prompts, label).float().cpu()

    @torch.inference_mode()
    def automatic(self, embedding: Any) -> AutomaticScores:
        """What the network says without any box from a person."""
        prediction = self.model.decode(embedding)
        scores = prediction.semantic().float().cpu()
        if prediction.boxes is None or prediction.class_logits is None:
            return AutomaticScores(scores)
        boxes = likely_boxes(prediction.class_logits, prediction.boxes).cpu()
        return AutomaticScores(scores, boxes, prediction.class_logits.cpu())
