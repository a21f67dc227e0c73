"""Sequences of volumes in a real scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from Testing.helpers.threshold_model import one_class, two_blobs
from Testing.slicer.helpers import add_volume

SHAPE = (11, 17, 23)


def frames() -> list[np.ndarray]:
    """Return three frames: both classes, the first class only, and both classes shifted along I."""
    first = two_blobs(SHAPE)
    second = np.where(first == 1, first, one_class(shape=SHAPE))
    return [first, second, np.roll(first, 3, axis=2)]


def add_sequence(
    arrays: Sequence[np.ndarray], ijk_to_ras: np.ndarray, name: str = "cine", browser=None
):
    """Add a sequence of volumes with a browser, as Slicer's loader of 4D files does.

    Args:
        arrays: voxels [K, J, I] of each frame.
        ijk_to_ras: matrix of all frames.
        name: name of the volume that shows the frames.
        browser: browser to add the sequence to; None for a new one.

    Returns:
        The browser, and the volume that shows its frames.
    """
    import slicer

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("ms")
    for number, array in enumerate(arrays):
        volume = add_volume(array, ijk_to_ras, name)
        sequence.SetDataNodeAtValue(volume, str(40 * number))
        slicer.mrmlScene.RemoveNode(volume)
    if browser is None:
        browser = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSequenceBrowserNode", f"{name} browser"
        )
    browser.AddSynchronizedSequenceNode(sequence)
    browser.SetOverwriteProxyName(sequence, False)
    slicer.modules.sequences.logic().UpdateAllProxyNodes()
    return browser, browser.GetProxyNode(sequence)


def show_frame(browser, number: int) -> None:
    """Select a frame in the browser, as the user does."""
    browser.SetSelectedItemNumber(number)
