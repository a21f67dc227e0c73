"""The worker without its client: JSON-RPC, line by line."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import MaskSAMCore
from MaskSAMCore.errors import MaskSAMError, OutOfMemory
from MaskSAMCore.worker.failures import as_request_error
from MaskSAMCore.worker.protocol import ErrorCode
from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import LONG, known_model

SHIPPED_WORKER = (sys.executable, "-m", "MaskSAMCore.worker")


class Worker:
    """A worker process with pipes to its standard streams."""

    def __init__(self, command: Sequence[str] = KNOWN_WORKER, options: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.new_id = count(1000).__next__
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)

    def write(self, line: bytes) -> None:
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def ask(self, number: object, method: str, **params: object) -> None:
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.write(json.dumps(message).encode())

    def read(self, number: object = None, method: str | None = None) -> dict:
        """Return the next answer to a request, or the next notification; skip other messages."""
        while True:
            message = json.loads(self.lines.get(timeout=LONG))
            assert message["jsonrpc"] == "2.0"
            if message.get("method") == method and message.get("id") == number:
                return message

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


@pytest.fixture(scope="module")
def shipped() -> Iterator[Worker]:
    """Shipped worker, for tests that leave it idle."""
    one = Worker(SHIPPED_WORKER)
    yield one
    one.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Worker]:
    """Known worker, for tests that leave it idle."""
    one = Worker()
    yield one
    one.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Known worker for a single test."""
    one = Worker()
    yield one
    one.close()


def image(folder: Path, array: np.ndarray, **changes: object) -> dict:
    path = folder / "image.raw"
    array.tofile(path)
    return {
        "path": str(path),
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "ijk_to_ras": np.diag([-1.0, -1.0, 1.0, 1.0]).tolist(),
        "name": "x",
        **changes,
    }


def segment(worker: Worker, number: object, folder: Path, model: str, **changes: object) -> Path:
    """Ask to segment a volume, and return the path of the labelmap."""
    output = folder / f"out {number}.raw"
    params = {
        "images": changes.pop("images", None) or [image(folder, two_blobs())],
        "model": str(known_model(folder, model)),
        "output": str(output),
        **changes,
    }
    worker.ask(number, "segment", **params)
    return output


def test_the_handshake_gives_version_and_process_number(shipped: Worker):
    shipped.ask("a", "initialize", protocol=1, client="test")
    assert shipped.read("a")["result"] == {
        "protocol": 1,
        "version": MaskSAMCore.__version__,
        "pid": shipped.process.pid,
    }


@pytest.mark.parametrize("protocol", [0, 2, None, "1"])
def test_another_protocol_is_refused_by_name(shipped: Worker, protocol: object):
    number = shipped.new_id()
    shipped.ask(number, "initialize", protocol=protocol, client="test")
    error = shipped.read(number)["error"]
    assert error["code"] == -32001
    assert "protocol 1" in error["message"] and f"protocol {protocol}" in error["message"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{not json", -32700),
        (b"\xff\xfe", -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"id": 1}', -32600),
        (b'{"id": {}, "method": "ping"}', -32600),
        (b'{"id": 1, "method": "ping", "params": [1]}', -32602),
        (b'{"id": 1, "method": "sing"}', -32601),
        (b'{"id": 1, "method": "segment"}', -32602),
        (b'{"id": 1, "method": "download"}', -32602),
    ],
)
def test_an_invalid_line_is_answered_with_an_error_of_json_rpc(
    shipped: Worker, line: bytes, code: int
):
    shipped.write(line)
    message = json.loads(shipped.lines.get(timeout=LONG))
    assert message["error"]["code"] == code
    shipped.write(b'{"id": 2, "method": "ping"}')
    assert shipped.read(2)["result"] == {}


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/no/such/file"},
        {"shape": [11, 17]},
        {"shape": [11, 17, 24]},
        {"shape": [-11, -17, 23]},
        {"dtype": "object"},
        {"dtype": "nonsense"},
        {"ijk_to_ras": [["a"]]},
        {"ijk_to_ras": [[1.0], [1.0, 2.0]]},
        {"shape": None},
    ],
)
def test_a_wrong_description_of_an_image_is_refused(shipped: Worker, tmp_path: Path, change: dict):
    number, images = shipped.new_id(), [image(tmp_path, two_blobs(), **change)]
    output = segment(shipped, number, tmp_path, "threshold", images=images)
    assert shipped.read(number)["error"]["code"] == -32602
    assert not output.exists()


