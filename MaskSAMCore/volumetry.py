"""Tables of structure volumes, with the asymmetry of paired structures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.io.files import write_text
from MaskSAMCore.labels import side_of

COLUMNS = ("structure", "score", "volume_ml", "asymmetry_percent")
# A class may be wrong where the bound of its expected Dice is lower.
LOW_DICE = 0.7
# Further columns where the model estimates the Dice of its results.
DICE_COLUMNS = ("expected_dice", "expected_dice_low")


@dataclass(frozen=True)
class StructureVolume:
    """A row of the table: the volume of one class.

    Attributes:
        name: class name.
        confidence: mean probability over the voxels of the class, 0 to 1.
        ml: volume in ml.
        asymmetry: difference of left and right relative to their mean in percent, positive if the
            left side is larger; None for a class that is not one of two sides.
        expected_dice: Dice with the truth that can be expected; None if it was not estimated.
        expected_dice_low: bound that the Dice exceeds in nine cases of ten; None likewise.
    """

    name: str
    confidence: float
    ml: float
    asymmetry: float | None = None
    expected_dice: float | None = None
    expected_dice_low: float | None = None


def structure_volumes(
    found: Sequence[tuple[str, float, float]],
    voxel_ml: float,
    expected: Mapping[str, tuple[float | None, float | None]] | None = None,
) -> list[StructureVolume]:
    """Return the volume and asymmetry of each class.

    Two classes are the sides of one structure if their names differ only in the word "left" or
    "right", as in "left hippocampus" and "Right-Hippocampus".

    Args:
        found: class name, confidence and number of voxels of each class.
        voxel_ml: volume of a voxel in ml; 1 if the numbers are volumes in ml.
        expected: expected Dice and its bound by class name; None if they were not estimated.

    Returns:
        One row per class, in the same order; both sides of a structure have the same asymmetry.
    """
    sides: dict[str, dict[str, float]] = {}
    for name, _, voxels in found:
        side, structure = side_of(name)
        if side:
            sides.setdefault(structure, {})[side] = voxels * voxel_ml
    rows = []
    for name, confidence, voxels in found:
        both = sides.get(side_of(name)[1], {})
        asymmetry = None
        if side_of(name)[0] and len(both) == 2 and sum(both.values()) > 0:
            asymmetry = 200 * (both["left"] - both["right"]) / (both["left"] + both["right"])
        dice, low = (expected or {}).get(name, (None, None))
        rows.append(StructureVolume(name, confidence, voxels * voxel_ml, asymmetry, dice, low))
    return rows


def estimated(cases: Iterable[Sequence[StructureVolume]]) -> bool:
    """Return whether any row of any case has an expected Dice."""
    return any(row.expected_dice is not None for rows in cases for row in rows)


def worst(rows: Sequence[StructureVolume]) -> StructureVolume | None:
    """Return the row with the lowest bound of the expected Dice; None if no row has one."""
    rated = [row for row in rows if row.expected_dice_low is not None]
    return min(rated, key=lambda row: row.expected_dice_low or 0.0, default=None)


def volume_table(cases: Mapping[str, Sequence[StructureVolume]], separator: str = ",") -> str:
    """Return a table for a spreadsheet, with a heading.

    Args:
        cases: rows of each case by case name. A single case with an empty name gives a table
            without the column of case names; a case without rows gives a row of empty cells.
        separator: separator of the columns.

    Returns:
        CSV, with the columns of the expected Dice if any row has one.
    """
    named = set(cases) != {""}
    columns = (*COLUMNS, *(DICE_COLUMNS if estimated(cases.values()) else ()))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(["case", *columns] if named else columns)
    for case, rows in cases.items():
        if named and not rows:
            writer.writerow([case, *("" for _ in columns)])
        for row in rows:
            asymmetry = "" if row.asymmetry is None else f"{row.asymmetry:.2f}"
            dice = (_number(row.expected_dice), _number(row.expected_dice_low))
            values = (row.name, f"{row.confidence:.4f}", f"{row.ml:.4f}", asymmetry, *dice)
            shown = values[: len(columns)]
            writer.writerow([case, *shown] if named else shown)
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def write_volume_table(
    path: Path, cases: Mapping[str, Sequence[StructureVolume]], overwrite: bool = True
) -> None:
    """Write :func:`volume_table` as a CSV file in UTF-8, complete or not at all.

    Raises:
        MaskSAMError: the file cannot be written, or exists and must not be replaced.
    """
    text = volume_table(cases)
    # Without a byte order mark, Excel reads text beyond ASCII in another encoding.
    write_text(path, text if text.isascii() else "\ufeff" + text, overwrite)
