"""A SAM on its device: a slice to its embedding, boxes on it to masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.errors import OutOfMemory
from MaskSAMCore.inference.device import DeviceChoice, is_out_of_memory, mixed_precision
from MaskSAMCore.inference.sam.preprocessing import PREPARATIONS
from MaskSAMCore.modeling.sam.predictor import BlockCallback, PlainSam

Result = TypeVar("Result")


class SamRunner:
    """Runs a SAM slice by slice; on a GPU whose memory runs out, it goes on on the CPU.

    Attributes:
        choice: the device in use and why.
        notes: what changed, for people.
        blocks: of the image encoder.

    Args:
        model: the SAM.
        preparation: "sam" or "medsam".
        choice: the device to begin with.
    """

    def __init__(self, model: PlainSam, preparation: str, choice: DeviceChoice) -> None:
        self.model = model
        self.choice = choice
        self.notes: list[str] = []
        self.blocks = model.config.depth
        self._preparation = PREPARATIONS[preparation]
        model.eval().to(choice.device)

    @torch.inference_mode()
    def encode(self, grey: NDArray[np.uint8], each_block: BlockCallback) -> Tensor:
        """The embedding (1, C, h, w) of a slice (rows, columns), float32 on the device.

        Args:
            grey: the slice.
            each_block: called before each block of the encoder; it may raise to stop.
        """
        image = self._preparation.image(grey, self.model.image_size)

        def work() -> Tensor:
            device = self.choice.device
            with mixed_precision(device):
                return self.model.encode(image.to(device), each_block).float()

        return self._with_memory(work)

    @torch.inference_mode()
    def logits(
        self, embedding: Tensor, boxes: NDArray[np.float64], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Mask logits (N, rows, columns) of boxes (N, 4), x1 y1 x2 y2 in pixels of the slice, on
        its ``shape``; above 0 is inside. Always in float32: decoding never rounds a box."""
        size = self.model.image_size
        prompts = self._preparation.boxes(boxes, shape, size)

        def work() -> Tensor:
            device = self.choice.device
            masks = self.model.decode(embedding.to(device), prompts.to(device))
            return self._preparation.logits(masks, shape, size).cpu()

        logits: NDArray[np.float32] = self._with_memory(work).numpy()
        return logits

    def _with_memory(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
                raise
        # Outside the handler, which would hold on to what the failed try allocated.
        device = self.choice.device
        if device.type == "cpu":
            raise OutOfMemory(
                "this computer's memory is too small for one slice of this model: close other"
                " programs or choose a smaller model"
            )
        self.choice = DeviceChoice(torch.device("cpu"), f"{device} ran out of memory")
        self.model.to(self.choice.device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        self.notes.append(f"{device} ran out of memory: continuing on the CPU")
        return self._with_memory(work)
