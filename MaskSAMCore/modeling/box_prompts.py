"""Box prompts of the user, as every network receives them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class BoxPrompts(NamedTuple):
    """Boxes of classes in a batch of windows.

    Attributes:
        boxes: (B, K + 1, T, 4), x1 y1 x2 y2 in voxel edges normalised by the window's W and H.
        given: bool (B, K + 1), true for classes that have a box.
        present: bool (B, K + 1, T), true on slices that the box of the class crosses.
        exact: bool (B, K + 1, T), true where the box is tight on the slice. A 3D box is loose on
            most of its slices, where it only bounds the class. None if all boxes are exact.
    """

    boxes: Tensor
    given: Tensor
    present: Tensor
    exact: Tensor | None = None
