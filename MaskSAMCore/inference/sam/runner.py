"""A SAM on its device: from a slice to its embedding, and from boxes to masks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from MaskSAMCore.inference.device import DeviceChoice, MemoryFallback, mixed_precision
from MaskSAMCore.inference.sam.preprocessing import PREPARATIONS
from MaskSAMCore.modeling.sam.predictor import BlockCallback, PlainSam


class SamRunner:
    """A SAM on a device, with a fallback when memory runs out.

    Args:
        model: the SAM.
        preparation: "sam" or "medsam", the checkpoint's own preprocessing of slices.
        choice: device to begin with.

    Attributes:
        model: the SAM.
        memory: device in use, which becomes the CPU when a GPU's memory runs out.
        blocks: number of blocks of the image encoder.
    """

    def __init__(self, model: PlainSam, preparation: str, choice: DeviceChoice) -> None:
        self.model = model
        self.memory = MemoryFallback(choice, model.eval().to, "slice")
        self.blocks = model.config.depth
        self._preparation = PREPARATIONS[preparation]

    @property
    def device(self) -> torch.device:
        """Device in use."""
        return self.memory.choice.device

    @torch.inference_mode()
    def encode(self, grey: NDArray[np.uint8], each_block: BlockCallback) -> Tensor:
        """Return the embedding (1, C, h, w) of a slice, float32 on the device.

        Args:
            grey: (rows, columns) grey values of the slice.
            each_block: called before each block of the encoder; it may raise to stop.
        """
        image = self._preparation.image(grey, self.model.image_size)

        def work() -> Tensor:
            device = self.device
            with mixed_precision(device):
                return self.model.encode(image.to(device), each_block).float()

        return self.memory.run(work)

    @torch.inference_mode()
    def logits(
        self, embedding: Tensor, boxes: NDArray[np.float64], shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return the mask logits of boxes, computed in float32 so that the boxes are not rounded.

        Args:
            embedding: (1, C, h, w) of the slice.
            boxes: (N, 4), x1 y1 x2 y2 in pixels of the slice.
            shape: (rows, columns) of the slice.

        Returns:
            (N, rows, columns), above 0 inside the mask.
        """
        size = self.model.image_size
        prompts = self._preparation.boxes(boxes, shape, size)

        def work() -> Tensor:
            device = self.device
            masks = self.model.decode(embedding.to(device), prompts.to(device))
            return self._preparation.logits(masks, shape, size).cpu()

        logits: NDArray[np.float32] = self.memory.run(work).numpy()
        return logits
