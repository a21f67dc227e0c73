"""Slicer's terminology entries, and the list of codes that ships with the bundled models."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location

from MaskSAMCore.labels import Code, Label, Terminology
from MaskSAMCore.terminology import terminology_entry, terminology_file
from Testing.helpers.paths import ROOT

STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
HIPPOCAMPUS = Code("SCT", "5366008", "Hippocampus")
ANTERIOR = Code("SCT", "255549009", "Anterior")


def entry(terminology: Terminology | None) -> str:
    return terminology_entry(Label(1, "name", (1.0, 0.5, 0.0), terminology))


def test_a_label_without_terminology_has_no_entry() -> None:
    assert entry(None) == ""


def test_codes_of_the_bundled_models_are_looked_up_in_the_list_that_ships() -> None:
    assert entry(Terminology(STRUCTURE, HIPPOCAMPUS, ANTERIOR)) == (
        "Segmentation category and type - MaskSAM~SCT^123037004^Anatomical Structure"
        "~SCT^5366008^Hippocampus~SCT^255549009^Anterior"
        "~Anatomic codes - DICOM master list~^^~^^"
    )


def test_other_codes_are_looked_up_in_slicers_own_list() -> None:
    liver = Terminology(STRUCTURE, Code("SCT", "10200004", "Liver"))
    unknown_part = Terminology(STRUCTURE, HIPPOCAMPUS, Code("SCT", "1", "Part"))
    for terminology in (liver, unknown_part):
        assert entry(terminology).startswith("Segmentation category and type - DICOM master list~")


def test_the_list_has_the_labels_of_all_bundled_models() -> None:
    """After a change of labels, ``python Utilities/terminology.py`` writes the list anew."""
    spec = spec_from_file_location("terminology", ROOT / "Utilities" / "terminology.py")
    assert spec is not None and spec.loader is not None
    utility = module_from_spec(spec)
    spec.loader.exec_module(utility)
    written = json.loads(terminology_file().read_text(encoding="utf-8"))
    assert written == utility.terminology(ROOT / "Resources" / "Models")
