"""Segmenting through the worker: a real process, and the very result of the engine itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore import Box, Segmenter, Volume
from Testing.helpers.generated import generated_case
from Testing.helpers.paths import KNOWN_WORKER
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
    ROOT,
    UNICODE_NAMES,
    Heard,
    SegmentRequest,
    WorkerClient,
    WorkerError,
    known_model,
    request,
    until,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(
        tmp_path_factory.mktemp("mödels 模型") / "klein ü 小", class_names=UNICODE_NAMES
    )


@pytest.fixture(scope="module")
def client():
    one = WorkerClient(core_folder=ROOT)
    yield one
    one.close()


@pytest.fixture(scope="module")
def known():
    one = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    yield one
    one.close()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_result_is_the_engines_own_voxel_for_voxel(
    client: WorkerClient, model: Path, geometry: str
):
    array, ijk_to_ras = generated_case(1)[0], GEOMETRIES[geometry]
    heard = Heard()
    job = client.segment(request(array, model, ijk_to_ras), **heard())
    result = client.wait(job)
    expected = Segmenter.from_model(model).segment(Volume(array, ijk_to_ras))
    assert len(np.unique(expected.labelmap)) > 1
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)
    assert result.labelmap.dtype == expected.labelmap.dtype
    assert heard.done == [result] and heard.errors == []
    assert job.done and job.result is result and job.error is None and job.seconds > 0
    for found, one in zip(result.instances, expected.instances, strict=True):
        assert (found.value, found.name) == (one.value, one.name)
        assert found.confidence == pytest.approx(one.confidence, abs=1e-9)
        assert (found.box, found.voxel_count) == (one.box, one.voxel_count)
    assert result.device.name == str(Segmenter.from_model(model).device.device)
    assert result.device.reason


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "f8", "?", ">f4"])
def test_every_type_of_voxels_and_any_order_in_memory_is_taken(
    client: WorkerClient, model: Path, dtype: str
):
    array = np.asfortranarray(generated_case(1)[0]).astype(dtype)[::-1, :, 2:]
    result = client.wait(client.segment(request(array, model)))
    native = np.ascontiguousarray(array).astype(np.dtype(dtype).newbyteorder("="))
    volume = Volume(native, np.diag([-1.0, -1.0, 2.0, 1.0]))
    expected = Segmenter.from_model(model).segment(volume)
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)


def test_a_region_and_boxes_reach_the_engine(client: WorkerClient, model: Path):
    array = generated_case(1)[0]
    roi = Box("", (2.0, 3.0, 1.0), (28.0, 24.0, 12.0))
    boxes = [Box("därk", (5.0, 6.0, 2.0), (15.0, 16.5, 9.25))]
    ask = request(array, model, OBLIQUE, roi=roi, boxes=boxes, tta="mirror")
    result = client.wait(client.segment(ask))
    expected = Segmenter.from_model(model).segment(
        Volume(array, OBLIQUE), roi=roi, boxes=boxes, tta="mirror"
    )
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)
    assert not result.labelmap[12:].any()


def test_several_channels_keep_their_order(client: WorkerClient, tmp_path: Path):
    two = small_bundle(tmp_path / "two", "two", channels=2, class_names=UNICODE_NAMES)
    first, second = generated_case(1)[0], -generated_case(2)[0]
    volumes = [Volume(first, OBLIQUE, "T1"), Volume(second, OBLIQUE, "T2")]
    result = client.wait(client.segment(SegmentRequest(volumes, str(two))))
    expected = Segmenter.from_model(two).segment(volumes)
    np.testing.assert_array_equal(result.labelmap, expected.labelmap)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_matrices_travel_exactly(known: WorkerClient, tmp_path: Path, geometry: str):
    sent = GEOMETRIES[geometry] @ matrix(rotation(1 / 3, 0), (0.1, 1 / 3, np.pi), (1e-7, -1e5, 0.1))
    ask = request(two_blobs(), known_model(tmp_path, "echo"), sent)
    notes = known.wait(known.segment(ask)).notes
    np.testing.assert_array_equal(np.array(json.loads(notes[-1])[0]), sent)


def test_progress_grows_to_one_and_names_the_first_steps(tmp_path: Path):
    heard = Heard()
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    try:
        client.wait(
            client.segment(request(two_blobs()[:4], known_model(tmp_path, "slow")), **heard())
        )
    finally:
        client.close()
    stages = [stage for stage, _, _ in heard.progress]
    assert stages[:2] == ["Starting PyTorch", "Loading the model"]
    assert {"Segmenting", "Writing the labels", "Done"} <= set(stages)
    fractions = [fraction for _, fraction, _ in heard.progress]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert any(left is not None and left > 0 for _, _, left in heard.progress)


def test_what_a_library_prints_disturbs_nothing(tmp_path: Path, monkeypatch):
    # As on a machine where nothing was set to make Python, and C's stdio, speak at once.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    log: list[str] = []
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, on_log=log.append)
    try:
        result = client.wait(client.segment(request(two_blobs(), known_model(tmp_path, "noisy"))))
        np.testing.assert_array_equal(result.labelmap, two_blobs())
        until(lambda: "put by a library" in log, client)
        assert "printed" in log
    finally:
        client.close()


def test_a_session_decodes_again_only_what_its_boxes_ask(known: WorkerClient, tmp_path: Path):
    model = known_model(tmp_path, "threshold")
    array = two_blobs()

    def counts(**more):
        ask = request(more.pop("array", array), more.pop("model", model), **more)
        notes = known.wait(known.segment(ask)).notes
        return int(notes[0].split()[1]), int(notes[1].split()[1])

    box = Box("Anterior", (4, 3, 2), (8, 8, 6))
    encoded, decoded = counts(session="one")
    edited = counts(session="one", boxes=[box])
    assert edited[0] == encoded and decoded < edited[1] < 2 * decoded
    # The same content in other memory is the same volume.
    assert counts(session="one", array=array.copy()) == edited
    roi = Box("", (0, 0, 0), (8, 8, 4))
    inside = counts(session="one", roi=roi)
    assert inside[0] > encoded
    changed = array.copy()
    changed[-1, -1, -1] = 1
    other = counts(session="one", roi=roi, array=changed)
    assert other[0] > inside[0]
    moved = counts(session="one", roi=roi, array=changed, matrix=OBLIQUE)
    assert moved[0] > other[0]
    assert counts(session="two", roi=roi, array=changed, matrix=OBLIQUE)[0] > moved[0]
    known.close_session("one")
    again = counts(session="one", roi=roi, array=changed, matrix=OBLIQUE)
    assert again[0] > moved[0]


def test_requests_are_served_in_order(known: WorkerClient, tmp_path: Path):
    order: list[int] = []
    model = known_model(tmp_path, "threshold")
    jobs = [
        known.segment(request(two_blobs()[: 11 - n], model), on_done=lambda _, n=n: order.append(n))
        for n in range(3)
    ]
    for n, job in enumerate(reversed(jobs)):
        assert len(known.wait(job).labelmap) == 9 + n
    assert order == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model": "no such model"}, "refused", "no model named 'no such model'"),
        ({"boxes": [Box("Spleen", (1, 1, 1), (4, 4, 4))]}, "refused", "names no class"),
        ({"roi": Box("", (90, 90, 90), (95, 95, 95))}, "refused", "ROI lies outside the volume"),
        ({"device": "toaster"}, "refused", "unknown device 'toaster'"),
        ({"tta": "sideways"}, "refused", "unknown test-time augmentation"),
        ({"volumes": []}, "refused", "no volume"),
        ({"volumes": [volume_of(np.zeros((3, 0, 5)))]}, "refused", "three axes"),
        ({"volumes": [volume_of(np.full((3, 4, 5), np.nan))]}, "refused", "not numbers"),
        ({"volumes": [volume_of(np.array([[["a"]]]))]}, "refused", "three axes of numbers"),
    ],
)
def test_what_a_person_can_put_right_is_said_in_one_line(
    client: WorkerClient, model: Path, change: dict, kind: str, message: str
):
    ask = request(generated_case(1)[0], model)
    for name, value in change.items():
        setattr(ask, name, value)
    heard = Heard()
    with pytest.raises(WorkerError, match=message) as failure:
        client.wait(client.segment(ask, **heard()))
    assert failure.value.kind == kind
    assert "\n" not in str(failure.value)
    assert heard.errors == [failure.value] and heard.done == []
    assert client.wait(client.segment(request(generated_case(1)[0], model))).instances


def test_folders_with_letters_of_any_script_work(model: Path, tmp_path: Path, monkeypatch):
    strange = tmp_path / "Jürgen’s Ordner – 医療 😀"
    strange.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(strange))
    client = WorkerClient(core_folder=ROOT)
    try:
        ask = request(generated_case(1)[0], model, session="ключ ü")
        result = client.wait(client.segment(ask))
        assert {one.name for one in result.instances} <= set(UNICODE_NAMES)
        assert result.instances
        assert [path.parent for path in strange.rglob("*.raw")]
    finally:
        client.close()
    assert list(strange.iterdir()) == []


def test_files_go_when_they_are_no_longer_needed(known: WorkerClient, tmp_path: Path):
    model = known_model(tmp_path, "threshold")
    known.wait(known.segment(request(two_blobs(), model)))
    folder = known.folder
    known.wait(known.segment(request(two_blobs(), model, session="kept")))
    changed = two_blobs() * 2
    known.wait(known.segment(request(changed, model, session="kept")))

    def sizes() -> list[int]:
        found = []
        for path in folder.glob("*.raw"):
            with suppress(FileNotFoundError):  # removed just now
                found.append(path.stat().st_size)
        return found

    known.close_session("one")
    known.close_session("two")
    until(lambda: sizes() == [changed.nbytes], known, f"only the session's volume, {sizes()}")
    known.close_session("kept")
    until(lambda: sizes() == [], known, "an empty folder")


def test_the_devices_and_the_catalog_are_told(client: WorkerClient):
    found = client.wait(client.devices())
    assert found.choices[0].name == "cpu"
    assert found.auto.name and found.auto.reason


def test_starting_a_worker_loads_nothing_heavy():
    show = "import sys, MaskSAMCore.worker.server; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", show], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert set(done.stdout.split()).isdisjoint({"torch", "scipy", "SimpleITK", "requests"})


def test_the_client_needs_nothing_but_numpy():
    program = (
        "import sys; before = set(sys.modules); sys.path.insert(0, 'MaskSAMSlicer');"
        "import MaskSAMSlicerLib.worker.client; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    tops = {name.split(".")[0] for name in done.stdout.split()}
    assert tops - set(sys.stdlib_module_names) == {"MaskSAMCore", "MaskSAMSlicerLib", "numpy"}
