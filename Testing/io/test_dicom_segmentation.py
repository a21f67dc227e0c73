"""DICOM segmentations: positions of voxels, references, codes, and refusals."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.seg import segread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume, reorient
from MaskSAMCore.io import read_json, read_volume
from MaskSAMCore.io.dicom_segmentation import Algorithm, check_codes, write_dicom_segmentation
from MaskSAMCore.io.dicom_source import read_source
from MaskSAMCore.labels import Code, Label, Terminology
from MaskSAMCore.resources import resources
from Testing.helpers.dicom import (
    oblique_matrix,
    stored_values,
    write_enhanced,
    write_nuclear,
    write_slices,
)
from Testing.helpers.dicom_segmentations import (
    HIPPOCAMPUS,
    LABELS,
    LEFT,
    RIGHT,
    STRUCTURE,
    errors_of_dciodvfy,
    labelmap_of,
    placed_labelmap,
    segment_of,
)
from Testing.io.helpers import matrices

MATRIX = oblique_matrix()
STORED = stored_values((6, 5, 7))
ALGORITHM = Algorithm("small", "4f2a", "1.2.3")
SHUFFLED = [3, 1, 0, 2, 5, 4]

Write = Callable[[Path], Path]


def series(folder: Path) -> Path:
    write_slices(folder, STORED, MATRIX)
    return folder


def series_named_against_its_order(folder: Path) -> Path:
    for number, path in enumerate(reversed(write_slices(folder, STORED, MATRIX, name="Z{:03}"))):
        path.rename(path.with_name(f"A{number}"))
    return folder


def series_of_two_frames_of_reference(folder: Path) -> Path:
    def change(header: Dataset, k: int) -> None:
        header.FrameOfReferenceUID = f"1.2.7.{k % 2 + 1}"

    write_slices(folder, STORED, MATRIX, change)
    return folder


def series_with_copies(folder: Path) -> Path:
    paths = write_slices(folder, STORED, MATRIX)
    copy = pydicom.dcmread(paths[2])
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = "1.2.9.99"
    copy.save_as(folder / "copy")
    return folder


def series_with_a_copied_file(folder: Path) -> Path:
    paths = write_slices(folder, STORED, MATRIX)
    shutil.copy(paths[2], folder / "IM002 (1)")
    return folder


def enhanced(folder: Path) -> Path:
    write_enhanced(folder / "a.dcm", STORED[SHUFFLED], MATRIX, places=SHUFFLED)
    return folder / "a.dcm"


def enhanced_with_a_copy(folder: Path) -> Path:
    write_enhanced(folder / "a.dcm", STORED[[*SHUFFLED, 2]], MATRIX, places=[*SHUFFLED, 2])
    return folder / "a.dcm"


def parts_in_enhanced_files(folder: Path) -> Path:
    write_enhanced(folder / "b", STORED[:3], MATRIX, places=range(3))
    write_enhanced(folder / "a", STORED[3:], MATRIX, places=range(3, 6))
    return folder


def nuclear(folder: Path) -> Path:
    write_nuclear(folder / "a.dcm", STORED[SHUFFLED], MATRIX, [place + 1 for place in SHUFFLED])
    return folder / "a.dcm"


SOURCES = (
    series,
    series_named_against_its_order,
    series_of_two_frames_of_reference,
    series_with_copies,
    series_with_a_copied_file,
    enhanced,
    enhanced_with_a_copy,
    parts_in_enhanced_files,
    nuclear,
)


def written(
    source: Path, path: Path, volume: Volume | None = None, labelmap: np.ndarray | None = None
) -> tuple[Volume, np.ndarray]:
    """Write a DICOM segmentation; return the grid and the labelmap."""
    volume = read_volume(source) if volume is None else volume
    labelmap = labelmap_of(volume.shape) if labelmap is None else labelmap
    write_dicom_segmentation(labelmap, volume, path, LABELS, read_source(source), ALGORITHM)
    return volume, labelmap


@pytest.mark.parametrize("write", SOURCES)
def test_every_voxel_lies_where_it_was_segmented(write: Write, tmp_path: Path) -> None:
    volume, labelmap = written(write(tmp_path / "in"), tmp_path / "seg.dcm")
    np.testing.assert_array_equal(placed_labelmap(tmp_path / "seg.dcm", volume, LABELS), labelmap)


@pytest.mark.parametrize("write", SOURCES)
def test_highdicom_reads_the_same_voxels_on_the_same_grid(write: Write, tmp_path: Path) -> None:
    volume, labelmap = written(write(tmp_path / "in"), tmp_path / "seg.dcm")
    found = segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    numbers = {0: 0, 17: 1, 53: 2, 300: 3}
    expected = np.vectorize(numbers.get)(labelmap)
    # highdicom may stack the slices in the opposite direction.
    array = found.array
    lps_to_ras = np.diag([-1.0, -1, 1, 1])
    affine = (lps_to_ras @ found.affine)[:, [2, 1, 0, 3]]
    if affine[:3, 2] @ volume.ijk_to_ras[:3, 2] < 0:
        affine = affine.copy()
        affine[:3, 3] += (len(array) - 1) * affine[:3, 2]
        affine[:3, 2] *= -1
        array = array[::-1]
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_allclose(affine, volume.ijk_to_ras, atol=1e-5)


@pytest.mark.parametrize("code", ["RAS", "LPI", "SAR", "IRP"])
@pytest.mark.parametrize("write", [series, enhanced])
def test_a_grid_of_other_axes_than_the_slices_keeps_its_voxels(
    write: Write, code: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "in")
    volume = reorient(read_volume(source), code)
    _, labelmap = written(source, tmp_path / "seg.dcm", volume)
    np.testing.assert_array_equal(placed_labelmap(tmp_path / "seg.dcm", volume, LABELS), labelmap)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_volume_that_was_resampled_where_slices_are_missing_has_its_own_grid(
    mirrored: bool, tmp_path: Path
) -> None:
    paths = write_slices(tmp_path / "in", STORED, MATRIX)
    paths[2].unlink()
    matrix = oblique_matrix((0.9, 0.9, 1.25))
    matrix[:3, 0] *= -1 if mirrored else 1
    volume = Volume(np.zeros((11, 6, 8), np.uint8), matrix)
    _, labelmap = written(tmp_path / "in", tmp_path / "seg.dcm", volume)
    np.testing.assert_array_equal(placed_labelmap(tmp_path / "seg.dcm", volume, LABELS), labelmap)
    file = pydicom.dcmread(tmp_path / "seg.dcm")
    assert len(file.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(paths) - 1


@pytest.mark.parametrize("stated", [None, 0.5, -2.5])
@pytest.mark.parametrize("slices", [1, 6])
def test_slices_are_as_thick_as_far_apart_whatever_the_source_states(
    slices: int, stated: float | None, tmp_path: Path
) -> None:
    def change(header: Dataset, k: int) -> None:
        header.SpacingBetweenSlices = stated

    write_slices(tmp_path / "in", STORED[:slices], MATRIX, change)
    volume, _ = written(tmp_path / "in", tmp_path / "seg.dcm")
    assert _distances(tmp_path / "seg.dcm") == pytest.approx(2 * [volume.spacing[2]])


def test_slices_of_a_resampled_volume_are_as_thick_as_its_own(tmp_path: Path) -> None:
    def change(header: Dataset, k: int) -> None:
        header.SpacingBetweenSlices = 2.5

    write_slices(tmp_path / "in", STORED, MATRIX, change)[2].unlink()
    volume = Volume(np.zeros((11, 5, 7), np.uint8), oblique_matrix((0.7, 0.8, 1.25)))
    written(tmp_path / "in", tmp_path / "seg.dcm", volume)
    assert _distances(tmp_path / "seg.dcm") == pytest.approx([1.25, 1.25])


def _distances(path: Path) -> list[float]:
    """Return the thickness and the distance of the slices of a DICOM segmentation in mm."""
    [shared] = pydicom.dcmread(path).SharedFunctionalGroupsSequence
    [measures] = shared.PixelMeasuresSequence
    return [float(measures.SliceThickness), float(measures.SpacingBetweenSlices)]


@given(
    matrix=matrices(),
    shape=st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(4, 5)),
    seed=st.integers(0, 99),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_grid_in_the_space_of_the_source_keeps_its_voxels(
    matrix: np.ndarray, shape: tuple[int, int, int], seed: int, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    if not source.exists():
        write_slices(source, STORED, MATRIX)
    values = [0, *(label.value for label in LABELS)]
    labelmap = np.random.default_rng(seed).choice(values, size=shape)
    volume = Volume(np.zeros(shape, np.uint8), matrix)
    (tmp_path / "seg.dcm").unlink(missing_ok=True)
    written(source, tmp_path / "seg.dcm", volume, labelmap)
    np.testing.assert_array_equal(placed_labelmap(tmp_path / "seg.dcm", volume, LABELS), labelmap)


def test_frames_refer_to_the_images_at_their_positions(tmp_path: Path) -> None:
    source = series_named_against_its_order(tmp_path / "in")
    written(source, tmp_path / "seg.dcm")
    images = {(image := pydicom.dcmread(path)).SOPInstanceUID: image for path in source.iterdir()}
    file = pydicom.dcmread(tmp_path / "seg.dcm")
    assert file.StudyInstanceUID == "1.2.3"
    [referenced] = file.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.9"
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {
        *images
    }
    for group in file.PerFrameFunctionalGroupsSequence:
        [image] = group.DerivationImageSequence[0].SourceImageSequence
        own = group.PlanePositionSequence[0].ImagePositionPatient
        assert own == images[image.ReferencedSOPInstanceUID].ImagePositionPatient


@pytest.mark.parametrize("write", [enhanced, enhanced_with_a_copy, nuclear])
def test_frames_refer_to_the_frames_at_their_positions(write: Write, tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    written(source, tmp_path / "seg.dcm")
    file = pydicom.dcmread(tmp_path / "seg.dcm")
    for group in file.PerFrameFunctionalGroupsSequence:
        images = group.DerivationImageSequence[0].SourceImageSequence
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        heights = MATRIX[:3, 2] * (-1, -1, 1)
        origin = MATRIX[:3, 3] * (-1, -1, 1)
        place = round(float((position - origin) @ heights / (heights @ heights)))
        places = [*SHUFFLED, 2]
        assert {places[image.ReferencedFrameNumber - 1] for image in images} == {place}


def test_segments_without_voxels_are_described(tmp_path: Path) -> None:
    _, labelmap = written(series(tmp_path / "in"), tmp_path / "seg.dcm")
    assert 301 not in labelmap
    file = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [segment.SegmentNumber for segment in file.SegmentSequence] == [1, 2, 3, 4]
    frames = {segment_of(file, group) for group in file.PerFrameFunctionalGroupsSequence}
    assert frames == {1, 2, 3}


@pytest.mark.parametrize("write", [series, enhanced])
def test_a_labelmap_without_voxels_keeps_all_segments_and_is_small(
    write: Write, tmp_path: Path
) -> None:
    source = write(tmp_path / "in")
    volume = read_volume(source)
    written(source, tmp_path / "seg.dcm", volume, np.zeros(volume.shape, np.uint8))
    file = pydicom.dcmread(tmp_path / "seg.dcm")
    assert len(file.SegmentSequence) == file.NumberOfFrames == len(LABELS)
    assert not file.pixel_array.any()
    assert not placed_labelmap(tmp_path / "seg.dcm", volume, LABELS).any()


def test_a_single_class_is_a_segmentation_of_one_segment(tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    volume = read_volume(source)
    labelmap = labelmap_of(volume.shape, LABELS[:1])
    write_dicom_segmentation(
        labelmap, volume, tmp_path / "seg.dcm", LABELS[:1], read_source(source), ALGORITHM
    )
    found = placed_labelmap(tmp_path / "seg.dcm", volume, LABELS[:1])
    np.testing.assert_array_equal(found, labelmap)


def test_segments_have_the_names_codes_and_colours_of_their_labels(tmp_path: Path) -> None:
    written(series(tmp_path / "in"), tmp_path / "seg.dcm")
    file = pydicom.dcmread(tmp_path / "seg.dcm")
    left, right, amygdala, stem = file.SegmentSequence
    names = ["left hippocampus", "right hippocampus", "Mandelkörper", "brain stem"]
    assert [segment.SegmentLabel for segment in file.SegmentSequence] == names
    for segment in file.SegmentSequence:
        assert _code(segment.SegmentedPropertyCategoryCodeSequence) == STRUCTURE
    for segment, side in ((left, LEFT), (right, RIGHT)):
        assert _code(segment.SegmentedPropertyTypeCodeSequence) == HIPPOCAMPUS
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert _code(kind.SegmentedPropertyTypeModifierCodeSequence) == side
    assert (
        "SegmentedPropertyTypeModifierCodeSequence"
        not in (stem.SegmentedPropertyTypeCodeSequence[0])
    )
    assert amygdala.AnatomicRegionSequence[0].CodeValue == "69536005"
    assert _code(amygdala.AnatomicRegionSequence[0].AnatomicRegionModifierSequence) == LEFT
    # Grey of half intensity has an L* of 53 % and an a* and b* of 0, which is stored as 32896.
    lightness, a, b = stem.RecommendedDisplayCIELabValue
    assert lightness / 65535 == pytest.approx(0.53, abs=0.02)
    assert [a, b] == pytest.approx([32896, 32896], abs=100)


def test_segments_name_the_model_and_keep_their_identity(tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    files = []
    for name in ("a.dcm", "b.dcm"):
        written(source, tmp_path / name)
        files.append(pydicom.dcmread(tmp_path / name))
    for segment in files[0].SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("small", "4f2a")
        assert segment.TrackingID == segment.SegmentLabel
    uids = [[segment.TrackingUID for segment in file.SegmentSequence] for file in files]
    assert uids[0] == uids[1]
    assert len(set(uids[0])) == len(LABELS)
    assert files[0].SoftwareVersions == "1.2.3"
    assert files[0].SOPInstanceUID != files[1].SOPInstanceUID


def test_segments_that_the_user_corrected_are_semiautomatic(tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    volume = read_volume(source)
    corrected = replace(ALGORITHM, corrected=True)
    write_dicom_segmentation(
        labelmap_of(volume.shape), volume, tmp_path / "a", LABELS, read_source(source), corrected
    )
    kinds = {s.SegmentAlgorithmType for s in pydicom.dcmread(tmp_path / "a").SegmentSequence}
    assert kinds == {"SEMIAUTOMATIC"}


def test_the_patient_is_that_of_the_source_and_invalid_values_are_left_out(tmp_path: Path) -> None:
    def change(header: Dataset, k: int) -> None:
        header.SpecificCharacterSet = "ISO_IR 100"
        header.PatientName = "Müller^Jürgen"
        header.PatientSex, header.PatientBirthDate = "male", "1970"
        header.StudyDate, header.StudyTime = "20200131", "1112"
        header.FrameOfReferenceUID = "1.2.7"

    write_slices(tmp_path / "in", STORED, MATRIX, change)
    written(tmp_path / "in", tmp_path / "seg.dcm")
    file = pydicom.dcmread(tmp_path / "seg.dcm")
    assert str(file.PatientName) == "Müller^Jürgen"
    assert (file.PatientSex, file.PatientBirthDate) == ("", "")
    assert (file.StudyDate, file.StudyTime, file.FrameOfReferenceUID) == (
        "20200131",
        "1112",
        "1.2.7",
    )


def test_a_volume_of_the_series_goes_to_its_place_unless_its_axes_may_have_another_order(
    tmp_path: Path,
) -> None:
    cube = np.eye(4)
    cube[:3, :3] = MATRIX[:3, :3] / np.linalg.norm(MATRIX[:3, :3], axis=0)
    write_slices(tmp_path / "in", stored_values((6, 6, 6)), cube)
    volume, source = read_volume(tmp_path / "in"), read_source(tmp_path / "in")
    shift = np.zeros((4, 4))
    shift[:3, 3] = 30
    moved = replace(volume, ijk_to_ras=volume.ijk_to_ras + shift)
    assert source.in_place(moved).same_grid(volume)
    exchanged = Volume(moved.array.transpose(2, 0, 1), moved.ijk_to_ras[:, [1, 2, 0, 3]])
    coarser = replace(moved, ijk_to_ras=moved.ijk_to_ras @ np.diag([2.0, 2.0, 2.0, 1.0]))
    for other in (exchanged, coarser, reorient(moved, "LAS")):
        assert source.in_place(other) is other


def test_a_name_whose_bytes_hold_a_backslash_is_kept(tmp_path: Path) -> None:
    name = "Yamamoto^Tarou=山本^太郎"

    def change(header: Dataset, k: int) -> None:
        header.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        header.PatientName = name

    paths = write_slices(tmp_path / "in", STORED, MATRIX, change)
    assert b"\\" in pydicom.dcmread(paths[0]).get_item("PatientName").value
    written(tmp_path / "in", tmp_path / "seg.dcm")
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == name


def test_names_that_dicom_cannot_hold_are_cut(tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    volume = read_volume(source)
    label = replace(LABELS[0], name="a\\b" + 80 * "x")
    labelmap = labelmap_of(volume.shape, [label])
    arguments = labelmap, volume, tmp_path / "seg.dcm", [label], read_source(source), ALGORITHM
    write_dicom_segmentation(*arguments)
    [segment] = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert segment.SegmentLabel == "a b" + 61 * "x"


def test_an_existing_file_is_kept_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "seg.dcm").write_bytes(b"precious")
    with pytest.raises(MaskSAMError, match="exists"):
        written(series(tmp_path / "in"), tmp_path / "seg.dcm")
    assert (tmp_path / "seg.dcm").read_bytes() == b"precious"


REFUSED_LABELS = {
    "no terminology codes": replace(LABELS[0], terminology=None),
    "T-D0050": replace(
        LABELS[0], terminology=Terminology(STRUCTURE, Code("SRT", "T-D0050", "Tissue"))
    ),
    "not of SNOMED CT": replace(
        LABELS[0], terminology=Terminology(STRUCTURE, Code("SCT", "T-D0050", "Tissue"))
    ),
    "without scheme, value or meaning": replace(
        LABELS[0], terminology=Terminology(STRUCTURE, Code("DCM", "1", ""))
    ),
}


@pytest.mark.parametrize(("message", "label"), REFUSED_LABELS.items())
def test_labels_without_valid_codes_are_refused(message: str, label: Label, tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    volume = read_volume(source)
    labelmap = np.zeros(volume.shape, np.uint8)
    arguments = labelmap, volume, tmp_path / "seg.dcm", [label], read_source(source), ALGORITHM
    with pytest.raises(MaskSAMError, match=message) as error:
        write_dicom_segmentation(*arguments)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_voxels_of_unknown_values_are_refused(tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    volume = read_volume(source)
    for value in (-1, 18, 400):
        labelmap = np.full(volume.shape, value)
        with pytest.raises(MaskSAMError, match=f"value {value}, which no label has"):
            written(source, tmp_path / "seg.dcm", volume, labelmap)


def test_a_source_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(STORED), str(tmp_path / "a.nrrd"))
    with pytest.raises(MaskSAMError, match=r"a\.nrrd is no DICOM file"):
        read_source(tmp_path / "a.nrrd")


def test_images_without_uids_are_refused(tmp_path: Path) -> None:
    write_slices(tmp_path / "in", STORED, MATRIX, lambda header, k: header.pop("StudyInstanceUID"))
    with pytest.raises(MaskSAMError, match="IM000 does not state its StudyInstanceUID"):
        read_source(tmp_path / "in")


def test_images_of_a_private_kind_are_refused(tmp_path: Path) -> None:
    def change(header: Dataset, k: int) -> None:
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5"

    write_slices(tmp_path / "in", STORED, MATRIX, change)
    with pytest.raises(MaskSAMError, match=r"IM000 is an image of a kind .*1\.2\.3\.4\.5"):
        read_source(tmp_path / "in")


def test_images_of_one_uid_are_refused(tmp_path: Path) -> None:
    def change(header: Dataset, k: int) -> None:
        header.SOPInstanceUID = "1.2.9.1"

    write_slices(tmp_path / "in", STORED, MATRIX, change)
    with pytest.raises(MaskSAMError, match=r"same SOPInstanceUID \(IM000 and IM001\)"):
        read_source(tmp_path / "in")


def test_images_of_several_studies_are_refused(tmp_path: Path) -> None:
    def change(header: Dataset, k: int) -> None:
        header.StudyInstanceUID = f"1.2.{k // 3 + 3}"

    write_slices(tmp_path / "in", STORED, MATRIX, change)
    with pytest.raises(MaskSAMError, match=r"in do not allow a DICOM segmentation"):
        written(tmp_path / "in", tmp_path / "seg.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_slices_too_small_for_highdicom_are_refused(tmp_path: Path) -> None:
    write_slices(tmp_path / "in", STORED[:, :2, :3], MATRIX)
    with pytest.raises(MaskSAMError, match="slices of fewer than 8 pixels"):
        written(tmp_path / "in", tmp_path / "seg.dcm")


@pytest.mark.parametrize("description", sorted(resources().glob("Models/*/masksam.json")))
def test_codes_of_bundled_models_are_known_to_dicom_under_their_scheme(description: Path) -> None:
    labels = [Label.from_json(values) for values in read_json(description)["labels"]]
    check_codes(labels)
    known = {scheme: getattr(codes, scheme).concepts.values() for scheme in ("SCT", "DCM")}
    values = {scheme: {code.value for code in found} for scheme, found in known.items()}
    for label in labels:
        for code in (label.terminology.category, label.terminology.type):
            assert code.value in values[code.scheme]
        modifier = label.terminology.type_modifier
        assert modifier is None or modifier.value in values[modifier.scheme]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools is not installed")
@pytest.mark.parametrize("write", SOURCES)
def test_dciodvfy_finds_no_error(write: Write, tmp_path: Path) -> None:
    written(write(tmp_path / "in"), tmp_path / "seg.dcm")
    assert errors_of_dciodvfy(tmp_path / "seg.dcm") == []


def _dcmqi() -> str | None:
    return shutil.which("segimage2itkimage") or shutil.which(
        "segimage2itkimage", path=sysconfig.get_path("scripts")
    )


@pytest.mark.skipif(not _dcmqi(), reason="dcmqi is not installed: pip install dcmqi")
@pytest.mark.parametrize("write", [series, enhanced, nuclear])
def test_dcmqi_reads_the_same_voxels(write: Write, tmp_path: Path) -> None:
    volume, labelmap = written(write(tmp_path / "in"), tmp_path / "seg.dcm")
    (tmp_path / "out").mkdir()
    command = [str(_dcmqi()), "--inputDICOM", str(tmp_path / "seg.dcm"), "-t", "nrrd"]
    command += ["--outputDirectory", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    values = sorted(label.value for label in LABELS)
    for number, value in enumerate(values, start=1):
        found = read_volume(tmp_path / "out" / f"{number}.nrrd")
        i, j, k = np.indices(found.shape[::-1]).reshape(3, -1)[:, found.array.T.ravel() > 0]
        points = found.ijk_to_ras[:3, :3] @ (i, j, k) + found.ijk_to_ras[:3, 3:]
        inverse = np.linalg.inv(volume.ijk_to_ras)
        place = np.rint(inverse[:3, :3] @ points + inverse[:3, 3:]).astype(int)
        mask = np.zeros(volume.shape, bool)
        mask[place[2], place[1], place[0]] = True
        np.testing.assert_array_equal(mask, labelmap == value)


def _code(sequence: pydicom.Sequence) -> Code:
    [item] = sequence
    return Code(item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning)
