"""AMOS22: abdominal CT with 15 organs.

Layout of ``amos22.zip``: ``imagesTr`` and ``labelsTr`` with 200 CT and 40 MR scans, ``imagesVa``
and ``labelsVa`` with 100 and 20, ``imagesTs`` with 200 and 40, files ``amos_0001.nii.gz``, and
``dataset.json``; numbers up to 500 are CT (the archive's readme, zenodo.org/record/7262581). The
paper trains on the 200 training scans in five folds, which are nnU-Net's
(github.com/bxie9/MaskSAM, ``MaskSAM_AMOS.py``), and reports the challenge's Dice of the test scans.
"""

from __future__ import annotations

from MaskSAMCore.data.splits import FOLDS, cross_validation
from MaskSAMCore.research.conversion.archive import Archive
from MaskSAMCore.research.conversion.layout import (
    FoundCase,
    FoundDataset,
    Part,
    check_found,
    match_members,
)

ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate or uterus",
)
_LAST_CT = 500
# Number of CT scans in each part, and whether their labels are public.
_SCANS: dict[Part, tuple[int, bool]] = {"Tr": (200, True), "Va": (100, True), "Ts": (200, False)}


def find_amos22(archive: Archive) -> FoundDataset:
    """Return the CT scans, with the five folds of the training scans.

    Raises:
        MaskSAMError: the archive has no file of AMOS22.
    """
    pattern = r"(images|labels)(Tr|Va|Ts)/amos_([0-9]{4})\.nii(?:\.gz)?"
    files = match_members(archive, pattern, "AMOS22")
    check_found(archive, [*files], "AMOS22", "imagesTr/amos_0001.nii.gz")
    cases: list[FoundCase] = []
    missing: list[str] = []
    mr = 0
    for part, (count, public) in _SCANS.items():
        numbers = sorted(n for kind, of, n in files if (kind, of) == ("images", part))
        mr += sum(int(number) > _LAST_CT for number in numbers)
        numbers = [number for number in numbers if int(number) <= _LAST_CT]
        found = []
        for number in numbers:
            labelmap = files.get(("labels", part, number))
            if labelmap is not None or not public:
                image = files["images", part, number]
                found.append(FoundCase(f"amos_{number}", image, labelmap, part))
        if len(found) < count:
            missing.append(f"{count - len(found)} of {count} CT scans of images{part}")
        cases += found
    training = [case.name for case in cases if case.part == "Tr"]
    folds = cross_validation(training) if len(training) >= FOLDS else []
    return FoundDataset(
        name="AMOS22",
        channels=("CT",),
        labels=ORGANS,
        cases=tuple(cases),
        splits={"splits_final.json": folds} if folds else {},
        missing=tuple(missing),
        notes=(f"{mr} MR scans are left out: the paper uses CT",) if mr else (),
        reference="https://zenodo.org/record/7262581 (Ji et al., NeurIPS 2022)",
    )
