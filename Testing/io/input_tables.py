"""Tables of ``Docs/inputs.md``, made from the input cases of the tests."""

from __future__ import annotations

from pathlib import Path

from Testing.helpers.input_cases import table
from Testing.helpers.paths import ROOT
from Testing.inference import image_cases
from Testing.io import dicom_cases, nifti_cases, nrrd_cases

PAGE = ROOT / "Docs" / "inputs.md"
_TABLES = {
    "NIfTI and Analyze": nifti_cases.CASES,
    "NRRD and MetaImage": nrrd_cases.CASES,
    "DICOM": dicom_cases.CASES,
}

_SEGMENTED = """\
An image that was read is checked before it is segmented, from the shell, Python and 3D Slicer
alike; training refuses the same intensities. The tests segment every row with a model of MR images
of up to 24 mm, with voxels of 0.5 to 6 mm. Every model's card states its own `modality`,
`spacing_mm`, `needs_roi` and `field_of_view_mm`; `masksam export` records the last. The panel shows
doubts about suitability in yellow as soon as a volume and a model are chosen."""


_SEGMENTED_TITLE = "Intensities, sizes and suitability"


def page() -> str:
    """Return the text of the page with its tables renewed and its other sections kept."""
    introduction, *old = PAGE.read_text(encoding="utf-8").split("\n## ")
    sections = [f"## {title}\n\n{table(cases)}" for title, cases in _TABLES.items() if cases]
    sections.append(f"## {_SEGMENTED_TITLE}\n\n{_SEGMENTED}")
    sections.append(image_cases.table(image_cases.CASES))
    generated = (*_TABLES, _SEGMENTED_TITLE)
    further = [f"## {part.rstrip()}" for part in old if part.partition("\n")[0] not in generated]
    return "\n\n".join([introduction.rstrip(), *sections, *further]) + "\n"


def main(path: Path = PAGE) -> None:
    """Renew the tables of the page."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
