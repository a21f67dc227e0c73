"""DICOM inputs of many kinds, with the outcome of reading each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from Testing.helpers.dicom import (
    oblique_matrix,
    orientation,
    position,
    stored_values,
    write_enhanced,
    write_nuclear,
    write_slices,
)
from Testing.helpers.input_cases import Expected, InputCase

MATRIX = oblique_matrix()
STORED = stored_values()
SLICES = len(STORED)
MATRIX_SPACING = 2.5
INTERLEAVED = [*range(0, SLICES, 2), *range(1, SLICES, 2)]

Change = Callable[[Dataset, int], None]
Write = Callable[[Path], Expected]


def read_slices(change: Change, array: np.ndarray = STORED, modality: str = "MR") -> Write:
    """Return a writer of a series with edited headers that is read as ``array``."""

    def write(folder: Path) -> Expected:
        write_slices(folder / "series", STORED, MATRIX, change, modality)
        return Expected(folder / "series", array, MATRIX)

    return write


def refused_slices(change: Change) -> Write:
    """Return a writer of a series with edited headers that is refused."""

    def write(folder: Path) -> Expected:
        write_slices(folder / "series", STORED, MATRIX, change)
        return Expected(folder / "series")

    return write


def refused_file(**arguments: object) -> Write:
    """Return a writer of a multi-frame file that is refused."""

    def write(folder: Path) -> Expected:
        write_enhanced(folder / "a.dcm", STORED, MATRIX, **arguments)  # type: ignore[arg-type]
        return Expected(folder / "a.dcm")

    return write


def names_against_order(folder: Path) -> Expected:
    paths = write_slices(folder / "series", STORED, MATRIX, name="Z{:03}")
    for number, path in enumerate(reversed(paths)):
        path.rename(path.with_name(f"A{number}"))
    return Expected(folder / "series", STORED, MATRIX)


def rescale(header: Dataset, k: int) -> None:
    header.RescaleSlope, header.RescaleIntercept = (1 if k == 0 else 0.001), k


def rescaled() -> np.ndarray:
    slopes = np.array([1, *[0.001] * (SLICES - 1)])
    return STORED * slopes[:, None, None] + np.arange(SLICES)[:, None, None]


def hounsfield(header: Dataset, k: int) -> None:
    header.RescaleSlope, header.RescaleIntercept = 1, -1024


def real_world_value(header: Dataset, k: int) -> None:
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 3.0, 1.0
    header.RealWorldValueMappingSequence = [mapping]


def bits(header: Dataset, k: int) -> None:
    """Store signed values in 12 bits."""
    header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 11, 1
    values = (STORED[k].astype(np.int16) - 60).astype(np.uint16) & 0x0FFF
    header.PixelData = values.astype("<u2").tobytes()


def bits_below_overlay(header: Dataset, k: int) -> None:
    """Store signed values in 12 bits, and an overlay in the bits above them."""
    bits(header, k)
    values = np.frombuffer(header.PixelData, "<u2") | 0x5000
    header.PixelData = values.astype("<u2").tobytes()
    header.add_new((0x6000, 0x0102), "US", 12)


def bits_missing(header: Dataset, k: int) -> None:
    """State fewer bits than the largest values need."""
    header.BitsStored, header.HighBit = 6, 5


def table(header: Dataset, k: int) -> None:
    """Map the stored values by a lookup table."""
    lookup = Dataset()
    lookup.LUTDescriptor = [200, 0, 16]
    lookup.ModalityLUTType = "HU"
    lookup.add_new("LUTData", "OW", np.arange(200, dtype="<u2").tobytes())
    header.ModalityLUTSequence = [lookup]


def inverted_once(header: Dataset, k: int) -> None:
    header.PhotometricInterpretation = "MONOCHROME1" if k == 2 else "MONOCHROME2"


def other_patient(header: Dataset, k: int) -> None:
    header.PatientID = "1" if k < SLICES // 2 else "2"


def other_frame_of_reference(header: Dataset, k: int) -> None:
    header.FrameOfReferenceUID = "1.2.5" if k < SLICES // 2 else "1.2.6"


def every_other_slice(header: Dataset, k: int) -> None:
    """State half of the distance between the slice positions."""
    header.SpacingBetweenSlices = header.SliceThickness = MATRIX_SPACING / 2


def thin_slices(header: Dataset, k: int) -> None:
    header.SliceThickness = 0.2 * MATRIX_SPACING


def gap_only(header: Dataset, k: int) -> None:
    """State the gap between slices in place of the distance of their centres."""
    header.SliceThickness = 0.8 * MATRIX_SPACING
    header.SpacingBetweenSlices = 0.2 * MATRIX_SPACING


def syntax(uid: str) -> Change:
    """Return a change of the transfer syntax."""

    def change(header: Dataset, k: int) -> None:
        if uid == RLELossless:
            header.compress(uid, encoding_plugin="pydicom")
        header.file_meta.TransferSyntaxUID = uid

    return change


def inverted(header: Dataset, k: int) -> None:
    header.PhotometricInterpretation = "MONOCHROME1"


def copies(folder: Path) -> Expected:
    paths = write_slices(folder / "series", STORED, MATRIX)
    shutil.copy(paths[2], paths[2].with_name("IM002 (1)"))
    return Expected(folder / "series", STORED, MATRIX)


def other_files(folder: Path) -> Expected:
    series = folder / "series"
    write_slices(series, STORED, MATRIX)
    write_slices(series, STORED[:1], MATRIX, modality="SEG", series="1.2.7", name="SEG{}")
    (series / "notes.txt").write_text("No findings.")
    (series / "empty.txt").write_bytes(b"")
    (series / "._IM001").write_bytes(b"\0" * 200)
    (series / "below").mkdir()
    return Expected(series, STORED, MATRIX)


def single_slice(folder: Path) -> Expected:
    (path,) = write_slices(folder / "series", STORED[:1], MATRIX)
    return Expected(path, STORED[:1], MATRIX)


def slice_of_series(folder: Path) -> Expected:
    return Expected(write_slices(folder / "series", STORED, MATRIX)[3])


def name_in_latin_1(folder: Path) -> Expected:
    series = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))
    write_slices(series, STORED, MATRIX, syntax(RLELossless))
    return Expected(series, STORED, MATRIX)


def empty_file(folder: Path) -> Expected:
    write_slices(folder / "series", STORED, MATRIX)[-1].write_bytes(b"")
    return Expected(folder / "series")


def cut_file(folder: Path) -> Expected:
    path = write_slices(folder / "series", STORED, MATRIX)[-1]
    path.write_bytes(path.read_bytes()[:-10])
    return Expected(folder / "series")


def web_page(folder: Path) -> Expected:
    write_slices(folder / "series", STORED, MATRIX)[-1].write_text("<html>404 Not Found</html>")
    return Expected(folder / "series")


def broken_link(folder: Path) -> Expected:
    path = write_slices(folder / "series", STORED, MATRIX)[-1]
    path.unlink()
    path.symlink_to("moved")
    return Expected(folder / "series")


def missing_slice(folder: Path) -> Expected:
    write_slices(folder / "series", STORED, MATRIX)[2].unlink()
    return Expected(folder / "series")


def leaning(header: Dataset, k: int) -> None:
    header.ImagePositionPatient = [0, 0.5 * k, 2 * k]
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def two_echoes(folder: Path) -> Expected:
    for echo in (1, 2):

        def change(header: Dataset, k: int, echo: int = echo) -> None:
            header.EchoTime = 4.9 * echo
            header.SOPInstanceUID = f"1.2.{echo}.{k}"

        write_slices(folder / "series", STORED // echo, MATRIX, change, name=f"E{echo}" + "IM{}")
    return Expected(folder / "series")


def two_series(folder: Path) -> Expected:
    for number in (1, 2):
        write_slices(
            folder / "all", STORED, MATRIX, series=f"1.2.{number}", name=f"S{number}" + "-{}"
        )
    return Expected(folder / "all")


def differs_in(keyword: str, value: object) -> Change:
    """Return a change of one element in the last slices."""

    def change(header: Dataset, k: int) -> None:
        if k > SLICES // 2:
            setattr(header, keyword, value)

    return change


def smaller(header: Dataset, k: int) -> None:
    if k > SLICES // 2:
        header.Rows -= 1
        header.PixelData = header.PixelData[: header.Rows * header.Columns * 2]


def without(keyword: str) -> Change:
    """Return a change that removes an element."""
    return lambda header, k: delattr(header, keyword)


def on_detector(header: Dataset, k: int) -> None:
    header.ImagerPixelSpacing = header.PixelSpacing
    del header.PixelSpacing


def zero_spacing(header: Dataset, k: int) -> None:
    header.PixelSpacing = [0, 0]


def words_for_numbers(header: Dataset, k: int) -> None:
    header["ImagePositionPatient"].VR = "LO"
    header["ImagePositionPatient"].value = ["left", "right", "up"]


def mosaic(header: Dataset, k: int) -> None:
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]


def localizer(header: Dataset, k: int) -> None:
    if k == 0:
        header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def colour(header: Dataset, k: int) -> None:
    header.SamplesPerPixel, header.PhotometricInterpretation = 3, "RGB"
    header.PlanarConfiguration = 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.PixelData = bytes(header.Rows * header.Columns * 3)


def screenshot(header: Dataset, k: int) -> None:
    header.SOPClassUID = SecondaryCaptureImageStorage
    del header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing


def interleaved_frames(folder: Path) -> Expected:
    write_enhanced(folder / "a.dcm", STORED[INTERLEAVED], MATRIX, INTERLEAVED)
    return Expected(folder / "a.dcm", STORED, MATRIX)


def rescaled_frames(folder: Path) -> Expected:
    def change(group: Dataset, k: int) -> None:
        scale = Dataset()
        rescale(scale, k)
        group.PixelValueTransformationSequence = [scale]

    write_enhanced(folder / "a.dcm", STORED, MATRIX, change=change)
    return Expected(folder / "a.dcm", rescaled(), MATRIX)


def parts_of_a_volume(folder: Path) -> Expected:
    half = SLICES // 2
    write_enhanced(folder / "series/1.dcm", STORED[half:], MATRIX, range(half, SLICES))
    write_enhanced(folder / "series/2.dcm", STORED[:half], MATRIX, range(half))
    return Expected(folder / "series", STORED, MATRIX)


def volume_in_each_file(folder: Path) -> Expected:
    for number in (1, 2, 3):
        write_enhanced(folder / f"series/{number}.dcm", STORED // number, MATRIX)
    return Expected(folder / "series")


def two_volumes_in_a_file(folder: Path) -> Expected:
    def change(group: Dataset, number: int) -> None:
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + number // SLICES

    frames = np.concatenate([STORED, STORED // 2])
    write_enhanced(folder / "a.dcm", frames, MATRIX, [*range(SLICES)] * 2, change)
    return Expected(folder / "a.dcm")


def nuclear(folder: Path) -> Expected:
    write_nuclear(folder / "a.dcm", STORED[INTERLEAVED], MATRIX, [k + 1 for k in INTERLEAVED])
    return Expected(folder / "a.dcm", STORED, MATRIX)


def nuclear_downwards(folder: Path) -> Expected:
    def edit(header: Dataset) -> None:
        header.SpacingBetweenSlices = -header.SpacingBetweenSlices
        header.DetectorInformationSequence[0].ImagePositionPatient = position(MATRIX, SLICES - 1)

    write_nuclear(folder / "a.dcm", STORED[::-1], MATRIX, range(1, SLICES + 1), edit)
    return Expected(folder / "a.dcm", STORED, MATRIX)


def film(folder: Path) -> Expected:
    def edit(header: Dataset) -> None:
        del header.SliceVector

    write_nuclear(folder / "a.dcm", STORED, MATRIX, range(1, SLICES + 1), edit)
    return Expected(folder / "a.dcm")


def turned_frame(group: Dataset, number: int) -> None:
    if number == 3:
        plane = Dataset()
        plane.ImageOrientationPatient = orientation(MATRIX[:, [1, 0, 2, 3]])
        group.PlaneOrientationSequence = [plane]


def missing_frame_position(group: Dataset, number: int) -> None:
    if number == 3:
        del group.PlanePositionSequence


def skipped_frame(group: Dataset, number: int) -> None:
    if number == SLICES - 1:
        group.PlanePositionSequence[0].ImagePositionPatient = position(MATRIX, SLICES + 1)


def cut_frames(header: Dataset) -> None:
    header.PixelData = header.PixelData[:-20]


CASES = [
    InputCase(
        "files in any order, by name and number",
        names_against_order,
        "read",
        reason="slices are ordered by their position along the normal",
    ),
    InputCase(
        "slope and intercept that change from slice to slice",
        read_slices(rescale, rescaled(), "CT"),
        "read",
        reason="each slice with its own; values are float32 unless all are whole numbers",
    ),
    InputCase(
        "CT with an intercept",
        read_slices(hounsfield, STORED.astype(np.int32) - 1024, "CT"),
        "read",
        reason="Hounsfield units, as integers",
    ),
    InputCase(
        "real-world values only",
        read_slices(real_world_value),
        "read",
        reason="stored values: a real-world value map is not applied",
    ),
    InputCase(
        "12 bits with sign",
        read_slices(bits, STORED.astype(np.int16) - 60),
        "read",
    ),
    InputCase(
        "values of more bits than the header says",
        read_slices(bits_missing, STORED & 63),
        "read with a note",
        "more than the 6 bits .*: IM000, ",
        "the bits above are cut off, as in 3D Slicer",
    ),
    InputCase(
        "12 bits with sign, overlay in the bits above",
        read_slices(bits_below_overlay, STORED.astype(np.int16) - 60),
        "read",
        reason="the overlay is removed",
    ),
    InputCase(
        "slices of two frames of reference",
        read_slices(other_frame_of_reference),
        "read with a note",
        "2 frames of reference",
        "their positions may not fit together",
    ),
    InputCase(
        "slices twice as far apart as the header says",
        read_slices(every_other_slice),
        "read with a note",
        r"2\.5 mm apart, which were 1\.25 mm apart by",
        "slices may be missing",
    ),
    InputCase("thin slices far apart", read_slices(thin_slices), "read"),
    InputCase("gap in place of the distance of slices", read_slices(gap_only), "read"),
    InputCase(
        "low values are bright in a single slice",
        refused_slices(inverted_once),
        "refused",
        "different photometric interpretations",
        "its scale is unknown",
    ),
    InputCase(
        "lookup table of values (Modality LUT)",
        refused_slices(table),
        "refused",
        "lookup table",
        "values are not those stored",
    ),
    InputCase(
        "slices of two patients",
        refused_slices(other_patient),
        "refused",
        "slices of 2 patients",
        "these are several volumes",
    ),
    InputCase(
        "low values are bright (MONOCHROME1)",
        read_slices(inverted, 65535 - STORED),
        "read",
        reason="values are inverted, as in 3D Slicer",
    ),
    InputCase(
        "implicit value representations", read_slices(syntax(ImplicitVRLittleEndian)), "read"
    ),
    InputCase("deflated", read_slices(syntax(DeflatedExplicitVRLittleEndian)), "read"),
    InputCase(
        "compressed (RLE; likewise JPEG, JPEG-LS, JPEG 2000)",
        read_slices(syntax(RLELossless)),
        "read",
        reason="decoded without applying any scale twice",
    ),
    InputCase(
        "names that are not UTF-8",
        name_in_latin_1,
        "read",
        reason="old file systems have such names",
    ),
    InputCase(
        "text, hidden files, segmentations and reports beside a series",
        other_files,
        "read",
        reason="these are left out",
    ),
    InputCase(
        "copies of slices",
        copies,
        "read with a note",
        r"1 copies of slices, which are left out: IM002 \(1\)",
        "of slices with equal voxels at the same position, one is used",
    ),
    InputCase(
        "a series of a single slice",
        single_slice,
        "read with a note",
        "single slice",
        "the other slices may be elsewhere",
    ),
    InputCase(
        "one file of a series",
        slice_of_series,
        "refused",
        "IM003 is one slice of a series: give the folder",
        "the folder holds the volume",
    ),
    InputCase(
        "an empty file in a series",
        empty_file,
        "refused",
        "IM005 is an empty file",
        "a slice is missing",
    ),
    InputCase(
        "a cut file in a series",
        cut_file,
        "refused",
        "IM005 is damaged or incomplete",
        "a slice is incomplete",
    ),
    InputCase(
        "another file with the name of a slice, such as a web page",
        web_page,
        "refused",
        "IM005 is damaged or no DICOM file",
        "a slice is missing",
    ),
    InputCase(
        "a broken link in a series",
        broken_link,
        "refused",
        "IM005 is a broken link",
        "a slice is missing",
    ),
    InputCase(
        "a missing slice",
        missing_slice,
        "refused",
        r"missing, unevenly spaced or tilted \(2.5 to 5 mm apart\)",
        "3D Slicer resamples such series",
    ),
    InputCase(
        "a tilted gantry",
        refused_slices(leaning),
        "refused",
        "missing, unevenly spaced or tilted .*3D Slicer, which resamples",
        "3D Slicer resamples such series",
    ),
    InputCase(
        "two echoes in a series",
        two_echoes,
        "refused",
        "2 volumes that differ in echo time",
        "likewise phases, time points, b-values, magnitude and phase",
    ),
    InputCase(
        "two series in a folder",
        two_series,
        "refused",
        "2 DICOM series",
        "one must be chosen",
    ),
    InputCase(
        "pixel spacing that changes within a series",
        refused_slices(differs_in("PixelSpacing", [0.5, 0.5])),
        "refused",
        "different pixel spacings .IM000 and IM004",
        "these are several volumes",
    ),
    InputCase(
        "orientation that changes within a series",
        refused_slices(
            differs_in("ImageOrientationPatient", orientation(oblique_matrix()[:, [1, 0, 2, 3]]))
        ),
        "refused",
        "different orientations",
        "these are several volumes",
    ),
    InputCase(
        "size that changes within a series",
        refused_slices(smaller),
        "refused",
        "different sizes",
        "these are several volumes",
    ),
    InputCase(
        "localizers in a series",
        refused_slices(localizer),
        "refused",
        "localizers, such as IM000",
        "these are no slices of the volume",
    ),
    *(
        InputCase(
            f"no {name}",
            refused_slices(without(keyword)),
            "refused",
            f"does not state its {name}",
            "the place of the voxels is unknown",
        )
        for name, keyword in {
            "pixel spacing": "PixelSpacing",
            "position": "ImagePositionPatient",
            "orientation": "ImageOrientationPatient",
        }.items()
    ),
    InputCase(
        "all slices at the same position",
        refused_slices(lambda header, k: setattr(header, "ImagePositionPatient", [0, 0, 0])),
        "refused",
        "6 different images at the same position",
        "the place of the voxels is unknown",
    ),
    InputCase(
        "slope in some slices only",
        refused_slices(lambda header, k: rescale(header, k) if k > 2 else None),
        "refused",
        "with and without a rescale slope",
        "the scale of the other slices is unknown",
    ),
    InputCase(
        "pixel spacing of 0",
        refused_slices(zero_spacing),
        "refused",
        "pixel spacing that is not positive",
        "the size of the voxels is unknown",
    ),
    InputCase(
        "pixel spacing on the detector only",
        refused_slices(on_detector),
        "refused",
        "on the detector only",
        "the size of the voxels is unknown",
    ),
    InputCase(
        "words where numbers belong",
        refused_slices(words_for_numbers),
        "refused",
        "IM000 is damaged",
        "the header is damaged",
    ),
    InputCase(
        "Siemens mosaic",
        refused_slices(mosaic),
        "refused",
        "mosaic.*dcm2niix",
        "all slices are in one picture, which dcm2niix separates",
    ),
    InputCase(
        "colour",
        refused_slices(colour),
        "refused",
        "colour image",
        "models take grey levels",
    ),
    InputCase(
        "secondary capture",
        refused_slices(screenshot),
        "refused",
        "does not state its",
        "a picture of the screen has no place in space",
    ),
    InputCase(
        "multi-frame file, frames in any order",
        interleaved_frames,
        "read",
        reason="frames are ordered by their position along the normal",
    ),
    InputCase(
        "multi-frame file, slope and intercept of each frame",
        rescaled_frames,
        "read",
        reason="each frame with its own",
    ),
    InputCase(
        "parts of a volume in several multi-frame files",
        parts_of_a_volume,
        "read",
        reason="joined where their positions fit",
    ),
    InputCase(
        "several multi-frame files with a volume each",
        volume_in_each_file,
        "refused",
        "3 DICOM files with a volume each: give one of them, such as 1.dcm",
        "one must be chosen",
    ),
    InputCase(
        "multi-frame file with two volumes",
        two_volumes_in_a_file,
        "refused",
        "2 volumes that differ in time point",
        "one must be chosen",
    ),
    InputCase(
        "multi-frame file with frames of different orientations",
        refused_file(change=turned_frame),
        "refused",
        "different orientations .a.dcm, frame 1 and a.dcm, frame 4",
        "these are several volumes",
    ),
    InputCase(
        "multi-frame file with a gap",
        refused_file(change=skipped_frame),
        "refused",
        "missing, unevenly spaced or tilted",
        "3D Slicer resamples such series",
    ),
    InputCase(
        "multi-frame file, a frame without position",
        refused_file(change=missing_frame_position),
        "refused",
        "does not state its position",
        "the place of the voxels is unknown",
    ),
    InputCase(
        "multi-frame file, cut",
        refused_file(edit=cut_frames),
        "refused",
        "a.dcm is damaged or incomplete",
        "frames are missing",
    ),
    InputCase(
        "nuclear medicine, slices in any order",
        nuclear,
        "read",
        reason="frames are ordered by their slice number",
    ),
    InputCase(
        "nuclear medicine, slices against the normal",
        nuclear_downwards,
        "read",
        reason="a negative distance of slices leads against the normal",
    ),
    InputCase(
        "film of one place (ultrasound, angiography, scintigraphy)",
        film,
        "refused",
        "frames without a position in space",
        "it is no volume",
    ),
]
