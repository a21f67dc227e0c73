"""Codes of the bundled models in Slicer's terminology selector."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from MaskSAMCore.labels import Label
from MaskSAMCore.models.bundle import load_bundle
from MaskSAMCore.resources import resources
from MaskSAMCore.terminology import terminology_entry

MODELS = sorted(path.parent.name for path in (resources() / "Models").glob("*/masksam.json"))


def labels_of(model: str) -> tuple[Label, ...]:
    return load_bundle(resources() / "Models" / model).labels


def codes(coded) -> tuple[str, str]:
    return coded.GetCodingSchemeDesignator(), coded.GetCodeValue()


def offered(logic, context: str) -> Iterator[tuple]:
    """Yield the category, type and modifier codes of a terminology, as the selector reads them."""
    import slicer

    category, kind, modifier = (
        getattr(slicer, f"vtkSlicerTerminology{name}")() for name in ("Category", "Type", "Type")
    )
    for c in range(logic.GetNumberOfCategoriesInTerminology(context)):
        assert logic.GetNthCategoryInTerminology(context, c, category)
        for t in range(logic.GetNumberOfTypesInTerminologyCategory(context, category)):
            assert logic.GetNthTypeInTerminologyCategory(context, category, t, kind)
            yield codes(category), codes(kind), None
            for m in range(
                logic.GetNumberOfTypeModifiersInTerminologyType(context, category, kind)
            ):
                assert logic.GetNthTypeModifierInTerminologyType(
                    context, category, kind, m, modifier
                )
                yield codes(category), codes(kind), codes(modifier)


@pytest.mark.parametrize("model", MODELS)
def test_slicers_selector_offers_the_codes_of_every_label(user, application, model):
    import slicer
    import vtk

    application.startupCompleted.emit()
    logic = slicer.util.getModuleLogic("Terminologies")
    names = vtk.vtkStringArray()
    logic.GetLoadedTerminologyNames(names)
    loaded = [names.GetValue(index) for index in range(names.GetNumberOfValues())]
    for label in labels_of(model):
        entry = slicer.vtkSlicerTerminologyEntry()
        assert logic.DeserializeTerminologyEntry(terminology_entry(label), entry)
        context = entry.GetTerminologyContextName()
        assert context in loaded, label.name
        modifier = codes(entry.GetTypeModifierObject())
        wanted = (
            codes(entry.GetCategoryObject()),
            codes(entry.GetTypeObject()),
            modifier if label.terminology.type_modifier is not None else None,
        )
        assert wanted in set(offered(logic, context)), label.name
