"""Tables of structure volumes, with the asymmetry of paired structures and the share of each
structure in the intracranial volume."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import write_text
from MaskSAMCore.labels import side_of

COLUMNS = ("structure", "score", "volume_ml", "asymmetry_percent")
# Name of the row with the summed volume of all classes within the skull.
INTRACRANIAL = "intracranial volume"
# Additional column if the intracranial volume is known.
SHARE_COLUMN = "intracranial_percent"
# A class may be wrong if the lower bound of its expected Dice is below this.
LOW_DICE = 0.7
# Additional columns if the model estimates the Dice of its results.
DICE_COLUMNS = ("expected_dice", "expected_dice_low")


@dataclass(frozen=True)
class StructureVolume:
    """A row of the table: the volume of one class, or the intracranial volume.

    Attributes:
        name: class name, or :data:`INTRACRANIAL`.
        confidence: mean probability over the voxels of the class, 0 to 1; None for the intracranial
            volume.
        ml: volume in ml.
        asymmetry: difference of left and right relative to their mean in percent, positive if the
            left side is larger; None for a class that is not one of two sides.
        expected_dice: expected Dice with the true segmentation; None if it was not estimated.
        expected_dice_low: bound that the Dice exceeds in nine out of ten cases; None if it was not
            estimated.
        share: percentage of the intracranial volume; None for a class outside the skull, and where
            the intracranial volume is unknown.
    """

    name: str
    confidence: float | None
    ml: float
    asymmetry: float | None = None
    expected_dice: float | None = None
    expected_dice_low: float | None = None
    share: float | None = None


def structure_volumes(
    found: Sequence[tuple[str, float, float]],
    voxel_ml: float,
    expected: Mapping[str, tuple[float | None, float | None]] | None = None,
    intracranial: Collection[str] = (),
) -> list[StructureVolume]:
    """Return the volume and asymmetry of each class, and the intracranial volume if it is known.

    Two classes are the sides of one structure if their names differ only in the word "left" or
    "right", as in "left hippocampus" and "Right-Hippocampus".

    Args:
        found: class name, confidence and number of voxels of each class.
        voxel_ml: volume of a voxel in ml; 1 if ``found`` has volumes in ml, not voxel numbers.
        expected: expected Dice and its bound by class name; None if they were not estimated.
        intracranial: names of the classes whose volumes add up to the intracranial volume; none if
            it is unknown.

    Returns:
        One row per class, in the order given; both sides of a structure have the same asymmetry.
        The intracranial volume, if it is known and not 0, is the last row.
    """
    sides: dict[str, dict[str, float]] = {}
    for name, _, voxels in found:
        side, structure = side_of(name)
        if side:
            sides.setdefault(structure, {})[side] = voxels * voxel_ml
    total = sum(voxels for name, _, voxels in found if name in intracranial) * voxel_ml
    rows = []
    for name, confidence, voxels in found:
        both = sides.get(side_of(name)[1], {})
        asymmetry = None
        if side_of(name)[0] and len(both) == 2 and sum(both.values()) > 0:
            asymmetry = 200 * (both["left"] - both["right"]) / (both["left"] + both["right"])
        dice, low = (expected or {}).get(name, (None, None))
        ml = voxels * voxel_ml
        share = 100 * ml / total if total > 0 and name in intracranial else None
        rows.append(StructureVolume(name, confidence, ml, asymmetry, dice, low, share))
    if total > 0:
        rows.append(StructureVolume(INTRACRANIAL, None, total, share=100.0))
    return rows


def estimated(cases: Iterable[Sequence[StructureVolume]]) -> bool:
    """Return whether any row of any case has an expected Dice."""
    return any(row.expected_dice is not None for rows in cases for row in rows)


def has_shares(cases: Iterable[Sequence[StructureVolume]]) -> bool:
    """Return whether the intracranial volume of any case is known."""
    return any(row.share is not None for rows in cases for row in rows)


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
        CSV, with columns of the share of the intracranial volume and of the expected Dice if any
        row has them.
    """
    named = set(cases) != {""}
    columns = [*(["case"] if named else []), *COLUMNS]
    columns += [SHARE_COLUMN] if has_shares(cases.values()) else []
    columns += DICE_COLUMNS if estimated(cases.values()) else []
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, restval="", extrasaction="ignore", delimiter=separator, lineterminator="\n"
    )
    writer.writeheader()
    for case, rows in cases.items():
        if named and not rows:
            writer.writerow({"case": case})
        for row in rows:
            writer.writerow({"case": case, **_cells(row)})
    return text.getvalue()


def _cells(row: StructureVolume) -> dict[str, str]:
    """Return the cells of a row as text by column name."""
    return {
        "structure": row.name,
        "score": _number(row.confidence),
        "volume_ml": _number(row.ml),
        "asymmetry_percent": "" if row.asymmetry is None else f"{row.asymmetry:.2f}",
        SHARE_COLUMN: _number(row.share),
        DICE_COLUMNS[0]: _number(row.expected_dice),
        DICE_COLUMNS[1]: _number(row.expected_dice_low),
    }


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


def read_volume_table(path: Path) -> dict[str, list[StructureVolume]]:
    """Return the rows of each case in a file of :func:`write_volume_table`.

    Raises:
        MaskSAMError: the file cannot be read, or is no such table.
    """
    found: dict[str, list[StructureVolume]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            needed, columns = ["case", *COLUMNS], list(reader.fieldnames or ())
            others = {*columns[len(needed) :]}
            if columns[: len(needed)] != needed or others - {SHARE_COLUMN, *DICE_COLUMNS}:
                raise ValueError
            for row in reader:
                rows = found.setdefault(row["case"], [])
                if row["structure"]:
                    rows.append(_volume_of(row))
    except OSError as error:
        raise MaskSAMError(f"{path} cannot be read: {(error.strerror or '').lower()}") from error
    except (TypeError, ValueError) as error:
        raise MaskSAMError(
            f"{path} is no table of volumes that masksam wrote: name another file"
        ) from error
    return found


def _volume_of(row: Mapping[str, str]) -> StructureVolume:
    """Return the row of a table with the given cells, as text by column name."""

    def number(column: str) -> float | None:
        return float(row[column]) if row.get(column) else None

    return StructureVolume(
        row["structure"],
        number("score"),
        float(row["volume_ml"]),
        number("asymmetry_percent"),
        number(DICE_COLUMNS[0]),
        number(DICE_COLUMNS[1]),
        number(SHARE_COLUMN),
    )
