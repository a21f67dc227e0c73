"""Coded labels for DICOM segmentations, and readers that are independent of the writer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from MaskSAMCore.geometry import Volume
from MaskSAMCore.labels import Code, Label, Terminology

STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
LEFT = Code("SCT", "7771000", "Left")
RIGHT = Code("SCT", "24028007", "Right")
HIPPOCAMPUS = Code("SCT", "5366008", "Hippocampus")
HEAD = Code("SCT", "69536005", "Head")
# Values with gaps, not in order; by default, `labelmap_of` gives the last class no voxels.
LABELS = (
    Label(53, "right hippocampus", (0.2, 0.4, 0.9), Terminology(STRUCTURE, HIPPOCAMPUS, RIGHT)),
    Label(17, "left hippocampus", (1.0, 0.5, 0.0), Terminology(STRUCTURE, HIPPOCAMPUS, LEFT)),
    Label(
        300,
        "Mandelkörper",
        (0.1, 0.9, 0.1),
        Terminology(STRUCTURE, Code("SCT", "4958002", "Amygdala"), None, HEAD, LEFT),
    ),
    Label(
        301,
        "brain stem",
        (0.5, 0.5, 0.5),
        Terminology(STRUCTURE, Code("SCT", "15926001", "Brainstem")),
    ),
)


def labelmap_of(shape: tuple[int, int, int], labels: Sequence[Label] = LABELS[:-1]) -> np.ndarray:
    """Return a labelmap without any symmetry, with voxels of the given labels in all its parts."""
    values = [0, 0, *(label.value for label in labels)]
    return np.random.default_rng(7).choice(values, size=shape).astype(np.uint16)


def placed_labelmap(path: Path, volume: Volume, labels: Sequence[Label]) -> np.ndarray:
    """Read a DICOM segmentation with pydicom alone, and place each frame by its position.

    Args:
        path: DICOM segmentation.
        volume: volume with the grid of the result; pixels of the frames must lie on its voxels.
        labels: labels whose names are those of the segments.

    Returns:
        uint16 [K, J, I], the values of the labels.
    """
    file = pydicom.dcmread(path)
    values = {label.name[:64]: label.value for label in labels}
    segments = {s.SegmentNumber: values[s.SegmentLabel] for s in file.SegmentSequence}
    shared = file.SharedFunctionalGroupsSequence[0]
    row_spacing, column_spacing = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    directions = np.reshape(
        [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3)
    )
    steps = directions * [[column_spacing], [row_spacing]]
    to_ijk = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ volume.ijk_to_ras)
    found = np.zeros(volume.shape, np.uint16)
    frames = file.pixel_array.reshape(-1, file.Rows, file.Columns)
    for group, frame in zip(file.PerFrameFunctionalGroupsSequence, frames, strict=True):
        position = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        rows, columns = np.nonzero(frame)
        points = np.array(position) + columns[:, None] * steps[0] + rows[:, None] * steps[1]
        ijk = points @ to_ijk[:3, :3].T + to_ijk[:3, 3]
        i, j, k = np.rint(ijk).astype(int).T
        assert np.abs(ijk - np.rint(ijk)).max(initial=0) < 0.05
        assert not found[k, j, i].any()
        found[k, j, i] = segments[segment_of(file, group)]
    return found


def segment_of(file: Dataset, group: Dataset) -> int:
    """Return the segment number in the functional groups of a frame."""
    shared = file.SharedFunctionalGroupsSequence[0]
    owner = group if "SegmentIdentificationSequence" in group else shared
    return int(owner.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def errors_of_dciodvfy(path: Path) -> list[str]:
    """Return the errors and warnings of dciodvfy, the validator of dicom3tools, about a file.

    Reports of missing dates and identifiers of the study are left out: the source has none.
    """
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    doubts = [line for line in lines if line.startswith(("Error", "Warning"))]
    return [line for line in doubts if "needed to build DICOMDIR" not in line]
