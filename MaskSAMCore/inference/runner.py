"""A network on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from MaskSAMCore.inference.device import DeviceChoice, MemoryFallback, mixed_precision
from MaskSAMCore.inference.embedding_cache import map_tensors
from MaskSAMCore.inference.parallel import cpu_threads
from MaskSAMCore.inference.proposals import likely_boxes
from MaskSAMCore.modeling import BoxPrompts, Network

# Windows that are processed together on a GPU, as one batch.
GPU_BATCH = 4

Item = TypeVar("Item")


@dataclass(frozen=True)
class AutomaticScores:
    """Scores of a batch of windows without boxes of the user, on the CPU.

    Attributes:
        scores: float32 (B, K + 1, T, H, W), background first, without a refiner's decisions.
        boxes: (B, K, T, 5), boxes of the classes, see :func:`proposals.likely_boxes`; None for a
            network without queries.
        class_logits: (B, N, T, K + 2) of the queries; None for a network without queries.
        shares: float32 (B, R + 1, T, H, W) of the refined classes in their own voxels, see
            :meth:`WindowPrediction.shares`; None for a network without a refiner.
    """

    scores: Tensor
    boxes: Tensor | None = None
    class_logits: Tensor | None = None
    shares: Tensor | None = None


class Runner:
    """A network on a device, with a fallback when memory runs out.

    Args:
        model: the network.
        choice: device to begin with.
        batch_size: windows that are processed together; None for 4 on a GPU, and for 2 on a CPU
            with two cores or more.

    Attributes:
        model: the network.
        memory: device and batch size in use, which change when memory runs out.
    """

    def __init__(self, model: Network, choice: DeviceChoice, batch_size: int | None = None) -> None:
        if batch_size is None:
            on_cpu = choice.device.type == "cpu"
            batch_size = cpu_threads() if on_cpu else GPU_BATCH
        self.model = model
        self.memory = MemoryFallback(choice, model.eval().to, "window", batch_size)

    @property
    def device(self) -> torch.device:
        """Device in use."""
        return self.memory.choice.device

    @property
    def window(self) -> tuple[int, int, int]:
        """Shape (T, H, W) of the network's windows in voxels."""
        return self.model.config.window

    def batches(self, items: Sequence[Item], together: int) -> tuple[list[Sequence[Item]], int]:
        """Return items in the batches that the network processes, and the number of threads.

        Args:
            items: items in order.
            together: items that are processed at the same time: in a batch on a GPU, on threads
                on a CPU.
        """
        if self.device.type == "cpu":
            return [[item] for item in items], together
        return [items[i : i + together] for i in range(0, len(items), together)], 1

    @torch.inference_mode()
    def encode(self, images: Tensor, fine: Tensor | None = None, small: bool | None = None) -> Any:
        """Return the embedding of windows, float32 on the device.

        Encoding takes most of the time and runs in mixed precision if the device has it. Decoding
        runs in float32, which does not round the boxes.

        Args:
            images: (B, C, T, H, W).
            fine: the same windows in the voxels of the refined classes, if these are smaller.
            small: result of :meth:`.Network.is_small` for the image that the windows show.
        """
        device = self.device
        both = (images,) if fine is None else (images, fine)
        known: dict[str, Any] = {} if small is None else {"small": small}
        with mixed_precision(device):
            embedding = self.model.encode(*(part.to(device) for part in both), **known)
        return map_tensors(embedding, lambda t: t.float() if t.is_floating_point() else t)

    @torch.inference_mode()
    def class_scores(
        self, embedding: Any, prompts: BoxPrompts, class_index: int, class_logits: Tensor | None
    ) -> Tensor:
        """Return the scores of one class from its boxes.

        Args:
            embedding: result of :meth:`encode`.
            prompts: boxes of the user, among them those of the class.
            class_index: 1 to K.
            class_logits: (B, N, T, K + 2) from :meth:`automatic` for the same windows, so that only
                queries that show the class are decoded; None to decode all.

        Returns:
            float32 (B, T, H, W), on the CPU.
        """
        device = self.device
        prompts = map_tensors(prompts, lambda t: t.to(device))
        if class_logits is not None:
            class_logits = class_logits.to(device)
        return self.model.decode_class(embedding, class_logits, prompts, class_index).float().cpu()

    @torch.inference_mode()
    def automatic(self, embedding: Any, all_queries: bool = True) -> AutomaticScores:
        """Decode windows without boxes of the user.

        Args:
            embedding: result of :meth:`encode`.
            all_queries: False leaves out queries that hardly show anything, which boxes of the user
                may need later.
        """
        model = self.model
        prediction = model.decode(embedding) if all_queries else model.decode_likely(embedding)
        scores, shares = prediction.unrefined().float().cpu(), prediction.shares()
        if shares is not None:
            shares = shares.float().cpu()
        if prediction.boxes is None or prediction.class_logits is None:
            return AutomaticScores(scores, shares=shares)
        boxes = likely_boxes(prediction.class_logits, prediction.boxes).cpu()
        return AutomaticScores(scores, boxes, prediction.class_logits.cpu(), shares)
