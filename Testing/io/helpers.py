"""Volumes, labelmaps and labels that the tests of reading and writing share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import read_volume
from MaskSAMCore.labels import Code, Label, Terminology

LABELS = [
    Label(
        1,
        "Anterior",
        (1.0, 0.5, 0.25),
        Terminology(
            Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", "4958002", "Amygdala")
        ),
    ),
    Label(2, "Postérieur", (0.0, 1.0, 0.0)),
    Label(300, "Rare", (0.0, 0.0, 1.0)),
]


def oblique_volume(mirrored: bool = False) -> Volume:
    """Return an oblique, anisotropic volume; its axes are left-handed if mirrored."""
    matrix = np.eye(4)
    rotation = Rotation.from_euler("xyz", [20, 30, 10], degrees=True).as_matrix()
    matrix[:3, :3] = rotation @ np.diag([-0.7 if mirrored else 0.7, 0.8, 2.5])
    matrix[:3, 3] = 11, -22, 33
    array = np.random.default_rng(0).normal(size=(9, 11, 13)).astype(np.float32)
    return Volume(array, matrix, "case")


def labelmap_on(volume: Volume) -> np.ndarray:
    """Return a labelmap on the grid of :func:`oblique_volume` with all values of LABELS."""
    labelmap = np.zeros(volume.shape, dtype=np.int64)
    labelmap[2:4, 3:7, 5:9] = 1
    labelmap[5, 5, 5] = 2
    labelmap[6, 6, 6] = 300
    return labelmap


def read_or_refused(path: Path) -> Volume | str:
    """Return the volume of a file, or the one-line message of the refusal."""
    try:
        return read_volume(path)
    except MaskSAMError as error:
        message = str(error)
    assert "\n" not in message
    return message


_rotations = st.builds(
    lambda *angles: Rotation.from_euler("xyz", angles, degrees=True).as_matrix(),
    *[st.sampled_from([0, 0, 10, 45, 90, 180, -120])] * 3,
)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Return a matrix with axes at right angles, of either handedness."""
    matrix = np.eye(4)
    sizes = draw(st.tuples(*[st.sampled_from([0.4, 1.0, 2.5])] * 3))
    matrix[:3, :3] = draw(_rotations) * sizes * [draw(st.sampled_from([1, -1])), 1, 1]
    matrix[:3, 3] = draw(st.tuples(*[st.sampled_from([0.0, -90.5, 33.25])] * 3))
    return matrix
