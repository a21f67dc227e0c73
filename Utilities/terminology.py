"""Write the terminology of the bundled models: the list of codes from which Slicer's users choose.

Slicer's own lists lack some structures, sides and parts; run this after a model's labels changed::

    python Utilities/terminology.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "Resources" / "Models"
TARGET = ROOT / "Resources" / "Terminologies" / "SegmentationCategoryTypeModifier-MaskSAM.term.json"
CONTEXT = "Segmentation category and type - MaskSAM"
SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/segment-context-schema.json#"


def terminology(models: Path) -> dict[str, Any]:
    """Return Slicer's terminology context of all labels in a folder of model bundles."""
    categories: list[dict[str, Any]] = []
    for bundle in sorted(models.glob("*/masksam.json")):
        for label in json.loads(bundle.read_text(encoding="utf-8"))["labels"]:
            _add(categories, label)
    return {
        "SegmentationCategoryTypeContextName": CONTEXT,
        "@schema": SCHEMA,
        "SegmentationCodes": {"Category": categories},
    }


def _add(categories: list[dict[str, Any]], label: dict[str, Any]) -> None:
    codes = label["terminology"]
    if codes is None:
        return
    color = [round(255 * part) for part in label["color"]]
    shown = {"recommendedDisplayRGBValue": color, "3dSlicerLabel": label["name"]}
    # Slicer shows regions for categories whose structures may lie anywhere, such as lesions.
    anywhere = codes["region"] is not None
    category = _entry(categories, codes["category"], {"showAnatomy": anywhere, "Type": []})
    if codes["type_modifier"] is None:
        _entry(category["Type"], codes["type"], shown)
        return
    kind = _entry(category["Type"], codes["type"], {"recommendedDisplayRGBValue": color})
    _entry(kind.setdefault("Modifier", []), codes["type_modifier"], shown)


def _entry(
    entries: list[dict[str, Any]], code: dict[str, str], members: dict[str, Any]
) -> dict[str, Any]:
    """Return the entry of a code; a new entry is added with the given members."""
    for entry in entries:
        known = (entry["CodingSchemeDesignator"], entry["CodeValue"])
        if known == (code["scheme"], code["value"]):
            return entry
    entries.append(
        {
            "CodingSchemeDesignator": code["scheme"],
            "CodeValue": code["value"],
            "CodeMeaning": code["meaning"],
            **members,
        }
    )
    return entries[-1]


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(terminology(MODELS), indent=1) + "\n", encoding="utf-8")
    print(TARGET)
