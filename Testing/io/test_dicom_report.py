"""Structured reports with the volumes of a DICOM segmentation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from pydicom.dataset import Dataset

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


def series_that_states_its_gap(folder: Path) -> Path:
    def change(header: Dataset, k: int) -> None:
        header.SliceThickness, header.SpacingBetweenSlices = 2.0, 0.5

    write_slices(folder, STORED, MATRIX, change)
    return folder


def enhanced(folder: Path) -> Path:
    write_enhanced(folder / "a.dcm", STORED, MATRIX)
    return folder / "a.dcm"


def reported(
    source: Path,
    folder: Path,
    labels: tuple[Label, ...] = LABELS,
    intracranial: Sequence[str] = (),
) -> tuple[Path, dict[str, float]]:
    """Write a segmentation and its report; return the report and the volumes in ml by name."""
    volume, images = read_volume(source), read_source(source)
    labelmap = labelmap_of(volume.shape, [label for label in labels if label.value != 301])
    algorithm = Algorithm("small", "4f2a", "1.2.3")
    segmentation = folder / "seg.dcm"
    write_dicom_segmentation(labelmap, volume, segmentation, labels, images, algorithm)
    write_dicom_report(folder / "report.dcm", segmentation, images, intracranial=intracranial)
    voxels = {label.name: np.count_nonzero(labelmap == label.value) for label in labels}
    ml = abs(np.linalg.det(MATRIX[:3, :3])) / 1000
    return folder / "report.dcm", {name: count * ml for name, count in voxels.items()}


@pytest.mark.parametrize("write", [series, series_that_states_its_gap, enhanced])
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


def test_a_report_has_the_intracranial_volume_and_shares_of_it(tmp_path: Path) -> None:
    inside = ("right hippocampus", "left hippocampus", "brain stem")
    path, expected = reported(series(tmp_path / "in"), tmp_path, intracranial=inside)
    content = srread(path).content
    found = {}
    for group in content.get_volumetric_roi_measurement_groups():
        volume, *shares = group.get_measurements()
        assert volume.name.value == "118565006"
        found[group.tracking_identifier] = [float(share.value) for share in shares]
        for share in shares:
            assert share.name.scheme_designator == "99MASKSAM"
            assert share.name.meaning == "Percentage of intracranial volume"
            assert (share.unit.value, share.unit.scheme_designator) == ("%", "UCUM")
    total = sum(expected[name] for name in inside)
    assert found == {
        name: [pytest.approx(100 * ml / total, abs=1e-4)] if name in inside else []
        for name, ml in expected.items()
    }
    [group] = content.get_image_measurement_groups()
    [measurement] = group.get_measurements()
    assert measurement.name.value == "118565006"
    assert (measurement.unit.value, measurement.unit.scheme_designator) == ("ml", "UCUM")
    assert float(measurement.value) == pytest.approx(total, abs=1e-4)
    # Cranial cavity is one of DICOM's brain structures for volumetric measurement (CID 7140).
    assert (group.finding_type.value, group.finding_type.scheme_designator) == ("1101003", "SCT")
    assert group.finding_sites[0].value.value == "1101003"
    [scheme] = srread(path).CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99MASKSAM"


def test_the_intracranial_volume_is_left_out_where_it_is_unknown(tmp_path: Path) -> None:
    path, _ = reported(series(tmp_path / "in"), tmp_path)
    report = srread(path)
    assert report.content.get_image_measurement_groups() == []
    assert "CodingSchemeIdentificationSequence" not in report


def test_the_intracranial_volume_of_one_series_keeps_its_identity(tmp_path: Path) -> None:
    source, uids = series(tmp_path / "in"), []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        path, _ = reported(source, tmp_path / name, intracranial=["left hippocampus"])
        [group] = srread(path).content.get_image_measurement_groups()
        uids.append(group.tracking_uid)
    assert uids[0] == uids[1]


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


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools is not installed")
def test_dciodvfy_finds_only_the_private_code_of_shares(tmp_path: Path) -> None:
    inside = ("left hippocampus", "brain stem")
    path, _ = reported(series(tmp_path / "in"), tmp_path, intracranial=inside)
    # dciodvfy warns of every private coding scheme, even if the file describes the scheme.
    for line in errors_of_dciodvfy(path):
        assert line.startswith("Warning")
        assert line.endswith("Unrecognized defined term = <99MASKSAM>")
