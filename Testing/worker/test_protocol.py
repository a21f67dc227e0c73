"""The worker without its client: plain JSON-RPC, line by line."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import MaskSAMCore
from MaskSAMCore.errors import MaskSAMError, OutOfMemory
from MaskSAMCore.worker.failures import as_request_error
from MaskSAMCore.worker.protocol import ErrorCode
from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import LONG, ROOT, known_model


class Worker:
    """A worker process and both ends of its pipe."""

    def __init__(self, command: Sequence[str] = KNOWN_WORKER, options: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)

    def say(self, line: bytes) -> None:
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def ask(self, number: object, method: str, **params: object) -> None:
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.say(json.dumps(message).encode())

    def hear(self, number: object = None, method: str | None = None) -> dict:
        """The next message that is an answer to a number, or of a method."""
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


@pytest.fixture
def worker():
    one = Worker()
    yield one
    one.close()


@pytest.fixture
def plain():
    """As it ships: it answers before PyTorch is there."""
    one = Worker((sys.executable, "-m", "MaskSAMCore.worker"))
    yield one
    one.close()


def image(folder: Path, array: np.ndarray, **changes: object) -> dict:
    path = folder / "image.raw"
    array.tofile(path)
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]).tolist()
    return {
        "path": str(path),
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "ijk_to_ras": matrix,
        "name": "x",
        **changes,
    }


def segment(worker: Worker, number: object, folder: Path, model: str, **changes: object) -> Path:
    output = folder / f"out {number}.raw"
    params = {
        "images": changes.pop("images", None) or [image(folder, two_blobs())],
        "model": str(known_model(folder, model)),
        "roi": None,
        "boxes": [],
        "device": "auto",
        "tta": "none",
        "output": str(output),
        "session": None,
        **changes,
    }
    worker.ask(number, "segment", **params)
    return output


def test_a_greeting_tells_version_and_process(plain: Worker):
    plain.ask("a", "initialize", protocol=1, client="test")
    assert plain.hear("a")["result"] == {
        "protocol": 1,
        "version": MaskSAMCore.__version__,
        "pid": plain.process.pid,
    }


@pytest.mark.parametrize("protocol", [0, 2, None, "1"])
def test_another_protocol_is_refused_by_name(plain: Worker, protocol: object):
    plain.ask(1, "initialize", protocol=protocol, client="test")
    error = plain.hear(1)["error"]
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
def test_what_is_no_request_is_answered_by_jsonrpcs_own_errors(
    plain: Worker, line: bytes, code: int
):
    plain.say(line)
    message = json.loads(plain.lines.get(timeout=LONG))
    assert message["error"]["code"] == code
    plain.say(b'{"id": 2, "method": "ping"}')
    assert plain.hear(2)["result"] == {}


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
        {"shape": None},
    ],
)
def test_an_image_that_is_not_as_described_is_refused(plain: Worker, tmp_path: Path, change: dict):
    images = [image(tmp_path, two_blobs(), **change)]
    output = segment(plain, 1, tmp_path, "threshold", images=images)
    assert plain.hear(1)["error"]["code"] == -32602
    assert not output.exists()


def test_a_box_that_is_not_as_described_is_refused(plain: Worker, tmp_path: Path):
    for number, box in enumerate(({"lower": [1, 2]}, {"lower": "abc", "upper": "def"}, 3)):
        segment(plain, number, tmp_path, "threshold", boxes=[box])
        assert plain.hear(number)["error"]["code"] == -32602


def test_the_reading_thread_answers_while_the_other_works(worker: Worker, tmp_path: Path):
    segment(worker, 1, tmp_path, "deaf")
    worker.hear(method="progress")
    worker.ask(2, "ping")
    worker.ask(3, "initialize", protocol=1)
    assert worker.hear(2)["result"] == {}
    assert worker.hear(3)["result"]["protocol"] == 1


def test_a_waiting_request_is_cancelled_at_once_and_a_running_one_soon(
    worker: Worker, tmp_path: Path
):
    # Some minutes of work, if it were not cancelled.
    images = [image(tmp_path, two_blobs((44, 68, 92)))]
    first = segment(worker, "one", tmp_path, "slow", images=images)
    second = segment(worker, "two", tmp_path, "slow", images=images)
    worker.hear(method="progress")
    for number in ("two", "one", "nobody"):
        worker.say(json.dumps({"method": "cancel", "params": {"id": number}}).encode())
        if number != "nobody":
            assert worker.hear(number)["error"] == {"code": -32002, "message": "cancelled"}
    third = segment(worker, "one", tmp_path, "threshold")
    result = worker.hear("one")["result"]
    assert result["labelmap"] == {"path": str(third), "shape": [11, 17, 23], "dtype": "|u1"}
    np.testing.assert_array_equal(np.fromfile(third, np.uint8), two_blobs().ravel())
    assert third == first and not second.exists()
    assert not list(tmp_path.glob("*.part"))


def test_an_id_in_use_is_refused(worker: Worker, tmp_path: Path):
    segment(worker, 1, tmp_path, "deaf")
    worker.hear(method="progress")
    worker.ask(1, "devices")
    assert worker.hear(1)["error"]["code"] == -32600


def test_a_goodbye_ends_it_whatever_it_does(worker: Worker, tmp_path: Path):
    segment(worker, 1, tmp_path, "deaf")
    worker.hear(method="progress")
    worker.ask(2, "shutdown")
    assert worker.hear(2)["result"] == {}
    assert worker.process.wait(LONG) == 0


def test_it_ends_when_its_caller_is_gone_and_removes_the_callers_folder(
    worker: Worker, tmp_path: Path
):
    folder = tmp_path / "masksam-of-the-caller"
    folder.mkdir()
    worker.ask(1, "initialize", protocol=1, folder=str(folder))
    segment(worker, 2, folder, "deaf")
    worker.hear(method="progress")
    worker.process.stdin.close()
    assert worker.process.wait(LONG) == 0
    assert not folder.exists()


def test_no_folder_but_a_callers_is_ever_removed(plain: Worker, tmp_path: Path):
    plain.ask(1, "initialize", protocol=1, folder=str(tmp_path))
    plain.hear(1)
    plain.process.stdin.close()
    assert plain.process.wait(LONG) == 0
    assert tmp_path.exists()


def test_it_ends_when_it_has_been_idle_for_long():
    worker = Worker(options=("--idle-minutes", "0.005"))
    assert worker.process.wait(LONG) == 0
    worker.close()


def test_an_output_that_cannot_be_written_is_told(worker: Worker, tmp_path: Path):
    segment(worker, 1, tmp_path, "threshold", output=str(tmp_path / "no folder" / "out.raw"))
    error = worker.hear(1)["error"]
    assert error["code"] == -32000 and "cannot write" in error["message"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path):
    # A file may not grow beyond a few kB: for the program, the same as a disk that is full.
    worker = Worker(options=("--largest-file", "4096"))
    array = np.zeros((20, 30, 30), dtype=np.float32)
    images = [image(tmp_path, array)]
    output = segment(worker, 1, tmp_path, "threshold", images=images)
    error = worker.hear(1)["error"]
    assert error["code"] == -32000 and "cannot write" in error["message"]
    assert not output.exists() and not list(tmp_path.glob(".*"))
    worker.close()


def test_memory_that_ran_out_is_known_by_its_class_and_never_by_its_words():
    told = as_request_error(OutOfMemory("nothing fits: close\nother programs"))
    assert (told.code, told.message) == (
        ErrorCode.OUT_OF_MEMORY,
        "nothing fits: close other programs",
    )
    assert (
        as_request_error(MaskSAMError("its memory is too small a part")).code == ErrorCode.REFUSED
    )