@pytest.mark.parametrize("box", [{"lower": [1, 2]}, {"lower": "abc", "upper": "def"}, 3])
def test_a_wrong_description_of_a_box_is_refused(shipped: Worker, tmp_path: Path, box: object):
    number = shipped.new_id()
    segment(shipped, number, tmp_path, "threshold", boxes=[box])
    assert shipped.read(number)["error"]["code"] == -32602


def test_an_output_that_cannot_be_written_is_refused(shared: Worker, tmp_path: Path):
    number = shared.new_id()
    segment(shared, number, tmp_path, "threshold", output=str(tmp_path / "no folder" / "out.raw"))
    error = shared.read(number)["error"]
    assert error["code"] == -32000 and "cannot write" in error["message"]


def test_a_waiting_request_is_cancelled_at_once_and_a_running_one_soon(
    shared: Worker, tmp_path: Path
):
    # The request would take minutes if it were not cancelled.
    images = [image(tmp_path, two_blobs((44, 68, 92)))]
    first = segment(shared, "one", tmp_path, "slow", images=images)
    second = segment(shared, "two", tmp_path, "slow", images=images)
    shared.read(method="progress")
    for number in ("two", "one", "nobody"):
        shared.write(json.dumps({"method": "cancel", "params": {"id": number}}).encode())
        if number != "nobody":
            assert shared.read(number)["error"] == {"code": -32002, "message": "cancelled"}
    third = segment(shared, "one", tmp_path, "threshold")
    result = shared.read("one")["result"]
    assert result["labelmap"] == {"path": str(third), "shape": [11, 17, 23], "dtype": "|u1"}
    np.testing.assert_array_equal(np.fromfile(third, np.uint8), two_blobs().ravel())
    assert third == first and not second.exists()
    assert not list(tmp_path.glob("*.part"))


def test_a_busy_worker_answers_at_once_until_it_is_shut_down(worker: Worker, tmp_path: Path):
    segment(worker, 1, tmp_path, "hanging")
    worker.read(method="progress")
    worker.ask(2, "ping")
    worker.ask(3, "initialize", protocol=1)
    assert worker.read(2)["result"] == {}
    assert worker.read(3)["result"]["protocol"] == 1
    worker.ask(1, "devices")
    assert worker.read(1)["error"]["code"] == -32600  # the id is in use
    worker.ask(4, "shutdown")
    assert worker.read(4)["result"] == {}
    assert worker.process.wait(LONG) == 0


def test_a_worker_without_its_client_ends_and_removes_the_clients_folder(
    worker: Worker, tmp_path: Path
):
    folder = tmp_path / "masksam-of-the-client"
    folder.mkdir()
    worker.ask(1, "initialize", protocol=1, folder=str(folder))
    segment(worker, 2, folder, "hanging")
    worker.read(method="progress")
    worker.process.stdin.close()
    assert worker.process.wait(LONG) == 0
    assert not folder.exists()


def test_a_folder_of_another_name_is_never_removed(tmp_path: Path):
    worker = Worker(SHIPPED_WORKER)
    worker.ask(1, "initialize", protocol=1, folder=str(tmp_path))
    worker.read(1)
    worker.process.stdin.close()
    assert worker.process.wait(LONG) == 0
    assert tmp_path.exists()
    worker.close()


def test_a_worker_ends_when_it_has_been_idle_for_long():
    worker = Worker(SHIPPED_WORKER, ("--idle-minutes", "0.005"))
    assert worker.process.wait(LONG) == 0
    worker.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX's limits")
def test_a_full_disk_leaves_no_unfinished_file(tmp_path: Path):
    # A limit on the size of files acts on the program like a full disk.
    worker = Worker(options=("--largest-file", "4096"))
    array = np.zeros((20, 30, 30), dtype=np.float32)
    array[0] = 0.25
    images = [image(tmp_path, array)]
    output = segment(worker, 1, tmp_path, "threshold", images=images)
    error = worker.read(1)["error"]
    assert error["code"] == -32000 and "cannot write" in error["message"]
    assert not output.exists() and not list(tmp_path.glob(".*"))
    worker.close()


def test_an_out_of_memory_error_is_recognised_by_its_class_not_by_its_message():
    error = as_request_error(OutOfMemory("nothing fits: close\nother programs"))
    assert error.code == ErrorCode.OUT_OF_MEMORY
    assert error.message == "nothing fits: close other programs"
    error = as_request_error(MaskSAMError("its memory is too small a part"))
    assert error.code == ErrorCode.REFUSED
