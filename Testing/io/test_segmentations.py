"""Segmentations with named, coloured segments (``.seg.nrrd``)."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from MaskSAMCore.io import write_labelmap
from Testing.io.helpers import LABELS, labelmap_on, oblique_volume


def test_segments_have_names_colours_and_terminology(tmp_path: Path) -> None:
    volume = oblique_volume()
    write_labelmap(labelmap_on(volume), volume, tmp_path / "case.seg.nrrd", LABELS)
    image = sitk.ReadImage(str(tmp_path / "case.seg.nrrd"))
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert fields["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert fields["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert fields["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    names = [fields[f"Segment{n}_Name"] for n in range(3)]
    assert names == ["Anterior", "Postérieur", "Rare"]
    assert [fields[f"Segment{n}_LabelValue"] for n in range(3)] == ["1", "2", "300"]
    assert fields["Segment0_Color"] == "1 0.5 0.25"
    assert fields["Segment0_Extent"] == "0 12 0 10 0 8"
    assert "~SCT^123037004^Anatomical Structure~SCT^4958002^Amygdala~" in fields["Segment0_Tags"]
