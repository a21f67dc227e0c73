"""A model that stays loaded from case to case."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from MaskSAMCore.errors import is_out_of_memory

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmenter


class WarmModel:
    """A loaded model that can be loaded again.

    A segmenter whose GPU has too little memory for one case moves to the CPU, where all later cases
    would take many times longer.

    Args:
        load: function that loads the model.

    Attributes:
        segmenter: the model in use.
    """

    def __init__(self, load: Callable[[], Segmenter]) -> None:
        self._load = load
        self.segmenter = load()
        self._device = self.segmenter.device.device

    def restore(self, error: Exception | None) -> None:
        """Load the model again if its GPU ran out of memory in the last case.

        If it cannot be loaded now, the segmenter in use stays until after the next case.

        Args:
            error: error of the last case; None without one.
        """
        if self._device.type == "cpu":
            return
        import torch

        moved = self.segmenter.device.device != self._device
        if not moved and (error is None or not is_out_of_memory(error)):
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            self.segmenter = self._load()
        except (MemoryError, OSError, RuntimeError, ValueError):
            # The memory is still taken, perhaps by another program.
            return
