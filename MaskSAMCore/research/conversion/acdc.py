"""ACDC: cardiac MR of 100 patients at end diastole and end systole.

Layout: ``training/patient001/`` with ``Info.cfg``, ``patient001_4d.nii.gz`` and, for the two frames
that ``Info.cfg`` names, ``patient001_frame01.nii.gz`` and ``patient001_frame01_gt.nii.gz``
(www.creatis.insa-lyon.fr/Challenge/acdc). The split of 70, 10 and 20 patients is that of nnFormer
(github.com/282857341/nnFormer, ``dataset_json/ACDC_dataset.json`` and its trainer), which the
public code of MaskSAM repeats.
"""

from __future__ import annotations

import re

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.research.conversion.archive import Archive, read_text
from MaskSAMCore.research.conversion.layout import (
    FoundCase,
    FoundDataset,
    Part,
    check_found,
    match_members,
    missing_line,
)

_PATIENTS = 100
VALIDATION = (89, 90, 91, 93, 94, 96, 97, 98, 99, 100)
TEST = (2, 3, 8, 9, 12, 14, 17, 24, 42, 48, 49, 53, 55, 64, 67, 79, 81, 88, 92, 95)
# A line of Info.cfg such as "ED: 1".
_PHASE = re.compile(r"^\s*(ED|ES)\s*:\s*([0-9]{1,3})\s*$", re.MULTILINE)


def find_acdc(archive: Archive) -> FoundDataset:
    """Return the cases of ACDC's 100 training patients, two frames of each.

    Raises:
        MaskSAMError: the archive has no image, or no complete case, of ACDC.
    """
    infos = match_members(archive, r"patient([0-9]{3})/Info\.cfg", "ACDC")
    images = match_members(
        archive, r"patient([0-9]{3})/patient\1_frame([0-9]{2})\.nii(?:\.gz)?", "ACDC"
    )
    labelmaps = match_members(
        archive, r"patient([0-9]{3})/patient\1_frame([0-9]{2})_gt\.nii(?:\.gz)?", "ACDC"
    )
    check_found(archive, [*images], "ACDC", "training/patient001/patient001_frame01.nii.gz")
    wanted = [f"{number:03d}" for number in range(1, _PATIENTS + 1)]
    cases: list[FoundCase] = []
    lacking: dict[str, str] = {}
    patients: dict[str, list[str]] = {}
    for patient in wanted:
        info = infos.get((patient,))
        phases = {} if info is None else dict(_PHASE.findall(read_text(archive, info)))
        if set(phases) != {"ED", "ES"}:
            lacking[patient] = f"patient{patient}/Info.cfg"
            continue
        for frame in sorted(f"{int(number):02d}" for number in phases.values()):
            name = f"patient{patient}_frame{frame}"
            image, labelmap = (files.get((patient, frame)) for files in (images, labelmaps))
            if image is None or labelmap is None:
                lacking.setdefault(patient, name if image is None else f"{name}_gt")
                continue
            part: Part = "Ts" if int(patient) in TEST else "Tr"
            cases.append(FoundCase(name, image, labelmap, part))
            patients.setdefault(f"patient{patient}", []).append(name)
    if not cases:
        first = next(iter(lacking.values()))
        raise MaskSAMError(f"{archive.path} has no whole patient of ACDC: {first} is missing")
    training = [case.name for case in cases if case.part == "Tr"]
    held_out = {f"patient{number:03d}" for number in VALIDATION}
    split = {
        "train": [name for name in training if name[:10] not in held_out],
        "val": [name for name in training if name[:10] in held_out],
    }
    others = {patient for patient, _ in images if patient not in wanted}
    return FoundDataset(
        name="ACDC",
        channels=("MRI",),
        labels=("RV", "MYO", "LV"),
        cases=tuple(cases),
        splits={"splits_final.json": [split]},
        patients=patients,
        missing=missing_line("patients", list(lacking.values()), _PATIENTS),
        notes=(f"patients of the challenge's testing set are left out: {len(others)}",)
        if others
        else (),
        reference="https://www.creatis.insa-lyon.fr/Challenge/acdc (Bernard et al., IEEE TMI 2018)",
    )
