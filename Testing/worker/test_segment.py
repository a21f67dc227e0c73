"""Segmentation through the worker, compared with the engine in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore import Box, Segmenter, Volume
from Testing.helpers.generated import generated_case
from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    OBLIQUE,
    matrix,
    rotation,
    two_blobs,
    volume_of,
)
from Testing.helpers.worker_tools import (
    MATRIX,
    UNICODE_NAMES,
    Calls,
    SegmentRequest,
    WorkerClient,
    WorkerError,
    known_model,
    request,
    wait_until,
)


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Segmenter:
    """The engine with the model of the bundle."""
    return Segmenter.from_model(bundle)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_result_equals_that_of_the_engine(
    client: WorkerClient, bundle: Path, segmenter: Segmenter, geometry: str
):
    array, ijk_to_ras = generated_case(1)[0], GEOMETRIES[geometry]
    calls = Calls()
    job = client.segment(request(array, bundle, ijk_to_ras), **calls.callbacks())
    result = client.wait(job)
    expected = segmenter.segment(Volume(array, ijk_to_ras))
    assert len(np.unique(expected.labelmap)) > 1
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)
    assert result.labelmap.dtype == expected.labelmap.dtype
    assert calls.done == [result] and calls.errors == []
    assert job.done and job.result is result and job.error is None and job.seconds > 0
    for found, one in zip(result.instances, expected.instances, strict=True):
        assert (found.value, found.name) == (one.value, one.name)
        assert found.confidence == pytest.approx(one.confidence, abs=1e-9)
        assert (found.box, found.voxel_count) == (one.box, one.voxel_count)
    assert result.device.name == str(segmenter.device.device)
    assert result.device.reason


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "f8", "?", ">f4"])
def test_every_voxel_type_and_memory_layout_is_accepted(
    client: WorkerClient, bundle: Path, segmenter: Segmenter, dtype: str
):
    array = np.asfortranarray(generated_case(1)[0])
    array = (array > array.mean() if dtype == "?" else array).astype(dtype)[::-1, :, 2:]
    result = client.wait(client.segment(request(array, bundle)))
    native = np.ascontiguousarray(array).astype(np.dtype(dtype).newbyteorder("="))
    expected = segmenter.segment(Volume(native, MATRIX))
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)


def test_a_region_and_boxes_reach_the_engine(
    client: WorkerClient, bundle: Path, segmenter: Segmenter
):
    array = generated_case(1)[0]
    roi = Box("", (2.0, 3.0, 1.0), (28.0, 24.0, 12.0))
    boxes = [Box("därk", (5.0, 6.0, 2.0), (15.0, 16.5, 9.25))]
    ask = request(array, bundle, OBLIQUE, roi=roi, boxes=boxes, tta="mirror")
    result = client.wait(client.segment(ask))
    expected = segmenter.segment(Volume(array, OBLIQUE), roi=roi, boxes=boxes, tta="mirror")
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)
    assert not result.labelmap[12:].any()


def test_channels_keep_their_order(client: WorkerClient, tmp_path: Path):
    two = small_bundle(tmp_path / "two", "two", channels=2, class_names=UNICODE_NAMES)
    first, second = generated_case(1)[0], -generated_case(2)[0]
    volumes = [Volume(first, OBLIQUE, "T1"), Volume(second, OBLIQUE, "T2")]
    result = client.wait(client.segment(SegmentRequest(volumes, str(two))))
    expected = Segmenter.from_model(two).segment(volumes)
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_matrices_arrive_bit_for_bit(known: WorkerClient, tmp_path: Path, geometry: str):
    sent = GEOMETRIES[geometry] @ matrix(rotation(1 / 3, 0), (0.1, 1 / 3, np.pi), (1e-7, -1e5, 0.1))
    ask = request(two_blobs(), known_model(tmp_path, "echo"), sent)
    notes = known.wait(known.segment(ask)).notes
    np.testing.assert_array_equal(np.array(json.loads(notes[-1])[0]), sent)


def test_progress_grows_to_one_and_names_the_stages(known: WorkerClient, tmp_path: Path):
    calls = Calls()
    ask = request(two_blobs()[:4], known_model(tmp_path, "slow"))
    known.wait(known.segment(ask, **calls.callbacks()))
    assert calls.stages[:2] == ["Starting PyTorch", "Loading the model"]
    assert {"Segmenting", "Writing the labels", "Done"} <= set(calls.stages)
    fractions = [fraction for _, fraction, _ in calls.progress]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert any(left is not None and left > 0 for _, _, left in calls.progress)


def test_output_of_libraries_goes_to_the_log(tmp_path: Path, monkeypatch):
    # Without this variable, Python and the C library buffer their output in blocks.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    log: list[str] = []
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, on_log=log.append)
    try:
        ask = request(two_blobs(), known_model(tmp_path, "printing"))
        np.testing.assert_array_equal(client.wait(client.segment(ask)).labelmap, two_blobs())
        wait_until(lambda: "put by a library" in log, client)
        assert "printed" in log
    finally:
        client.close()


def test_requests_are_answered_in_order(known: WorkerClient, threshold: Path):
    order: list[int] = []
    jobs = [
        known.segment(
            request(two_blobs()[: 11 - n], threshold), on_done=lambda _, n=n: order.append(n)
        )
        for n in range(3)
    ]
    for n, job in enumerate(reversed(jobs)):
        assert len(known.wait(job).labelmap) == 9 + n
    assert order == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no such model"}, "no model named 'no such model'"),
        ({"boxes": [Box("Spleen", (1, 1, 1), (4, 4, 4))]}, "names no class"),
        ({"roi": Box("", (90, 90, 90), (95, 95, 95))}, "ROI lies outside the volume"),
        ({"device": "toaster"}, "unknown device 'toaster'"),
        ({"tta": "sideways"}, "unknown test-time augmentation"),
        ({"volumes": []}, "no volume"),
        ({"volumes": [volume_of(np.zeros((3, 0, 5)))]}, "three axes"),
        ({"volumes": [volume_of(np.full((3, 4, 5), np.nan))]}, "not numbers"),
        ({"volumes": [volume_of(np.array([[["a"]]]))]}, "three axes of numbers"),
    ],
)
def test_a_mistake_of_the_user_is_refused_in_one_line(
    client: WorkerClient, bundle: Path, change: dict, message: str
):
    ask = request(generated_case(1)[0], bundle)
    for name, value in change.items():
        setattr(ask, name, value)
    calls = Calls()
    with pytest.raises(WorkerError, match=message) as failure:
        client.wait(client.segment(ask, **calls.callbacks()))
    assert failure.value.kind == "refused"
    assert "\n" not in str(failure.value)
    assert calls.errors == [failure.value] and calls.done == []
    assert client.wait(client.segment(request(generated_case(1)[0], bundle))).instances


def test_paths_and_names_of_any_script_work(bundle: Path, tmp_path: Path, monkeypatch):
    strange = tmp_path / "Jürgen’s Ordner – 医療 😀"
    strange.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(strange))
    client = WorkerClient(core_folder=ROOT)
    try:
        volume = Volume(generated_case(1)[0], MATRIX, "Kopf – 頭")
        ask = SegmentRequest([volume], str(bundle), session="ключ ü")
        result = client.wait(client.segment(ask))
        assert {one.name for one in result.instances} <= set(UNICODE_NAMES)
        assert result.instances
        assert client.folder.parent == strange and list(strange.rglob("*.raw"))
    finally:
        client.close()
    assert list(strange.iterdir()) == []


def test_the_devices_are_listed_with_the_cpu_first(client: WorkerClient):
    found = client.wait(client.devices())
    assert found.choices[0].name == "cpu"
    assert found.auto.name and found.auto.reason


def imported_by(program: str) -> set[str]:
    """Return the top-level modules that a program imports, without the standard library."""
    show = f"import sys; before = set(sys.modules); {program}; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)


def test_starting_a_worker_imports_nothing_slow():
    heavy = {"torch", "scipy", "SimpleITK", "requests"}
    assert imported_by("import MaskSAMCore.worker.server").isdisjoint(heavy)


def test_the_client_needs_no_package_but_numpy():
    program = "sys.path.insert(0, 'MaskSAMSlicer'); import MaskSAMSlicerLib.worker.client"
    assert imported_by(program) == {"MaskSAMCore", "MaskSAMSlicerLib", "numpy"}
