"""Replacement for the module ``SampleData`` that registers sources and downloads nothing.

``slicer.modules.sampleDataSources`` holds the sources by category, as in the application.
"""

from __future__ import annotations

from dataclasses import dataclass

import slicer


@dataclass
class SampleDataSource:
    """Entry of the sample data page, with the arguments of the real class."""

    sampleName: str | None = None
    uris: str | list[str] | None = None
    fileNames: str | list[str] | None = None
    nodeNames: str | list[str] | None = None
    checksums: str | list[str] | None = None
    loadFiles: bool | None = None
    customDownloader: object = None
    thumbnailFileName: str | None = None
    loadFileTypes: str | list[str] | None = None
    loadFileProperties: dict | None = None

    def __post_init__(self):
        names = ("uris", "fileNames", "nodeNames", "checksums", "loadFileTypes")
        for name in names:
            value = getattr(self, name)
            if isinstance(value, str):
                setattr(self, name, [value])
        lengths = {len(getattr(self, name)) for name in names if getattr(self, name) is not None}
        if len(lengths) > 1:
            raise ValueError("the fields of a sample differ in number")


class SampleDataLogic:
    """Registry that modules call on ``startupCompleted()``."""

    titles: dict[str, str] = {}  # noqa: RUF012

    @staticmethod
    def registerCustomSampleDataCategory(category, title=None):
        """Set the title of a category."""
        SampleDataLogic.titles[category] = title or category

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom", sampleName=None, uris=None, fileNames=None, nodeNames=None,
        customDownloader=None, thumbnailFileName=None, loadFileTypes=None, loadFiles=None,
        loadFileProperties=None, checksums=None, loadFileType=None,
    ):  # fmt: skip
        """Add a sample to a category unless it is there already."""
        source = SampleDataSource(
            sampleName, uris, fileNames, nodeNames, checksums, loadFiles, customDownloader,
            thumbnailFileName, loadFileTypes or loadFileType, loadFileProperties,
        )  # fmt: skip
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in sources:
            sources.append(source)
