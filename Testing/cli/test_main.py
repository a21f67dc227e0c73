"""Exit status and errors of the shell command, whatever the subcommand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from MaskSAMCore.cli import main
from Testing.cli.helpers import error_of, run_process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "IMAGE", "-o", "FILE/result.nii.gz", "-m", "MODEL"], "FILE"),
        (["predict", "IMAGE", "-o", "FILE/results", "-m", "MODEL"], "FILE"),
        (["predict", "IMAGE", "-o", f"{'long' * 99}/a.mha", "-m", "MODEL"], "longlong"),
        (["predict", "IMAGE", "-o", "LOCKED/result.nii.gz", "-m", "MODEL"], "LOCKED"),
        (["predict", "IMAGE", "-o", "LOCKED/results", "-m", "MODEL"], "LOCKED"),
        (["predict", "IMAGE", "-o", "name.png", "-m", "MODEL"], "not written as '.png'"),
        (["predict", "IMAGE", "-o", "name.mhd", "-m", "MODEL"], "not written as '.mhd'"),
        (["predict", "IMAGE", "IMAGE", "-o", "out", "-m", "MODEL"], "two cases are named 'bräin'"),
        (["evaluate", "IMAGE", "IMAGE", "-o", "FILE/summary.json"], "FILE"),
        (["demo", "-o", "FILE/results"], "FILE"),
        (["demo", "-o", "LOCKED/results"], "LOCKED"),
        (["benchmark", "-m", "MODEL", "--shape", "90000x90000x90000"], "the memory ran out"),
    ],
)
def test_a_common_mistake_gives_one_line_of_error_and_no_output(
    arguments: list[str],
    message: str,
    image: Path,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_bytes(b"in the way")
    (tmp_path / "LOCKED").mkdir(mode=0o555)
    if "LOCKED" in message and os.access(tmp_path / "LOCKED", os.W_OK):
        if not sys.platform.startswith("linux"):
            pytest.skip("this user may write everywhere")
        # Even the root user cannot create folders in /proc.
        arguments = [a.replace("LOCKED", "/proc/LOCKED") for a in arguments]
    before = sorted(tmp_path.rglob("*"))
    names = {"IMAGE": str(image), "MODEL": model}
    error = error_of(capfd, [names.get(a, a) for a in arguments])
    assert message in error
    assert "Errno" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_too_little_memory_for_pytorch_gives_one_line_of_error(
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. can't allocate memory")

    monkeypatch.setattr("MaskSAMCore.cli.prediction.load_segmenter", fail)
    error = error_of(capfd, ["predict", str(image), "-o", str(tmp_path / "a.nii.gz")])
    assert "the memory ran out: close other programs" in error


def test_a_usage_error_gives_one_line_of_error(image: Path, capfd: pytest.CaptureFixture[str]):
    error_of(capfd, ["predict", str(image)])
    error_of(capfd, ["fly"])
    wrong = error_of(capfd, ["predict", str(image), "-o", "out", "--tta", "all"])
    assert "Invalid value for '--tta': 'all' is not one of 'none', 'mirror'" in wrong


@pytest.mark.parametrize("arguments", [[], ["models"], ["quality"]])
def test_without_a_command_the_help_is_shown_and_no_empty_error(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
):
    main(arguments)
    shown, errors = capfd.readouterr()
    assert "Usage: masksam" in shown + errors
    assert "masksam: error:" not in [line.strip() for line in errors.splitlines()]


def test_an_empty_argument_is_not_the_current_folder(
    image: Path,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for arguments in (["", "-o", "results"], [str(image), "-o", ""]):
        assert "an argument is empty" in error_of(capfd, ["predict", *arguments, "-m", model])
    assert sorted(tmp_path.rglob("*")) == before


def test_the_process_exits_with_two_after_an_error():
    failed = run_process(["models", "info", "nobody"])
    assert failed.returncode == 2
    assert failed.stderr.startswith("masksam: error: no model named 'nobody'")
    assert failed.stderr.count("\n") == 1
    assert failed.stdout == ""


def test_the_process_prints_its_version():
    assert run_process(["--version"]).stdout.startswith("masksam 0.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_output_to_a_full_disk_gives_one_line_of_error():
    with open("/dev/full", "w") as full:
        failed = run_process(["models", "list"], stdout=full)
    assert failed.returncode == 2
    assert failed.stderr == "masksam: error: no space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_closed_pipe_is_not_an_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_process(["models", "list"], stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_command_starts_without_the_libraries_of_networks_and_images():
    program = (
        "import sys, MaskSAMCore.cli.app; print(*sorted(set(sys.modules) & set(sys.argv[1:])))"
    )
    heavy = ["SimpleITK", "distributed", "nibabel", "pydicom", "scipy", "torch"]
    done = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_ctrl_c_while_the_command_is_imported_gives_one_line_of_error():
    program = """
import signal, sys

class Interrupter:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
from MaskSAMCore.cli import main
sys.exit(main(["models", "list"]))
"""
    stopped = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert stopped.returncode == 130
    assert stopped.stderr == "masksam: error: stopped; nothing was half-written\n"
    assert stopped.stdout == ""
