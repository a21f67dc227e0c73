"""Multi-site prostate MR of SAML, used by MA-SAM: 116 T2-weighted scans of six hospitals.

Layout: a folder for each site with ``Case00.nii.gz`` and ``Case00_segmentation.nii.gz`` (in some
sites ``_Segmentation``). Some labelmaps of BMC and RUNMC distinguish two zones, which together are
the prostate (liuquande.github.io/SAML). The test cases are those of MA-SAM
(github.com/cchen-cc/MA-SAM, ``preprocessing/dataset_split.md``), which names the sites A to F in
the order below (Liu et al., MICCAI 2020, Table 1). MA-SAM's split has no validation set: the cases
under "val" are those whose Dice the paper reports.
"""

from __future__ import annotations

from MaskSAMCore.research.conversion.archive import Archive
from MaskSAMCore.research.conversion.layout import (
    FoundCase,
    FoundDataset,
    check_found,
    match_members,
)

# Number of scans and test cases by the name of the site's folder, in the order A to F.
SITES = {
    "RUNMC": (30, (3, 8, 12, 15, 18, 26)),
    "BMC": (30, (3, 8, 12, 15, 18, 26)),
    "I2CVB": (19, (3, 8, 13, 15)),
    "UCL": (13, (1, 32, 34)),
    "BIDMC": (12, (0, 4, 9)),
    "HK": (12, (38, 41, 46)),
}
# Alternative name of a site's folder.
_ALIASES = {"HCRUDB": "I2CVB"}
# Largest labelmap value; values above 1 distinguish zones of the prostate.
_LARGEST_VALUE = 5


def find_prostate(archive: Archive) -> FoundDataset:
    """Return the scans of all sites, with a split for each site and one for all.

    Raises:
        MaskSAMError: the archive has no file of the dataset.
    """
    folders = "|".join((*SITES, *_ALIASES))
    images = match_members(archive, rf"({folders})/Case([0-9]{{2}})\.nii(?:\.gz)?", "prostate")
    labelmaps = match_members(
        archive, rf"({folders})/Case([0-9]{{2}})_segmentation\.nii(?:\.gz)?", "prostate"
    )
    check_found(archive, [*images], "prostate", "RUNMC/Case00.nii.gz")
    cases: list[FoundCase] = []
    missing: list[str] = []
    splits: dict[str, dict[str, list[str]]] = {}
    whole: dict[str, list[str]] = {"train": [], "val": []}
    for site, (count, test) in SITES.items():
        held_out = {f"{site}_{number:02d}" for number in test}
        found = []
        for key, image in images.items():
            folder, number = key
            labelmap = labelmaps.get(key)
            if _ALIASES.get(folder.upper(), folder.upper()) == site and labelmap is not None:
                found.append(FoundCase(f"{site}_{number}", image, labelmap))
        names = sorted(case.name for case in found)
        if len(found) < count:
            missing.append(f"{count - len(found)} of {count} scans of {site}")
        absent = sorted(held_out - set(names))
        if absent:
            missing.append(f"test cases {', '.join(absent)}")
        splits[site] = {
            "train": [name for name in names if name not in held_out],
            "val": [name for name in names if name in held_out],
        }
        for side, part in splits[site].items():
            whole[side] += part
        cases += found
    return FoundDataset(
        name="Prostate",
        channels=("T2",),
        labels=("prostate",),
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        splits={
            "splits_final.json": [whole],
            **{f"splits_{site}.json": [split] for site, split in splits.items() if split["train"]},
        },
        new_values=dict.fromkeys(range(1, _LARGEST_VALUE + 1), 1),
        missing=tuple(missing),
        reference="https://liuquande.github.io/SAML (Liu et al., MICCAI 2020)",
    )
