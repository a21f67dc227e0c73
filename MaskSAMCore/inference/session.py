"""Interface of an open volume, which can be segmented again with other boxes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from MaskSAMCore.callbacks import CancelledCallback, ProgressCallback
from MaskSAMCore.geometry import Box
from MaskSAMCore.inference.results import Segmentation

if TYPE_CHECKING:
    from typing_extensions import Self


class Session(Protocol):
    """An open volume with its embeddings, so that a changed box only needs decoding.

    Example:
        >>> with segmenter.open(volume) as session:
        ...     first = session.segment()
        ...     second = session.segment(boxes=[Box("Anterior", (10, 12, 8), (30, 31, 20))])
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def memory_bytes(self) -> int:
        """Bytes of embeddings, scores and labelmaps in memory."""
        ...

    def close(self) -> None:
        """Free the embeddings and scores; the session cannot be used afterwards."""
        ...

    def segment(
        self,
        boxes: Sequence[Box] | None = None,
        *,
        overwrite: bool = False,
        progress: ProgressCallback | None = None,
        cancelled: CancelledCallback | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment the volume.

        Args:
            boxes: all boxes of the user, in IJK voxel edges, each with the name of a class.
            overwrite: True lets a class with boxes take voxels of a class without boxes.
            progress: called with (stage, fraction done, seconds left or None).
            cancelled: polled before each step; True stops the run.
            probabilities: True adds the probabilities of all classes to the result.

        Raises:
            MaskSAMError: the session is closed, or a box cannot be used.
            Cancelled: `cancelled` returned True.
        """
        ...
