"""Images with unusual intensities, voxel sizes and extents, and the outcome of segmenting each.

The cases are tested, and listed in ``Docs/inputs.md``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.models import Suitability

# Suitability of the model that segments the cases.
SUITABILITY = Suitability("MR", (0.5, 6.0), True, ((10, 24), (10, 24), (10, 24)))
_SHAPE = (12, 20, 24)


@dataclass(frozen=True)
class ImageCase:
    """A kind of image.

    Attributes:
        title: short description of the image for the table.
        make: function that returns the image.
        outcome: result of segmenting the image.
        message: regular expression for the note or the error; empty if there is neither.
        reason: why the image is refused, or how it is handled, for the table.
        roi: region to segment; None for the whole image.
    """

    title: str
    make: Callable[[], Volume]
    outcome: Literal["segmented", "segmented with a note", "refused"]
    message: str = ""
    reason: str = ""
    roi: Box | None = None


def table(cases: Sequence[ImageCase]) -> str:
    """Return the Markdown table of some cases."""
    rows = [f"| {case.title} | {case.outcome} | {case.reason} |" for case in cases]
    return "\n".join(["| Image | Outcome | |", "|---|---|---|", *rows])


def check(case: ImageCase, segmenter: Segmenter) -> None:
    """Segment the image of a case and check the outcome."""
    volume = case.make()
    if case.outcome == "refused":
        with pytest.raises(MaskSAMError, match=case.message) as error:
            segmenter.segment(volume, roi=case.roi)
        assert "'scan'" in str(error.value)
        assert "\n" not in str(error.value)
        return
    notes = segmenter.segment(volume, roi=case.roi).notes
    assert len(notes) == (case.outcome == "segmented with a note"), notes
    assert all(re.search(case.message, note) for note in notes), notes


def tissue(shape: tuple[int, int, int] = _SHAPE) -> NDArray[np.float64]:
    """Return positive intensities like those of MR."""
    return np.abs(np.random.default_rng(1).normal(500, 100, shape))


def scan(
    array: NDArray[Any] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.5),
    modality: str = "",
) -> Volume:
    """Return a volume with axes along R, A, S; ``spacing`` is in mm along I, J, K."""
    array = tissue() if array is None else array
    return Volume(array, np.diag([*spacing, 1.0]), "scan", modality=modality)


def with_slices(value: float, dtype: str = "float64") -> Volume:
    """Return a volume whose first two slices have one value."""
    array = tissue().astype(dtype)
    array[:2] = value
    return scan(array)


def with_voxels(*values: float) -> Volume:
    """Return a volume with some voxels of given values."""
    array = tissue()
    array[6, 8, : len(values)] = values
    return scan(array)


CASES = (
    ImageCase(
        "all voxels equal (0, 7, NaN read as 0)",
        lambda: scan(np.full(_SHAPE, 7, np.int16)),
        "refused",
        "no contrast .all voxels are 7",
        "the file is blank; a network would invent structures",
    ),
    ImageCase(
        "an ROI whose voxels are equal",
        lambda: with_slices(0),
        "refused",
        "the ROI in the volume .* has no contrast",
        "the ROI lies beside the body",
        Box("", (0, 0, 0), (10, 10, 2)),
    ),
    ImageCase(
        "all voxels equal but for 8, or 0.01 % of them",
        lambda: scan(np.where(np.arange(5760).reshape(_SHAPE) % 1000 == 7, 9, 7)),
        "refused",
        "no contrast .all but 6 voxels are 7",
        "the file is blank",
    ),
    ImageCase(
        "two intensities, or up to 32 that are whole numbers",
        lambda: scan((tissue() > 500).astype(np.float32) * 0.3),
        "segmented with a note",
        "as masks and labelmaps have",
        "a mask or labelmap in place of its image",
    ),
    ImageCase(
        "a range of intensities below 1e-8, absolute or relative",
        lambda: scan(tissue() * 1e-14),
        "refused",
        "no contrast",
        "scale such images",
    ),
    ImageCase(
        "intensities scaled by 1e-10 to 1e30",
        lambda: scan(tissue() * 1e30),
        "segmented",
        reason="networks see deviations from the mean",
    ),
    ImageCase(
        "NaN or infinite voxels",
        lambda: with_slices(np.nan),
        "refused",
        "not numbers",
        "in NIfTI files they are read as 0",
    ),
    ImageCase(
        "values beyond 1e38",
        lambda: with_slices(-1.797e308),
        "refused",
        "too large to compute with",
        "fill values, which must be replaced",
    ),
    ImageCase(
        "padding far below or above all tissue, such as -32768 or 1e30",
        lambda: with_slices(-32768, "int16"),
        "segmented with a note",
        "960 voxels of 'scan' are -32768: ignored as padding",
        "becomes background, except in CT, which is clipped anyway",
    ),
    ImageCase(
        "padding that is the only negative value, such as -2000 in MR",
        lambda: with_slices(-2000),
        "segmented with a note",
        "960 voxels of 'scan' are -2000: ignored as padding",
        "becomes background",
    ),
    ImageCase(
        "single voxels far from all others",
        lambda: with_voxels(1e8, 2e8),
        "segmented with a note",
        "2 voxels of 'scan', up to 2e.08, lay far .* were clipped",
        "clipped to the brightest or darkest others",
    ),
    ImageCase(
        "voxels of 50 mm and more",
        lambda: scan(spacing=(1000, 1000, 1000)),
        "refused",
        "voxels of 1000 x 1000 x 1000 mm .* unit",
        "micrometres instead of mm",
    ),
    ImageCase(
        "voxels far finer than the model's (200 times and more)",
        lambda: scan(spacing=(0.001, 0.001, 0.001)),
        "refused",
        "this model works at 2 x 1 x 1 mm: check the unit",
        "metres instead of mm",
    ),
    ImageCase(
        "voxels far larger than the model's (500 times its volume, and 4 million on its grid)",
        lambda: scan(tissue((34, 47, 40)), (12, 12, 12)),
        "refused",
        "12 x 12 x 12 mm .* this model works at",
        "the run would take hours",
    ),
    ImageCase(
        "slices of 6 mm",
        lambda: scan(spacing=(0.5, 0.5, 6.0), array=tissue((5, 40, 40))),
        "segmented",
        reason="within the voxel sizes of this model",
    ),
    ImageCase(
        "voxel sizes outside those of the model",
        lambda: scan(tissue((2, 4, 4)), (5.0, 5.0, 10.0)),
        "segmented with a note",
        "made for voxels of 0.5 to 6 mm",
        "the model may perform badly",
    ),
    ImageCase(
        "air in Hounsfield units, for a model of MR",
        lambda: with_slices(-1000),
        "segmented with a note",
        "made for MR, but the volume looks like CT",
        "unless DICOM states MR",
    ),
    ImageCase(
        "a modality in DICOM other than the model's",
        lambda: scan(modality="PT"),
        "segmented with a note",
        "looks like PT",
        "the model may perform badly",
    ),
    ImageCase(
        "an extent above twice the largest image in training",
        lambda: scan(tissue((6, 10, 50))),
        "segmented with a note",
        "needs an ROI around the structure: it was trained on images of up to 24",
        "an ROI avoids it",
    ),
    ImageCase(
        "the same inside an ROI",
        lambda: scan(tissue((6, 10, 50))),
        "segmented",
        roi=Box("", (3, 2, 1), (20, 9, 5)),
    ),
    ImageCase(
        "an extent below half of the structures in training",
        lambda: scan(tissue((12, 20, 4))),
        "segmented with a note",
        "its structures together measured 10 x 10 x 10 mm or more",
        "parts of the structures are missing",
    ),
)
