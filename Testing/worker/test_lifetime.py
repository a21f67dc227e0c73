"""From start to end: nothing is left behind, whoever dies first; models come and go."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from MaskSAMCore.io.files import sha256
from MaskSAMCore.models.catalog import Entry
from MaskSAMCore.worker.protocol import AddModelResult
from MaskSAMSlicerLib.worker.private_folder import process_start, remove_abandoned
from Testing.helpers.generated import generated_case
from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    LONG,
    ROOT,
    UNICODE_NAMES,
    Heard,
    WorkerClient,
    WorkerError,
    end_of,
    known_model,
    request,
    until,
)

_PARENT = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/MaskSAMSlicer"]
from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.worker_tools import ROOT, WorkerClient, request
from Testing.helpers.threshold_model import two_blobs
client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
seen = []
client.segment(request(two_blobs(), {model!r}), on_progress=lambda *told: seen.append(told))
while not any(stage == "Segmenting" for stage, _, _ in seen):
    client.poll()
    time.sleep(0.01)
print(client.pid, flush=True)
{then}
"""


def parent(tmp_path: Path, model: str, then: str) -> tuple[subprocess.Popen, Path]:
    """A program that has a worker in the middle of a run, and its folder for temporary files."""
    temporary = tmp_path / "témp"
    temporary.mkdir()
    model = str(known_model(tmp_path, model))
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(root=str(ROOT), model=model, then=then)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary)},
    )
    return process, temporary


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("model", ["slow", "deaf"])
def test_when_the_parent_is_killed_nothing_is_left(tmp_path: Path, model: str):
    process, temporary = parent(tmp_path, model, "time.sleep(300)")
    pid = int(process.stdout.readline())
    ended = end_of(pid)
    assert psutil.pid_exists(pid) and list(temporary.iterdir())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(ended, what="the worker's end")
    assert list(temporary.iterdir()) == []


def test_a_program_that_just_ends_leaves_nothing(tmp_path: Path):
    process, temporary = parent(tmp_path, "deaf", "")
    ended = end_of(int(process.stdout.readline()))
    process.communicate(timeout=LONG)
    assert process.returncode == 0
    until(ended, what="the worker's end")
    assert list(temporary.iterdir()) == []


def test_closing_in_the_middle_of_a_run_leaves_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = known_model(tmp_path, "deaf")
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    heard = Heard()
    job = client.segment(request(two_blobs(), model), **heard())
    until(lambda: heard.progress, client, "progress", heard)
    ended = end_of(client.pid)
    client.close()
    client.close()
    assert job.done and job.error.kind == "cancelled"
    assert heard.errors == [] and heard.done == []  # the panel may be gone already
    assert not client.running
    until(ended, what="the worker's end")
    assert list(tmp_path.iterdir()) == [model]
    # It can be used again.
    works = client.segment(request(two_blobs(), known_model(tmp_path, "threshold")))
    np.testing.assert_array_equal(client.wait(works).labelmap, two_blobs())
    client.close()


def test_closing_what_was_never_started_is_nothing():
    client = WorkerClient(core_folder=ROOT)
    client.poll()
    client.cancel()
    client.close()


def test_folders_of_dead_processes_are_removed_and_no_others(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname().replace("-", "_").replace(".", "_")
    me, began = os.getpid(), process_start(os.getpid())
    gone = [f"masksam-{host}-{dead.pid}-{began + 900}-x", f"masksam-{host}-{me}-{began + 900}-x"]
    kept = [
        f"masksam-{host}-{me}-{began}-x",
        f"masksam-{host}-{me}-0-x",
        f"masksam-another_host-{dead.pid}-{began}-x",
        "masksam-demo",
        "other",
    ]
    for name in gone + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "volume-1.raw").write_bytes(b"x")
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps the time itself")
def test_the_time_a_process_began_does_not_move_with_the_clock():
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        assert before - 2 < process_start(process.pid) < after + 2
        process.stdin.close()
    assert process_start(process.pid) is None


def test_the_next_start_removes_what_a_crash_left(tmp_path: Path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname().replace("-", "_").replace(".", "_")
    left = tmp_path / f"masksam-{host}-{dead.pid}-1-x"
    left.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client = WorkerClient(core_folder=ROOT)
    client.devices()
    until(lambda: not left.exists(), client)
    client.close()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_left_for_idleness_is_replaced_unnoticed(tmp_path: Path):
    client = WorkerClient(core_folder=ROOT, command=(*KNOWN_WORKER, "--idle-minutes", "0.05"))
    try:
        pids = set()
        for _ in range(2):
            job = client.segment(request(two_blobs(), known_model(tmp_path, "threshold")))
            np.testing.assert_array_equal(client.wait(job).labelmap, two_blobs())
            pid = client.pid
            pids.add(pid)
            until(end_of(pid), what="its end")  # not polled meanwhile
        assert len(pids) == 2
    finally:
        client.close()


def test_models_and_sessions_stay_within_their_memory(tmp_path: Path):
    client = WorkerClient(core_folder=ROOT, command=(*KNOWN_WORKER, "--memory-gib", "0.00001"))
    try:
        model = known_model(tmp_path, "threshold")
        notes = [
            client.wait(client.segment(request(two_blobs(), model, session="one"))).notes
            for _ in range(2)
        ]
        # The session was too large to be kept, the model was kept: it counts on.
        first, second = (int(one[0].split()[1]) for one in notes)
        assert second == 2 * first
    finally:
        client.close()


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"MASKSAM_HOME": str(tmp_path / "höme")}


