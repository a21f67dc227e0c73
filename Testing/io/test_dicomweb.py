"""DICOM segmentations and reports through a real archive, Orthanc, by DICOMweb."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from requests import RequestException

from MaskSAMCore.io import read_volume
from MaskSAMCore.io.dicom_report import write_dicom_report
from MaskSAMCore.io.dicom_segmentation import Algorithm, write_dicom_segmentation
from MaskSAMCore.io.dicom_source import read_source
from Testing.helpers.dicom import oblique_matrix, stored_values, write_slices
from Testing.helpers.dicom_segmentations import LABELS, labelmap_of, placed_labelmap

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_START_SECONDS = 60

pytestmark = pytest.mark.skipif(
    not shutil.which("Orthanc") or not _PLUGIN.exists(),
    reason="Orthanc is not installed: apt-get install orthanc orthanc-dicomweb",
)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[DICOMwebClient]:
    """Yield a client of an empty archive on this computer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("w") as log:
        process = subprocess.Popen(
            ["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log
        )
        try:
            client = DICOMwebClient(f"http://127.0.0.1:{port}/dicom-web")
            _wait(client, process)
            yield client
        finally:
            process.terminate()
            process.wait(60)


def _wait(client: DICOMwebClient, process: subprocess.Popen[bytes]) -> None:
    """Return as soon as the archive answers."""
    for _ in range(20 * _START_SECONDS):
        assert process.poll() is None
        try:
            client.search_for_studies()
            return
        except RequestException:
            time.sleep(0.05)
    raise AssertionError("Orthanc does not answer")


def test_segmentations_and_reports_come_back_from_an_archive(
    archive: DICOMwebClient, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    write_slices(source, stored_values((6, 15, 17)), oblique_matrix())
    volume, images = read_volume(source), read_source(source)
    labelmap = labelmap_of(volume.shape)
    segmentation, report = tmp_path / "seg.dcm", tmp_path / "report.dcm"
    write_dicom_segmentation(
        labelmap, volume, segmentation, LABELS, images, Algorithm("small", "4f2a", "1.2.3")
    )
    write_dicom_report(report, segmentation, images)
    sent = [pydicom.dcmread(path) for path in (*source.iterdir(), segmentation, report)]
    archive.store_instances(sent)

    [study] = archive.search_for_studies()
    assert study["0020000D"]["Value"] == ["1.2.3"]
    kinds = sorted(found["00080060"]["Value"][0] for found in archive.search_for_series("1.2.3"))
    assert kinds == ["MR", "SEG", "SR"]
    fetched = archive.retrieve_instance(
        "1.2.3", sent[-2].SeriesInstanceUID, sent[-2].SOPInstanceUID
    )
    fetched.save_as(tmp_path / "fetched.dcm", enforce_file_format=True)
    found = placed_labelmap(tmp_path / "fetched.dcm", volume, LABELS)
    np.testing.assert_array_equal(found, labelmap)
    returned = archive.retrieve_instance(
        "1.2.3", sent[-1].SeriesInstanceUID, sent[-1].SOPInstanceUID
    )
    assert returned.ContentSequence == sent[-1].ContentSequence
    slices = archive.retrieve_series("1.2.3", "1.2.9")
    assert len(slices) == len(volume.array)
