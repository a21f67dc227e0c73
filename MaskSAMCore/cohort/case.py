"""A case: the images that belong together, and the file of their segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from MaskSAMCore.io.dicom_segmentation import DICOM_SUFFIX
from MaskSAMCore.io.files import files_in, image_stem


@dataclass(frozen=True)
class ImageSource:
    """An image on disk.

    Attributes:
        path: image file, or folder of a DICOM series.
        files: files of the series, if the folder also holds others; empty for all files.
    """

    path: Path
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Case:
    """A case to segment.

    Attributes:
        name: name of the case; for an image in a folder of cases it includes the subfolders, such
            as "site/anna".
        images: image of each channel.
        output: file to write the labelmap to.
        notes: messages for the user about doubts in the files.
    """

    name: str
    images: tuple[ImageSource, ...]
    output: Path
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Path of the image of each channel."""
        return tuple(image.path for image in self.images)

    @property
    def probabilities(self) -> Path:
        """File for the probabilities of the classes."""
        return self.output.with_name(f"{image_stem(self.output)}_probabilities.nrrd")

    @property
    def report(self) -> Path:
        """File for the DICOM report of the volumes."""
        return self.output.with_name(f"{image_stem(self.output)}_report{DICOM_SUFFIX}")

    @property
    def picture(self) -> Path:
        """File for the picture of slices with outlines."""
        return picture_of(self.output)

    @property
    def is_outdated(self) -> bool:
        """True if an image was written after its labelmap; False if a file of either is missing."""
        try:
            written = self.output.stat().st_mtime
            return any(
                file.stat().st_mtime > written
                for image in self.images
                for file in image.files or files_in(image.path)
            )
        except OSError:
            return False

    @property
    def is_dicom(self) -> bool:
        """True if the segmentation is written as DICOM."""
        return self.output.name.lower().endswith(DICOM_SUFFIX)


def picture_of(output: Path) -> Path:
    """Return the file for the picture of a labelmap, beside it."""
    return output.with_name(f"{image_stem(output)}_picture.webp")


@dataclass(frozen=True)
class LeftOut:
    """Images that were found but are not segmented.

    Attributes:
        name: name of the case.
        paths: paths of the images.
        reason: reason why the images are not segmented, one line.
        failed: whether the user has to correct something; False for an image that is no scan to
            segment, such as a localizer.
    """

    name: str
    paths: tuple[Path, ...]
    reason: str
    failed: bool = True
