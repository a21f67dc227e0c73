"""``masksam predict --dask``: on real workers, of which some are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread, Timer

import dask
import psutil
import pytest
from distributed import Client

from MaskSAMCore.cli import main
from MaskSAMCore.cohort.dask_cluster import DaskCluster
from Testing.cli.helpers import error_of
from Testing.cohort.bad_files import write_bad_files
from Testing.cohort.helpers import (
    assert_equal_labelmaps,
    labelmaps,
    rows_of,
    write_cases,
    write_cohort,
)
from Testing.helpers.dask_workers import POISON, POISON_LOG, set_software, two_workers
from Testing.helpers.paths import ROOT
from Testing.helpers.time_limits import LONG

NAMES = tuple(f"site{n % 2}/case_{n}" for n in range(8))
# Columns that differ between runs, or that have paths, which are absolute on workers.
OF_THE_RUN = ("seconds", "peak_memory_mb", "output", "reason")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with two_workers(tmp_path_factory.mktemp("dask")) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cases(tmp_path / "in", NAMES)
    return tmp_path


def predict(folder: Path, model: str, *more: str, out: str = "out") -> int:
    return main(["predict", str(folder / "in"), "-o", str(folder / out), "-m", model, *more])


def predict_process(folder: Path, model: str, *more: str) -> subprocess.Popen[str]:
    """Start a run over the folder in a process and a session of its own."""
    arguments = ["predict", str(folder / "in"), "-o", str(folder / "out"), "-m", model, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "MaskSAMCore.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def done_when_killed(table: Path) -> list[str]:
    """Return the cases that a run had recorded as done when it was killed."""
    lines = table.read_text(encoding="utf-8").splitlines()
    return [line.split(",", 1)[0] for line in lines if ",done," in line]


def address(workers: Client) -> str:
    return str(workers.scheduler.address)


def wait_for_cases(table: Path, count: int) -> None:
    """Wait until a run has finished some cases."""
    limit = time.monotonic() + LONG
    while time.monotonic() < limit:
        if table.exists() and table.read_text().count(",done,") >= count:
            return
        time.sleep(0.01)


def running_in_session(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_a_killed_worker_loses_no_case_and_changes_no_output(
    folder: Path, model: str, workers: Client
):
    bad = write_bad_files(folder / "in" / "bad")
    assert predict(folder, model, "--threads", "1", out="whole") == 3
    process = min(workers.run(os.getpid).values())

    def kill() -> None:
        wait_for_cases(folder / "out" / "cases.csv", 2)
        os.kill(process, signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    volumes = folder / "volumes.csv"
    options = ("--dask", address(workers), "--threads", "1", "--volumes", str(volumes))
    assert predict(folder, model, *options) == 3
    killer.join()
    assert_equal_labelmaps(labelmaps(folder / "whole"), labelmaps(folder / "out"))
    whole, found = (rows_of(folder / name / "cases.csv") for name in ("whole", "out"))
    assert found.keys() == whole.keys() == {*NAMES, *(f"bad/{name}" for name in bad)}
    for name, row in found.items():
        for column in row.keys() - OF_THE_RUN:
            assert row[column] == whole[name][column], (name, column)
    for name, reason in bad.items():
        assert reason in found[f"bad/{name}"]["reason"]
    assert volumes.read_text().count("Bright") == len(NAMES)


def test_a_case_that_ends_two_workers_is_given_up_and_no_other(
    folder: Path, model: str, workers: Client, capfd: pytest.CaptureFixture[str]
):
    poison = folder / "in" / "site0" / POISON
    poison.write_bytes(b"")
    assert predict(folder, model, "--dask", address(workers)) == 3
    rows = rows_of(folder / "out" / "cases.csv")
    failed = rows.pop("site0/poison")
    assert failed["status"] == "failed"
    assert "its worker process ended 2 times" in failed["reason"]
    assert {row["status"] for row in rows.values()} == {"done"}
    assert len((poison.parent / POISON_LOG).read_text().splitlines()) == 2
    printed = capfd.readouterr().err
    assert "site0/poison: its worker process ended" in printed
    assert "9 of 9 cases" in printed


def test_a_worker_with_another_version_ends_the_run_at_its_start(
    folder: Path, model: str, workers: Client, capfd: pytest.CaptureFixture[str]
):
    before = workers.run(set_software, "masksam 99.9")
    arguments = ["predict", str(folder / "in"), "-o", str(folder / "out"), "-m", model]
    try:
        error = error_of(capfd, [*arguments, "--dask", address(workers)])
    finally:
        workers.run(set_software, min(before.values()))
    assert "it has masksam 99.9, but this run needs masksam " in error
    assert not labelmaps(folder / "out")


def test_one_image_without_a_table_is_segmented_by_a_worker(
    folder: Path, model: str, workers: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    image = f"in/{NAMES[0]}.nii.gz"
    assert main(["predict", image, "-o", "a.nii.gz", "-m", model]) == 0
    assert main(["predict", image, "-o", "b.nii.gz", "-m", model, "--dask", address(workers)]) == 0
    one, other = (labelmaps(folder)[f"{name}.nii.gz"] for name in "ab")
    assert_equal_labelmaps({"": one}, {"": other})


def test_without_keep_going_the_first_failure_ends_the_run(
    folder: Path, model: str, workers: Client, capfd: pytest.CaptureFixture[str]
):
    (folder / "in" / "empty.nii.gz").write_bytes(b"")
    arguments = ["predict", str(folder / "in"), "-o", str(folder / "out"), "-m", model]
    more = ["--no-keep-going", "--dask", address(workers)]
    assert "is an empty file" in error_of(capfd, [*arguments, *more])


def test_clusters_that_do_not_exist_are_one_line_of_error(
    folder: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    arguments = ["predict", str(folder / "in"), "-o", str(folder / "out"), "-m", model, "--dask"]
    assert "is no Dask cluster" in error_of(capfd, [*arguments, "everywhere"])
    assert "has no worker" in error_of(capfd, [*arguments, "local:0"])
    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}):
        assert "no Dask scheduler answers at tcp://127.0.0.1:9" in error_of(
            capfd, [*arguments, "tcp://127.0.0.1:9"]
        )
    assert not (folder / "out").exists()


def test_a_cohort_killed_over_dask_and_resumed_in_shards_is_complete(
    model: str, workers: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    bad = write_cohort(tmp_path / "in", 30, each_bad=1)
    out = tmp_path / "out"
    process = predict_process(tmp_path, model, "--dask", address(workers))
    wait_for_cases(out / "cases.csv", 3)
    process.kill()
    process.communicate()
    before = done_when_killed(out / "cases.csv")
    kept = {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in before}
    assert 3 <= len(kept) < 20
    assert predict(tmp_path, model, "--skip-existing", "--shard", "1/2") == 3
    shard = ("--skip-existing", "--shard", "2/2", "--dask", address(workers))
    assert predict(tmp_path, model, *shard) == 3
    assert predict(tmp_path, model, "--skip-existing") == 3
    assert "0 done, 20 skipped, 10 failed" in capfd.readouterr().err
    rows = rows_of(out / "cases.csv")
    assert len(rows) == 30
    assert len(labelmaps(out)) == 20
    assert {name for name, row in rows.items() if row["status"] == "failed"} == bad.keys()
    for name, reason in bad.items():
        assert reason in rows[name]["reason"]
    for name, modified in kept.items():
        assert (out / f"{name}.nii.gz").stat().st_mtime_ns == modified


@pytest.mark.skipif(sys.platform == "win32", reason="signals reach a group of processes on POSIX")
def test_ctrl_c_ends_processes_on_this_computer_and_leaves_complete_outputs(
    folder: Path, model: str
):
    out = folder / "out"
    process = predict_process(folder, model, "--dask", "local:1")
    wait_for_cases(out / "cases.csv", 1)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=LONG)[1]
    assert process.returncode == 130, printed
    assert printed.splitlines()[-1] == "masksam: error: stopped; nothing was half-written"
    assert "Traceback" not in printed
    limit = time.monotonic() + LONG
    while running_in_session(process.pid) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not running_in_session(process.pid)
    assert labelmaps(out)
    assert predict(folder, model, "--skip-existing") == 0
    assert {row["status"] for row in rows_of(out / "cases.csv").values()} == {"done"}
    assert len(labelmaps(out)) == len(NAMES)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_kills_the_processes_that_still_finish_their_cases(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
):
    killed: list[int] = []
    plain = os.kill

    def kill(pid: int, how: int) -> None:
        killed.append(pid)
        plain(pid, how)

    def stopped_run() -> None:
        with DaskCluster(workers=1).connect() as client:
            task = client.submit(time.sleep, LONG)
            while not any(task.key in keys for keys in client.processing().values()):
                time.sleep(0.01)
            processes.extend(client.run(os.getpid).values())
            Timer(0.5, plain, (os.getpid(), number)).start()
            raise KeyboardInterrupt

    processes: list[int] = []
    monkeypatch.setattr(os, "kill", kill)
    former = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped_run()
        assert killed == processes and not any(map(psutil.pid_exists, processes))
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, former)
