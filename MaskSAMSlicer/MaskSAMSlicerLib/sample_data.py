"""Samples for the bundled models in Slicer's module Sample Data: a head, and ROIs where needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from slicer.i18n import tr as _

from MaskSAMCore.resources import resources
from MaskSAMSlicerLib.core_path import MODULE_FOLDER

CATEGORY = "MaskSAM"
# The T1-weighted MNI152 template, which may be used for any purpose, as nilearn publishes it.
HEAD_URL = (
    "https://raw.githubusercontent.com/nilearn/nilearn/0.14.0/nilearn/datasets/data/"
    "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
)
HEAD_SHA256 = "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6"


def register_samples() -> None:
    """Add a sample for each bundled model: its volume, and the ROIs that the model needs."""
    _register("MaskSAMBrain")
    folder = resources() / "SampleData"
    _register(
        "MaskSAMHippocampus",
        {
            _("Left hippocampus"): folder / "hippocampus-left.mrk.json",
            _("Right hippocampus"): folder / "hippocampus-right.mrk.json",
        },
    )


def _register(name: str, rois: dict[str, Path] | None = None) -> None:
    """Add a sample of the head and ROIs.

    Args:
        name: name of the sample, and of its thumbnail.
        rois: file of each ROI, by the name of its node.
    """
    from SampleData import SampleDataLogic  # is not on the path while Slicer starts

    rois = rois or {}
    checksums = [
        HEAD_SHA256,
        *(hashlib.sha256(file.read_bytes()).hexdigest() for file in rois.values()),
    ]
    if hasattr(SampleDataLogic, "registerCustomSampleDataCategory"):  # Slicer 5.11 and later
        SampleDataLogic.registerCustomSampleDataCategory(CATEGORY, title=CATEGORY)
    SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=name,
        # Bundled files are copied into Slicer's cache, as downloaded files are.
        uris=[HEAD_URL, *(file.as_uri() for file in rois.values())],
        fileNames=["MaskSAM-MNI152.nii.gz", *(f"MaskSAM-{file.name}" for file in rois.values())],
        nodeNames=["MNI152 T1", *rois],
        checksums=[f"SHA256:{checksum}" for checksum in checksums],
        loadFileType=["VolumeFile", *("MarkupsFile" for _file in rois)],
        thumbnailFileName=str(MODULE_FOLDER / "Resources" / "Icons" / f"{name}.png"),
    )
