"""Models that the user adds, downloads, replaces or removes."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest

from MaskSAMCore.io.files import sha256
from MaskSAMCore.models import load_bundle
from MaskSAMCore.models.catalog import Entry
from MaskSAMCore.models.expected_dice import write_estimator
from MaskSAMCore.worker.protocol import AddModelResult
from MaskSAMSlicerLib.worker.process import worker_environment
from Testing.helpers.estimators import known_estimator
from Testing.helpers.generated import generated_case
from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.worker_tools import (
    UNICODE_NAMES,
    Calls,
    WorkerClient,
    WorkerError,
    request,
    wait_until,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Folder of the user's models."""
    return tmp_path / "höme"


def test_a_model_is_added_used_and_removed(tmp_path: Path, home: Path):
    folder = small_bundle(tmp_path / "new", "brandnew", class_names=UNICODE_NAMES)
    client = WorkerClient(core_folder=ROOT, environment={"MASKSAM_HOME": str(home)})
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
        # Checkpoints that a user has added are stored under this name.
        checkpoint = tmp_path / "checkpoint.pth"
        checkpoint.write_bytes(b"weights")
        with pytest.raises(WorkerError, match="if it is a SAM checkpoint, name it"):
            client.wait(client.add_model(checkpoint))
    finally:
        client.close()


def test_a_relative_folder_of_models_is_the_one_of_this_process(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = worker_environment(None, {"MASKSAM_HOME": "mine"})
    assert environment["MASKSAM_HOME"] == str(tmp_path / "mine")


def test_a_model_that_was_replaced_on_disk_is_loaded_again(client: WorkerClient, tmp_path: Path):
    folder = small_bundle(tmp_path / "one", class_names=UNICODE_NAMES)
    ask = request(generated_case(1)[0], folder)
    names = {one.name for one in client.wait(client.segment(ask)).instances}
    shutil.rmtree(folder)
    small_bundle(folder, class_names=("Other", UNICODE_NAMES[1]))
    again = {one.name for one in client.wait(client.segment(ask)).instances}
    assert UNICODE_NAMES[0] in names and "Other" in again


def test_an_estimator_that_was_fitted_after_a_run_is_used_by_the_next(
    client: WorkerClient, tmp_path: Path
):
    folder = small_bundle(tmp_path / "one")
    ask = request(generated_case(1)[0], folder)
    before = client.wait(client.segment(ask)).instances
    sha256 = load_bundle(folder).weights_sha256
    write_estimator(folder, known_estimator([0.6, 0.7], weights_sha256=sha256))
    after = client.wait(client.segment(ask)).instances
    assert {one.expected_dice for one in before} == {None}
    assert [one.expected_dice for one in after] == pytest.approx([0.6, 0.7])


class FileServer(http.server.BaseHTTPRequestHandler):
    """Server of one file, whose second half is sent slowly until `go_on` is set."""

    content = b""
    go_on: threading.Event | None = None

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # a cancelled client closes its connection
            self._serve()

    def _serve(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        half = len(self.content) // 2
        self.wfile.write(self.content[:half])
        # The pieces are small, so that the client does not reach a time limit.
        while self.go_on is not None and not self.go_on.wait(0.1):
            self.wfile.write(self.content[half : half + 1024])
            half += 1024
        self.wfile.write(self.content[half:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def downloader(tmp_path: Path, home: Path):
    """Serve a file, and yield the client of a worker whose catalog lists it."""
    FileServer.content, FileServer.go_on = bytes(range(256)) * 20_000, None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FileServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = tmp_path / "sam_small.pth"
    file.write_bytes(FileServer.content)
    url = f"http://127.0.0.1:{server.server_address[1]}/{file.name}"
    size = len(FileServer.content)
    entry = Entry("sam_small", "Small SAM", "backbone", "free", size, url, sha256(file))
    environment = {"MASKSAM_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = (*KNOWN_WORKER, "--catalog-entry", json.dumps(dataclasses.asdict(entry)))
    client = WorkerClient(core_folder=ROOT, command=command, environment=environment)
    yield client
    client.close()
    if FileServer.go_on is not None:
        FileServer.go_on.set()
    server.shutdown()
    server.server_close()


def test_a_download_reports_progress_and_is_verified(downloader: WorkerClient, home: Path):
    calls = Calls()
    job = downloader.download("sam_small", **calls.callbacks())
    assert downloader.wait(job) == {}
    file = home / "downloads" / "sam_small.pth"
    assert file.read_bytes() == FileServer.content
    fractions = [fraction for _, fraction, _ in calls.progress]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert calls.stages[0] == "Downloading Small SAM"
    file.unlink()
    FileServer.content = FileServer.content[::-1]
    with pytest.raises(WorkerError, match="SHA-256") as failure:
        downloader.wait(downloader.download("sam_small"))
    assert failure.value.kind == "refused"
    assert not file.exists()


def test_a_cancelled_download_leaves_no_file_and_can_be_repeated(
    downloader: WorkerClient, home: Path
):
    FileServer.go_on = threading.Event()
    calls = Calls()
    job = downloader.download("sam_small", **calls.callbacks())
    wait_until(
        lambda: any(fraction > 0 for _, fraction, _ in calls.progress),
        downloader,
        "progress",
        calls,
    )
    downloader.cancel()
    with pytest.raises(WorkerError) as failure:
        downloader.wait(job)
    assert failure.value.kind == "cancelled"
    assert not list((home / "downloads").glob("*.pth"))
    FileServer.go_on.set()
    assert downloader.wait(downloader.download("sam_small")) == {}
