"""BTCV, also called Synapse: 30 abdominal CT scans with 13 labelled organs.

Layout of ``RawData.zip``: ``Training/img/img0001.nii.gz`` and ``Training/label/label0001.nii.gz``,
numbers 1 to 10 and 21 to 40; ``Testing/img`` has no labels (synapse.org, syn3193805).

MA-SAM trains on 24 scans with all organs and tests on 6
(github.com/cchen-cc/MA-SAM, ``preprocessing/dataset_split.md``). MaskSAM uses TransUNet's split
into 18 and 12 scans and its 8 organs, as listed by nnFormer (github.com/282857341/nnFormer, its
trainer and ``inference_synapse.py``); the public code of MaskSAM repeats these lists. Neither split
has a validation set: the cases under "val" are those whose Dice the papers report.
"""

from __future__ import annotations

from MaskSAMCore.research.conversion.archive import Archive
from MaskSAMCore.research.conversion.layout import (
    FoundCase,
    FoundDataset,
    check_found,
    match_members,
    missing_line,
)

_SCANS = (*range(1, 11), *range(21, 41))
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
    "portal and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
# Values of the 8 organs in BTCV's labelmaps.
SYNAPSE_VALUES = (1, 2, 3, 4, 6, 7, 8, 11)
BTCV_TEST = (35, 36, 37, 38, 39, 40)
SYNAPSE_TEST = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)
_REFERENCE = "https://www.synapse.org/#!Synapse:syn3193805 (Landman et al., 2015)"


def find_btcv(archive: Archive) -> FoundDataset:
    """Return the 30 scans with all organs and MA-SAM's split.

    Raises:
        MaskSAMError: the archive has no file of BTCV.
    """
    cases, missing, notes = _scans(archive, "BTCV")
    return FoundDataset(
        name="BTCV",
        channels=("CT",),
        labels=ORGANS,
        cases=cases,
        splits={"splits_final.json": [_split(cases, BTCV_TEST)]},
        missing=missing,
        notes=notes,
        reference=_REFERENCE,
    )


def find_synapse(archive: Archive) -> FoundDataset:
    """Return the 30 scans with 8 organs and the split of TransUNet and MaskSAM.

    Raises:
        MaskSAMError: the archive has no file of BTCV.
    """
    cases, missing, notes = _scans(archive, "Synapse")
    kept = {value: index for index, value in enumerate(SYNAPSE_VALUES, start=1)}
    return FoundDataset(
        name="Synapse",
        channels=("CT",),
        labels=tuple(ORGANS[value - 1] for value in SYNAPSE_VALUES),
        cases=cases,
        splits={"splits_final.json": [_split(cases, SYNAPSE_TEST)]},
        new_values={value: kept.get(value, 0) for value in range(1, len(ORGANS) + 1)},
        missing=missing,
        notes=notes,
        reference=_REFERENCE,
    )


def _scans(
    archive: Archive, kind: str
) -> tuple[tuple[FoundCase, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the labelled scans, lines of a report about missing scans, and notes."""
    images = match_members(archive, r"img([0-9]{4})\.nii(?:\.gz)?", kind)
    labelmaps = match_members(archive, r"label([0-9]{4})\.nii(?:\.gz)?", kind)
    check_found(archive, [*images], kind, "Training/img/img0001.nii.gz")
    cases, lacking = [], []
    for number in (f"{scan:04d}" for scan in _SCANS):
        image, labelmap = images.get((number,)), labelmaps.get((number,))
        if image is None or labelmap is None:
            lacking.append(f"img{number}" if image is None else f"label{number}")
        else:
            cases.append(FoundCase(f"img{number}", image, labelmap))
    others = len(images) - len(cases) - sum(name.startswith("label") for name in lacking)
    notes = (f"{others} scans without labels are left out",) if others else ()
    return tuple(cases), missing_line("scans", lacking, len(_SCANS)), notes


def _split(cases: tuple[FoundCase, ...], test: tuple[int, ...]) -> dict[str, list[str]]:
    held_out = {f"img{number:04d}" for number in test}
    names = [case.name for case in cases]
    return {
        "train": [name for name in names if name not in held_out],
        "val": [name for name in names if name in held_out],
    }
