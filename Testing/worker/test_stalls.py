"""A worker that answers but gets nowhere: the person is told, and can cancel."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.worker.protocol import ProgressMessage
from MaskSAMSlicerLib.worker.connection import StallMonitor
from MaskSAMSlicerLib.worker.jobs import Job
from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import (
    ROOT,
    Heard,
    WorkerClient,
    fails,
    known_model,
    request,
    until,
)


def remarks(heard: Heard) -> list[tuple[str, float, float | None]]:
    """Those of the stage that hangs: a loaded machine may be slow to get there."""
    return [said for said in heard.progress if said[0].startswith("Segmenting: no progress for")]


@pytest.mark.skipif(sys.platform == "win32", reason="the known worker needs POSIX's limits")
def test_a_job_that_hangs_while_the_worker_answers_is_told_and_can_be_cancelled(tmp_path: Path):
    log: list[str] = []
    client = WorkerClient(
        core_folder=ROOT, command=KNOWN_WORKER, on_log=log.append, stalled_seconds=2.0
    )
    try:
        heard = Heard()
        job = client.segment(request(two_blobs(), known_model(tmp_path, "deaf")), **heard())
        until(lambda: len(remarks(heard)) >= 2, client, "a remark", heard)
        for (_, reached, _), told in itertools.pairwise(heard.progress):
            if told in remarks(heard):
                text, fraction, left = told
                assert text in log and "cancel" in text
                assert left is None and fraction == reached  # the bar stays where it is
        assert not job.done
        client.cancel()
        assert fails(client, job, heard).kind == "cancelled"
        result = client.wait(
            client.segment(request(two_blobs(), known_model(tmp_path, "threshold")))
        )
        np.testing.assert_array_equal(result.labelmap, two_blobs())
    finally:
        client.close()


def said(patience: StallMonitor, job: Job | None, times: list[float]) -> list[float]:
    """When, of some times, a person is told something."""
    return [now for now in times if patience.check(job, now) is not None]


def test_a_person_is_told_each_time_that_patience_runs_out():
    times = [1000 + n / 2 for n in range(60)]
    assert said(StallMonitor(10), Job(1, "segment", {}), times) == [1010, 1020]


def test_progress_and_another_job_begin_anew():
    patience, job = StallMonitor(10), Job(1, "segment", {})
    times = [n / 2 for n in range(19)]
    assert said(patience, job, times) == []
    job.report(ProgressMessage(1, "Segmenting", 0.5))
    assert said(patience, job, [9 + time for time in times]) == []
    assert said(patience, Job(2, "segment", {}), [18 + time for time in times]) == []
    assert said(patience, None, [27 + time for time in times]) == []
    assert said(patience, job, [36 + time for time in [*times, 9.5, 10.0]]) == [46]


def test_a_break_of_the_machine_is_not_the_workers():
    patience, job = StallMonitor(10), Job(1, "segment", {})
    assert said(patience, job, [0, 1, 50_000, 50_001, 50_002]) == []


def test_the_words_name_the_stage_and_the_time():
    patience, job = StallMonitor(200), Job(1, "segment", {})
    job.report(ProgressMessage(1, "Loading the model", 0))
    told = [patience.check(job, now) for now in range(250)]
    assert [text for text in told if text] == [
        "Loading the model: no progress for 3 min: wait, or cancel"
    ]
