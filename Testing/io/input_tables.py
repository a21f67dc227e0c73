"""Tables of ``Docs/inputs.md``, made from the input cases of the tests."""

from __future__ import annotations

from pathlib import Path

from Testing.helpers.input_cases import table
from Testing.helpers.paths import ROOT
from Testing.io import dicom_cases, nifti_cases, nrrd_cases

PAGE = ROOT / "Docs" / "inputs.md"
_TABLES = {
    "NIfTI and Analyze": nifti_cases.CASES,
    "NRRD and MetaImage": nrrd_cases.CASES,
    "DICOM": dicom_cases.CASES,
}


def page() -> str:
    """Return the text of the page with the current tables below its introduction."""
    introduction = PAGE.read_text(encoding="utf-8").split("\n## ")[0].rstrip()
    sections = [f"## {title}\n\n{table(cases)}" for title, cases in _TABLES.items() if cases]
    return "\n\n".join([introduction, *sections]) + "\n"


def main(path: Path = PAGE) -> None:
    """Write the tables anew."""
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
