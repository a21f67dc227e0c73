"""Structured reports with the volumes of a DICOM segmentation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import read_volume
from MaskSAMCore.io.dicom_report import write_dicom_report
from MaskSAMCore.io.dicom_segmentation import Algorithm, write_dicom_segmentation
from MaskSAMCore.io.dicom_source import read_source
from MaskSAMCore.labels import Code, Label, Terminology
from Testing.helpers.dicom import oblique_matrix, stored_values, write_enhanced, write_slices
from Testing.helpers.dicom_segmentations import (
    HIPPOCAMPUS,
    LABELS,
    STRUCTURE,
    errors_of_dciodvfy,
    labelmap_of,
)

MATRIX = oblique_matrix()
STORED = stored_values((6, 15, 17))


def series(folder: Path) -> Path:
    write_slices(folder, STORED, MATRIX)
    return folder


def enhanced(folder: Path) -> Path:
    write_enhanced(folder / "a.dcm", STORED, MATRIX)
    return folder / "a.dcm"


def reported(
    source: Path, folder: Path, labels: tuple[Label, ...] = LABELS
) -> tuple[Path, dict[str, float]]:
    """Write a segmentation and its report; return the report and the volumes in ml by name."""
    volume, images = read_volume(source), read_source(source)
    labelmap = labelmap_of(volume.shape, [label for label in labels if label.value != 301])
    algorithm = Algorithm("small", "4f2a", "1.2.3")
    segmentation = folder / "seg.dcm"
    write_dicom_segmentation(labelmap, volume, segmentation, labels, images, algorithm)
    write_dicom_report(folder / "report.dcm", segmentation, images)
    voxels = {label.name: np.count_nonzero(labelmap == label.value) for label in labels}
    ml = abs(np.linalg.det(MATRIX[:3, :3])) / 1000
    return folder / "report.dcm", {name: count * ml for name, count in voxels.items()}


@pytest.mark.parametrize("write", [series, enhanced])
def test_a_report_has_the_volume_of_every_segment(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path, expected = reported(write(tmp_path / "in"), tmp_path)
    groups = srread(path).content.get_volumetric_roi_measurement_groups()
    found = {}
    for group in groups:
        [measurement] = group.get_measurements()
        assert measurement.name.value == "118565006"  # volume, in SNOMED CT
        assert (measurement.unit.value, measurement.unit.scheme_designator) == ("ml", "UCUM")
        found[group.tracking_identifier] = float(measurement.value)
    assert found == pytest.approx(expected, abs=1e-4)
    assert found["brain stem"] == 0


def test_a_single_segment_is_measured(tmp_path: Path) -> None:
    path, expected = reported(series(tmp_path / "in"), tmp_path, LABELS[:1])
    [group] = srread(path).content.get_volumetric_roi_measurement_groups()
    assert float(group.get_measurements()[0].value) == pytest.approx(
        expected["right hippocampus"], abs=1e-4
    )


def test_volumes_refer_to_the_segments_and_have_their_codes(tmp_path: Path) -> None:
    path, _ = reported(series(tmp_path / "in"), tmp_path)
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    groups = srread(path).content.get_volumetric_roi_measurement_groups()
    for number, (group, segment) in enumerate(
        zip(groups, segmentation.SegmentSequence, strict=True), start=1
    ):
        referenced = group.referenced_segment
        assert referenced.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert referenced.referenced_segment_numbers == [number]
        assert group.tracking_uid == segment.TrackingUID
        assert group.finding_category.value == STRUCTURE.value
    left, right = groups[:2]
    for group, side in ((left, "Left"), (right, "Right")):
        assert group.finding_type.value == HIPPOCAMPUS.value
        [site] = group.finding_sites
        assert (site.value.meaning, site.laterality.meaning) == ("Hippocampus", side)
    [evidence] = srread(path).CurrentRequestedProcedureEvidenceSequence
    instances = [len(item.ReferencedSOPSequence) for item in evidence.ReferencedSeriesSequence]
    assert sorted(instances) == [1, len(STORED)]


def test_a_part_of_a_structure_is_no_side(tmp_path: Path) -> None:
    anterior = Code("SCT", "255549009", "Anterior")
    label = replace(LABELS[0], terminology=Terminology(STRUCTURE, HIPPOCAMPUS, anterior))
    path, _ = reported(series(tmp_path / "in"), tmp_path, (label,))
    [group] = srread(path).content.get_volumetric_roi_measurement_groups()
    [site] = group.finding_sites
    assert site.laterality is None
    assert site.topographical_modifier.meaning == "Anterior"


def test_a_file_that_is_no_dicom_has_no_report(tmp_path: Path) -> None:
    (tmp_path / "seg.dcm").write_bytes(b"no DICOM" * 20)
    source = read_source(series(tmp_path / "in"))
    with pytest.raises(MaskSAMError, match=r"seg\.dcm is no DICOM segmentation"):
        write_dicom_report(tmp_path / "report.dcm", tmp_path / "seg.dcm", source)
    assert not (tmp_path / "report.dcm").exists()


def test_a_file_of_another_kind_has_no_report(tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    with pytest.raises(MaskSAMError):
        write_dicom_report(tmp_path / "report.dcm", source / "IM000", read_source(source))
    assert not (tmp_path / "report.dcm").exists()


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools is not installed")
@pytest.mark.parametrize("write", [series, enhanced])
def test_dciodvfy_finds_no_error(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path, _ = reported(write(tmp_path / "in"), tmp_path)
    assert errors_of_dciodvfy(path) == []
