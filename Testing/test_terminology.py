"""Slicer's terminology entries, and the list of codes that ships with the bundled models."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from MaskSAMCore.labels import Code, Label, Terminology
from MaskSAMCore.terminology import terminology_entry, terminology_file, terminology_of
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


def utility() -> ModuleType:
    """Return the module of the command that writes the list."""
    spec = spec_from_file_location("terminology", ROOT / "Utilities" / "terminology.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_has_the_labels_of_all_bundled_models() -> None:
    """After a change of labels, ``python Utilities/terminology.py`` writes the list anew."""
    written = json.loads(terminology_file().read_text(encoding="utf-8"))
    assert written == utility().terminology(ROOT / "Resources" / "Models")


def test_a_lesion_has_its_place_as_a_region_that_slicer_offers_beside_its_type(
    tmp_path: Path,
) -> None:
    altered = Code("SCT", "49755003", "Morphologically Altered Structure")
    lesion = Code("SCT", "52988006", "Lesion")
    white_matter = Code("SCT", "68523003", "Cerebral White Matter")
    terminology = Terminology(altered, lesion, region=white_matter)
    assert entry(terminology).endswith(
        "~SCT^49755003^Morphologically Altered Structure~SCT^52988006^Lesion~^^"
        "~Anatomic codes - DICOM master list~SCT^68523003^Cerebral White Matter~^^"
    )
    assert terminology_of(entry(terminology)) == terminology
    labels = [
        Label(1, "hippocampus", (1.0, 1.0, 0.0), Terminology(STRUCTURE, HIPPOCAMPUS)),
        Label(2, "lesion", (1.0, 0.0, 0.0), terminology),
    ]
    (tmp_path / "head").mkdir()
    described = json.dumps({"labels": [label.to_json() for label in labels]})
    (tmp_path / "head" / "masksam.json").write_text(described, encoding="utf-8")
    categories = utility().terminology(tmp_path)["SegmentationCodes"]["Category"]
    assert [one["showAnatomy"] for one in categories] == [False, True]
    assert [one["Type"][0]["CodeMeaning"] for one in categories] == ["Hippocampus", "Lesion"]
