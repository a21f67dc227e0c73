"""Record of one case: its status, costs, and the volume and confidence of each class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from MaskSAMCore.volumetry import StructureVolume, structure_volumes

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmentation

Status = Literal["done", "skipped", "failed", "started"]


@dataclass(frozen=True)
class CaseRecord:
    """Outcome of a case.

    Attributes:
        case: name of the case.
        status: "done", "skipped" (the outputs existed, or the image is no scan to segment),
            "failed", or "started" while the case is being segmented.
        reason: reason why the case is skipped or failed, one line.
        inputs: images of the case.
        output: file of the labelmap; None if there is none.
        seconds: time for reading, segmenting and writing; None if nothing was done.
        peak_memory_mb: peak of the process's memory while the case was segmented; None if unknown.
        volumes: volume and confidence of each class that was found, and the intracranial volume if
            it is known.
        notes: messages for the user.
        model: name of the model.
        model_version: first digits of the SHA-256 of the model's weights.
        software: name and version of the software.
        settings: settings that change the labels, see :attr:`CaseSettings.recorded`.
    """

    case: str
    status: Status
    reason: str = ""
    inputs: tuple[Path, ...] = ()
    output: Path | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    volumes: tuple[StructureVolume, ...] = ()
    notes: tuple[str, ...] = ()
    model: str = ""
    model_version: str = ""
    software: str = ""
    settings: str = ""


def volumes_of(result: Segmentation) -> list[StructureVolume]:
    """Return the volume, asymmetry and expected Dice of each class that was found, and the
    intracranial volume if it is known."""
    found = [(found.name, found.confidence, found.voxel_count) for found in result.instances]
    expected = {one.name: (one.expected_dice, one.expected_dice_low) for one in result.instances}
    return structure_volumes(found, result.volume.voxel_ml, expected, result.intracranial)


def count_statuses(records: Iterable[CaseRecord]) -> dict[Status, int]:
    """Return the number of cases of each status."""
    counts: dict[Status, int] = {"done": 0, "skipped": 0, "failed": 0, "started": 0}
    for record in records:
        counts[record.status] += 1
    return counts