def test_a_model_is_added_used_and_removed(tmp_path: Path, home: dict[str, str]):
    folder = small_bundle(tmp_path / "new", "brandnew", class_names=UNICODE_NAMES)
    client = WorkerClient(core_folder=ROOT, environment=home)
    try:
        added = client.wait(client.add_model(folder))
        assert added == AddModelResult("brandnew", "Small")
        ask = request(generated_case(1)[0], "brandnew")
        assert client.wait(client.segment(ask)).instances
        assert client.wait(client.remove_model("brandnew")) == {}
        with pytest.raises(WorkerError, match="no model named 'brandnew'") as failure:
            client.wait(client.segment(ask))
        assert failure.value.kind == "refused"
        with pytest.raises(WorkerError, match="does not exist"):
            client.wait(client.add_model(tmp_path / "nothing"))
    finally:
        client.close()


def test_a_model_that_was_exchanged_is_loaded_again(tmp_path: Path):
    folder = small_bundle(tmp_path / "one", class_names=UNICODE_NAMES)
    client = WorkerClient(core_folder=ROOT)
    try:
        ask = request(generated_case(1)[0], folder)
        names = {one.name for one in client.wait(client.segment(ask)).instances}
        shutil.rmtree(folder)
        small_bundle(folder, class_names=UNICODE_NAMES)
        path = folder / "masksam.json"
        path.write_text(
            path.read_text(encoding="utf-8").replace(UNICODE_NAMES[0], "Other"), "utf-8"
        )
        again = {one.name for one in client.wait(client.segment(ask)).instances}
        assert UNICODE_NAMES[0] in names and "Other" in again
    finally:
        client.close()


class Shop(http.server.BaseHTTPRequestHandler):
    """Serves one file, the second half slowly until it is told to go on."""

    content = b""
    half_way: threading.Event | None = None

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that was cancelled
            self._serve()

    def _serve(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        half = len(self.content) // 2
        self.wfile.write(self.content[:half])
        # Never silent for so long that the other end gives up.
        while self.half_way is not None and not self.half_way.wait(0.1):
            self.wfile.write(self.content[half : half + 1024])
            half += 1024
        self.wfile.write(self.content[half:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop(tmp_path: Path):
    """A server, and the environment with an entry for its file in the worker's catalog."""
    Shop.content, Shop.half_way = bytes(range(256)) * 20_000, None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = tmp_path / "sam_small.pth"
    file.write_bytes(Shop.content)
    url = f"http://127.0.0.1:{server.server_address[1]}/{file.name}"
    size = len(Shop.content)
    entry = Entry("sam_small", "Small SAM", "backbone", "free", size, url, sha256(file))
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    yield {"TEST_ENTRY": json.dumps(dataclasses.asdict(entry)), **direct}
    if Shop.half_way is not None:
        Shop.half_way.set()
    server.shutdown()
    server.server_close()


def test_a_download_reports_and_is_verified(
    tmp_path: Path, home: dict[str, str], shop: dict[str, str]
):
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, environment={**home, **shop})
    try:
        heard = Heard()
        assert client.wait(client.download("sam_small", **heard())) == {}
        file = Path(home["MASKSAM_HOME"]) / "downloads" / "sam_small.pth"
        assert file.read_bytes() == Shop.content
        fractions = [fraction for _, fraction, _ in heard.progress]
        assert fractions == sorted(fractions) and fractions[-1] == 1
        assert heard.progress[0][0] == "Downloading Small SAM"
        file.unlink()
        Shop.content = Shop.content[::-1]
        with pytest.raises(WorkerError, match="SHA-256") as failure:
            client.wait(client.download("sam_small"))
        assert failure.value.kind == "refused"
        assert not file.exists()
    finally:
        client.close()


def test_a_download_is_cancelled(tmp_path: Path, home: dict[str, str], shop: dict[str, str]):
    Shop.half_way = threading.Event()
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER, environment={**home, **shop})
    try:
        heard = Heard()
        job = client.download("sam_small", **heard())
        until(
            lambda: any(fraction > 0 for _, fraction, _ in heard.progress),
            client,
            "progress",
            heard,
        )
        client.cancel()
        with pytest.raises(WorkerError) as failure:
            client.wait(job)
        assert failure.value.kind == "cancelled"
        assert not list((Path(home["MASKSAM_HOME"]) / "downloads").glob("*.pth"))
        Shop.half_way.set()
        assert client.wait(client.download("sam_small")) == {}
    finally:
        client.close()
