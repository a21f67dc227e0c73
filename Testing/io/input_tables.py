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


def page() -> str:
    """Return the text of the page with the current tables below its introduction."""
    introduction = PAGE.read_text(encoding="utf-8").split("\n## ")[0].rstrip()
    sections = [f"## {title}\n\n{table(cases)}" for title, cases in _TABLES.items() if cases]
    sections.append(f"## Intensities, sizes and suitability\n\n{_SEGMENTED}")
    sections.append(image_cases.table(image_cases.CASES))
    return "\n\n".join([introduction, *sections]) + "\n"


def main(path: Path = PAGE) -> None:
    """Write the tables anew."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
