"""Samples of the bundled models in the module Sample Data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest

from MaskSAMCore import models, read_boxes, read_volume
from MaskSAMCore.geometry import box_on_grid

HEAD = "MNI152 T1"


@pytest.fixture
def sources(user, application):
    """Samples that the module registers when the application has started, by name."""
    import slicer

    for _ in range(2):  # a second start of the module adds nothing
        application.startupCompleted.emit()
    found = slicer.modules.sampleDataSources["MaskSAM"]
    return {source.sampleName: source for source in found}


def files_of(source) -> dict[str, tuple[Path, str]]:
    """Return the shipped file and the checksum of each node that is not downloaded."""
    entries = zip(source.nodeNames, source.uris, source.checksums, strict=True)
    return {
        name: (Path(url2pathname(urlsplit(uri).path)), checksum)
        for name, uri, checksum in entries
        if uri.startswith("file:")
    }


def test_every_bundled_model_has_a_sample_with_a_thumbnail_of_its_own(sources):
    bundled = [entry for entry in models.catalog() if models.installed(entry)]
    shipped = [e.name for e in bundled if models.user_folder() not in e.folder.parents]
    assert set(sources) == {f"MaskSAM{name.capitalize()}" for name in shipped}
    pictures = [Path(source.thumbnailFileName) for source in sources.values()]
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 60_000
    assert len({picture.read_bytes() for picture in pictures}) == len(pictures)


def test_the_head_is_the_one_of_nilearn_at_a_fixed_address_with_its_checksum(sources):
    struct = pytest.importorskip("nilearn.datasets.struct")
    checksum = hashlib.sha256(Path(struct.MNI152_FILE_PATH).read_bytes()).hexdigest()
    for source in sources.values():
        head = source.nodeNames.index(HEAD)
        assert source.checksums[head] == f"SHA256:{checksum}"
        assert source.uris[head].startswith("https://")
        assert source.uris[head].endswith(f"/{struct.MNI152_FILE_PATH.name}")


def test_the_sample_of_the_hippocampus_has_an_roi_on_each_side_of_the_head(sources):
    import slicer

    struct = pytest.importorskip("nilearn.datasets.struct")
    head = read_volume(Path(struct.MNI152_FILE_PATH))
    files = files_of(sources["MaskSAMHippocampus"])
    sides = {"Left hippocampus": -1, "Right hippocampus": 1}
    assert set(files) == set(sides)
    for name, (path, checksum) in files.items():
        assert checksum == f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        (roi,) = read_boxes(path)
        assert np.sign(roi.center[0]) == sides[name]  # the left side has negative coordinates
        box = box_on_grid(roi, head)
        assert box.clipped(head.shape) == box
        assert slicer.util.loadMarkups(str(path)).IsA("vtkMRMLMarkupsROINode")
    assert files_of(sources["MaskSAMBrain"]) == {}
