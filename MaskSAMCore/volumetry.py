"""Volumes of what was found, with the asymmetry of left and right, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.labels import side_of

COLUMNS = ("structure", "score", "volume_ml", "asymmetry_percent")


@dataclass(frozen=True)
class StructureVolume:
    """One line of the table.

    Attributes:
        name: of the class.
        score: mean probability over its voxels, 0 to 1.
        ml: its volume in millilitres.
        asymmetry: left minus right over their mean, in percent: 0 where both are alike, more than 0
            where the left is larger. None where there is no other side.
    """

    name: str
    score: float
    ml: float
    asymmetry: float | None = None


def structure_volumes(
    found: Sequence[tuple[str, float, int]], voxel_ml: float
) -> list[StructureVolume]:
    """The table of a result.

    Two classes are the sides of one structure where their names differ in the word "left" or
    "right" alone, as in "left hippocampus" and "Right-Hippocampus".

    Args:
        found: name, score and number of voxels of each class.
        voxel_ml: volume of a voxel in millilitres.

    Returns:
        One line a class, in the same order; both sides of a structure have the same asymmetry.
    """
    sides: dict[str, dict[str, float]] = {}
    for name, _, voxels in found:
        side, structure = side_of(name)
        if side:
            sides.setdefault(structure, {})[side] = voxels * voxel_ml
    rows = []
    for name, score, voxels in found:
        both = sides.get(side_of(name)[1], {})
        asymmetry = None
        if side_of(name)[0] and len(both) == 2 and sum(both.values()) > 0:
            asymmetry = 200 * (both["left"] - both["right"]) / (both["left"] + both["right"])
        rows.append(StructureVolume(name, score, voxels * voxel_ml, asymmetry))
    return rows


def volume_table(cases: Mapping[str, Sequence[StructureVolume]], separator: str = ",") -> str:
    """Lines of text with a heading, for a spreadsheet.

    Args:
        cases: the table of each case by its name; a single one may go without a name, which leaves
            out the column of names. One in which nothing was found has an empty line.
        separator: between columns.
    """
    named = set(cases) != {""}
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(["case", *COLUMNS] if named else COLUMNS)
    for case, rows in cases.items():
        if named and not rows:
            writer.writerow([case, *("" for _ in COLUMNS)])
        for row in rows:
            asymmetry = "" if row.asymmetry is None else f"{row.asymmetry:.2f}"
            values = [row.name, f"{row.score:.4f}", f"{row.ml:.4f}", asymmetry]
            writer.writerow([case, *values] if named else values)
    return text.getvalue()


def write_volume_table(
    path: Path, cases: Mapping[str, Sequence[StructureVolume]], overwrite: bool = True
) -> None:
    """Writes :func:`volume_table` as a CSV file in UTF-8, complete or not at all.

    Raises:
        MaskSAMError: it cannot be written, or exists and must not be replaced.
    """
    from MaskSAMCore.io.files import write_text

    text = volume_table(cases)
    # Without the mark, Excel takes what is not plain ASCII for another encoding.
    write_text(path, text if text.isascii() else "\ufeff" + text, overwrite)
