"""Slicer's terminology entries of labels, and the list of codes that ships with the models."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from MaskSAMCore.labels import Code, Label, Terminology
from MaskSAMCore.resources import resources

# Slicer's own lists: one for codes that the shipped list does not have, and one for regions.
_SLICER_CONTEXT = "Segmentation category and type - DICOM master list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"


def terminology_file() -> Path:
    """Return the file with the structures, sides and parts of the bundled models, in the format of
    Slicer's Terminologies module."""
    return resources() / "Terminologies" / "SegmentationCategoryTypeModifier-MaskSAM.term.json"


def terminology_entry(label: Label) -> str:
    """Return Slicer's TerminologyEntry of a segment, empty for a label without terminology.

    Context, category, type, modifier and region are joined with ``~``, and the parts of a code with
    ``^``. The context is the list in which Slicer's terminology selector looks the codes up.
    """
    terms = label.terminology
    if terms is None:
        return ""
    context, known = _shipped_codes()
    codes = tuple(_key(code) for code in (terms.category, terms.type, terms.type_modifier))
    return "~".join(
        [
            context if codes in known else _SLICER_CONTEXT,
            _joined(terms.category),
            _joined(terms.type),
            _joined(terms.type_modifier),
            _REGION_CONTEXT,
            _joined(terms.region),
            _joined(terms.region_modifier),
        ]
    )


def terminology_of(entry: str) -> Terminology | None:
    """Return the codes of Slicer's TerminologyEntry of a segment; None without category and type.

    See :func:`terminology_entry`.
    """
    codes = [_separated(part) for part in entry.split("~")]
    if len(codes) < 3 or codes[1] is None or codes[2] is None:
        return None
    optional = [*codes[3:4], *codes[5:7]]
    return Terminology(codes[1], codes[2], *optional)


@cache
def _shipped_codes() -> tuple[str, frozenset[tuple[tuple[str, str], ...]]]:
    """Return the name of the shipped list, and its combinations of category, type and modifier."""
    content = json.loads(terminology_file().read_text(encoding="utf-8"))
    known = set()
    for category in content["SegmentationCodes"]["Category"]:
        for kind in category["Type"]:
            for modifier in (None, *kind.get("Modifier", ())):
                entries = (category, kind, modifier)
                known.add(tuple(_key(None if e is None else _code(e)) for e in entries))
    return content["SegmentationCategoryTypeContextName"], frozenset(known)


def _code(entry: dict[str, str]) -> Code:
    return Code(entry["CodingSchemeDesignator"], entry["CodeValue"], entry["CodeMeaning"])


def _key(code: Code | None) -> tuple[str, str]:
    return ("", "") if code is None else (code.scheme, code.value)


def _joined(code: Code | None) -> str:
    return "^^" if code is None else f"{code.scheme}^{code.value}^{code.meaning}"


def _separated(text: str) -> Code | None:
    parts = text.split("^")
    return Code(*parts) if len(parts) == 3 and all(parts) else None
