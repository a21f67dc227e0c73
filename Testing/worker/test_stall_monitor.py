"""Notices about a job without progress, while its worker answers pings."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.worker.protocol import ProgressMessage
from MaskSAMSlicerLib.worker.connection import StallMonitor
from MaskSAMSlicerLib.worker.jobs import Job
from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    Calls,
    WorkerClient,
    known_model,
    request,
    wait_for_error,
    wait_until,
)


@pytest.mark.skipif(sys.platform == "win32", reason="the known worker needs POSIX's limits")
def test_a_hanging_job_of_a_responsive_worker_gives_notices_and_can_be_cancelled(tmp_path: Path):
    log: list[str] = []
    client = WorkerClient(
        core_folder=ROOT,
        command=KNOWN_WORKER,
        on_log=log.append,
        stalled_seconds=2.0,
    )
    try:
        calls = Calls()

        def notices() -> list[tuple[str, float, float | None]]:
            start = "Segmenting: no progress for"
            return [report for report in calls.progress if report[0].startswith(start)]

        ask = request(two_blobs(), known_model(tmp_path, "hanging"))
        job = client.segment(ask, **calls.callbacks())
        wait_until(lambda: len(notices()) >= 2, client, "two notices", calls)
        for (_, fraction_before, _), report in itertools.pairwise(calls.progress):
            if report in notices():
                text, fraction, left = report
                assert text in log and "cancel" in text
                assert left is None and fraction == fraction_before
        assert not job.done
        client.cancel()
        assert wait_for_error(client, job, calls).kind == "cancelled"
        ask = request(two_blobs(), known_model(tmp_path, "threshold"))
        np.testing.assert_array_equal(client.wait(client.segment(ask)).labelmap, two_blobs())
    finally:
        client.close()


def notice_times(monitor: StallMonitor, job: Job | None, times: list[float]) -> list[float]:
    """Check a job at the given times, and return those at which a notice is due."""
    return [now for now in times if monitor.check(job, now) is not None]


def test_a_notice_is_due_after_each_period_without_progress():
    times = [1000 + n / 2 for n in range(60)]
    assert notice_times(StallMonitor(10), Job(1, "segment", {}), times) == [1010, 1020]


def test_progress_and_another_job_start_a_new_period():
    monitor, job = StallMonitor(10), Job(1, "segment", {})
    times = [n / 2 for n in range(19)]
    assert notice_times(monitor, job, times) == []
    job.report(ProgressMessage(1, "Segmenting", 0.5))
    assert notice_times(monitor, job, [9 + time for time in times]) == []
    assert notice_times(monitor, Job(2, "segment", {}), [18 + time for time in times]) == []
    assert notice_times(monitor, None, [27 + time for time in times]) == []
    assert notice_times(monitor, job, [36 + time for time in [*times, 9.5, 10.0]]) == [46]


def test_a_pause_of_the_machine_does_not_count():
    monitor, job = StallMonitor(10), Job(1, "segment", {})
    assert notice_times(monitor, job, [0, 1, 50_000, 50_001, 50_002]) == []


def test_a_notice_names_the_stage_and_the_duration():
    monitor, job = StallMonitor(200), Job(1, "segment", {})
    job.report(ProgressMessage(1, "Loading the model", 0))
    notices = [monitor.check(job, now) for now in range(250)]
    assert [text for text in notices if text] == [
        "Loading the model: no progress for 3 min: wait, or cancel"
    ]
