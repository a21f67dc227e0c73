"""``masksam predict`` with DICOM at both ends."""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from MaskSAMCore import __version__
from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import RasBox
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.io import read_json, read_volume, write_boxes, write_json
from MaskSAMCore.labels import Terminology
from Testing.cli.helpers import error_of
from Testing.helpers.dicom import oblique_matrix, write_slices
from Testing.helpers.dicom_segmentations import (
    HIPPOCAMPUS,
    LEFT,
    RIGHT,
    STRUCTURE,
    placed_labelmap,
)
from Testing.helpers.generated import generated_case
from Testing.helpers.small_bundle import small_bundle


@pytest.fixture(scope="module")
def coded_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model whose classes have codes."""
    folder = small_bundle(tmp_path_factory.mktemp("models") / "coded")
    description = read_json(folder / "masksam.json")
    for label, side in zip(description["labels"], (LEFT, RIGHT), strict=True):
        label["terminology"] = asdict(Terminology(STRUCTURE, HIPPOCAMPUS, side))
    write_json(folder / "masksam.json", description)
    return str(folder)


def write_series(folder: Path, seed: int = 0, series: str = "1.2.9") -> Path:
    """Write a generated case as a DICOM series; return its folder."""
    image = generated_case(seed, (8, 18, 22))[0].astype(np.float64)
    values = np.rint(1000 * (image - image.min()) / (image.max() - image.min()))
    write_slices(folder, values.astype(np.uint16), oblique_matrix(), series=series)
    return folder


def test_a_series_becomes_a_segmentation_and_a_report(coded_model: str, tmp_path: Path) -> None:
    source, target = write_series(tmp_path / "in"), tmp_path / "out" / "seg.dcm"
    arguments = ["predict", str(source), "-o", str(target), "-m", coded_model]
    assert main([*arguments, "--dicom-report"]) == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["seg.dcm", "seg_report.dcm"]
    segmenter = Segmenter.from_model(coded_model)
    volume = read_volume(source)
    result = segmenter.segment(volume)
    found = placed_labelmap(target, volume, result.labels)
    np.testing.assert_array_equal(found, result.labelmap)
    file = pydicom.dcmread(target)
    [algorithm] = file.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("small", segmenter.version)
    assert file.SoftwareVersions == __version__
    for written in (target, target.with_name("seg_report.dcm")):
        with pytest.raises(MaskSAMError, match=r"such as a segmentation or a report: give the"):
            read_volume(written)
    report = srread(target.with_name("seg_report.dcm"))
    volumes = [
        float(group.get_measurements()[0].value)
        for group in report.content.get_volumetric_roi_measurement_groups()
    ]
    expected = [instance.voxel_count * volume.voxel_ml for instance in result.instances]
    assert volumes == pytest.approx(expected, abs=1e-4)


def test_a_report_has_the_intracranial_volume_of_the_table(
    coded_model: str, tmp_path: Path
) -> None:
    model = tmp_path / "head"
    shutil.copytree(coded_model, model)
    description = read_json(model / "masksam.json")
    write_json(model / "masksam.json", {**description, "card": {"intracranial": ["Bright"]}})
    source, table = write_series(tmp_path / "in"), tmp_path / "volumes.csv"
    arguments = ["predict", str(source), "-o", str(tmp_path / "seg.dcm"), "-m", str(model)]
    assert main([*arguments, "--dicom-report", "--volumes", str(table)]) == 0
    rows = {row["structure"]: row for row in csv.DictReader(table.read_text().splitlines())}
    content = srread(tmp_path / "seg_report.dcm").content
    [group] = content.get_image_measurement_groups()
    [measurement] = group.get_measurements()
    total = float(rows["intracranial volume"]["volume_ml"])
    assert float(measurement.value) == pytest.approx(total, abs=1e-4)
    for group in content.get_volumetric_roi_measurement_groups():
        shares = [float(measurement.value) for measurement in group.get_measurements()[1:]]
        share = rows[group.tracking_identifier]["intracranial_percent"]
        assert shares == ([pytest.approx(float(share), abs=1e-4)] if share else [])


def test_a_report_of_a_region_has_no_intracranial_volume(coded_model: str, tmp_path: Path) -> None:
    model = tmp_path / "head"
    shutil.copytree(coded_model, model)
    description = read_json(model / "masksam.json")
    write_json(model / "masksam.json", {**description, "card": {"intracranial": "all"}})
    source, roi = write_series(tmp_path / "in"), tmp_path / "roi.mrk.json"
    centre = (read_volume(source).ijk_to_ras @ np.array([10.5, 8.5, 3.5, 1]))[:3]
    write_boxes([RasBox("R", tuple(centre), np.eye(3), (60.0, 60.0, 60.0))], roi)
    arguments = ["predict", str(source), "-o", str(tmp_path / "seg.dcm"), "-m", str(model)]
    assert main([*arguments, "--dicom-report", "--roi", str(roi)]) == 0
    content = srread(tmp_path / "seg_report.dcm").content
    assert content.get_image_measurement_groups() == []


def test_a_tree_of_studies_becomes_a_tree_of_segmentations(
    coded_model: str, tmp_path: Path
) -> None:
    for name, series in (("anna", "1.2.10"), ("ben", "1.2.11")):
        write_series(tmp_path / "in" / name, series=series)
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "in"), "-o", str(out), "-m", coded_model]
    assert main([*arguments, "--format", "dcm"]) == 0
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.dcm"))
    assert len(written) == 2
    for path, series in zip(written, ("1.2.10", "1.2.11"), strict=True):
        [referenced] = pydicom.dcmread(out / path).ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == series


def test_boxes_of_the_user_make_a_segmentation_semiautomatic(
    coded_model: str, tmp_path: Path
) -> None:
    source, boxes = write_series(tmp_path / "in"), tmp_path / "boxes.mrk.json"
    centre = (read_volume(source).ijk_to_ras @ np.array([10.5, 8.5, 3.5, 1]))[:3]
    write_boxes([RasBox("Bright", tuple(centre), np.eye(3), (6.0, 6.0, 6.0))], boxes)
    target = tmp_path / "seg.dcm"
    arguments = ["predict", str(source), "-o", str(target), "-m", coded_model]
    assert main([*arguments, "--boxes", str(boxes)]) == 0
    kinds = {segment.SegmentAlgorithmType for segment in pydicom.dcmread(target).SegmentSequence}
    assert kinds == {"SEMIAUTOMATIC"}


def test_an_image_that_is_no_dicom_is_refused_before_it_is_segmented(
    image: Path, coded_model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out" / "seg.dcm"
    arguments = ["predict", str(image), "-o", str(target), "-m", coded_model]
    assert "is no DICOM file" in error_of(capfd, arguments)
    assert not target.parent.exists()


def test_a_model_without_codes_is_refused_with_what_to_add(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, target = write_series(tmp_path / "in"), tmp_path / "out" / "seg.dcm"
    error = error_of(capfd, ["predict", str(source), "-o", str(target), "-m", model])
    assert "class 'Bright' has no terminology codes" in error
    assert "to the labels in the model's masksam.json, or to its card before" in error
    assert not target.parent.exists()


def test_a_report_without_dicom_segmentations_is_refused(
    coded_model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_series(tmp_path / "in")
    arguments = ["predict", str(source), "-o", str(tmp_path / "seg.nrrd"), "-m", coded_model]
    assert "--format dcm" in error_of(capfd, [*arguments, "--dicom-report"])


def test_a_segmentation_is_not_written_into_the_folder_of_its_series(
    coded_model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_series(tmp_path / "in")
    arguments = ["predict", str(source), "-o", str(source / "seg.dcm"), "-m", coded_model]
    assert "would lie among the input files" in error_of(capfd, arguments)
