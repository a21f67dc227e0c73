"""Boxes through the worker: what a session keeps, what is said when it is lost, what stays."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore import Box, Segmenter, Volume
from Testing.helpers.generated import generated_case
from Testing.helpers.paths import KNOWN_WORKER
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import OBLIQUE, threshold_segmenter, two_blobs, volume_of
from Testing.helpers.worker_tools import ROOT, WorkerClient, request, until

BOX = Box("Anterior", (4, 3, 2), (15, 12, 6))
WHOLE = Box("Anterior", (0, 0, 0), (23, 17, 11))


@pytest.fixture(scope="module")
def known():
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    yield client
    client.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "threshold").mkdir()
    return tmp_path / "threshold"


def run(client: WorkerClient, model: Path, **more):
    return client.wait(client.segment(request(more.pop("array", two_blobs()), model, **more)))


def lost(result) -> bool:
    return any("whole run was done again" in note for note in result.notes)


def test_boxes_give_what_the_engine_gives_with_either_rule(known, model):
    volume = volume_of(two_blobs(), np.diag([-1.0, -1.0, 2.0, 1.0]))
    for overwrite in (False, True):
        found = run(known, model, session="rule", boxes=[WHOLE], overwrite=overwrite)
        plan = threshold_segmenter()
        expected = plan.segment(volume, boxes=[WHOLE], overwrite=overwrite)
        np.testing.assert_array_equal(found.labelmap, expected.labelmap)
        names = [label.name for label in found.labels]
        assert names == [label.name for label in expected.labels]


def test_a_session_that_is_there_is_resumed_without_a_word(known, model):
    run(known, model, session="there")
    again = run(known, model, session="there", boxes=[BOX], resume=True)
    assert not lost(again)


def test_a_changed_volume_or_a_closed_session_is_segmented_anew_and_said(known, model):
    run(known, model, session="gone")
    changed = two_blobs()
    changed[0, 0, 0] = 1
    again = run(known, model, session="gone", boxes=[BOX], resume=True, array=changed)
    assert lost(again)
    known.close_session("gone")
    assert lost(run(known, model, session="gone", boxes=[BOX], resume=True, array=changed))


def test_of_many_sessions_the_oldest_is_let_go(known, model):
    for n in range(4):
        run(known, model, session=f"number {n}")
    assert not lost(run(known, model, session="number 3", boxes=[BOX], resume=True))
    assert not lost(run(known, model, session="number 2", boxes=[BOX], resume=True))
    assert lost(run(known, model, session="number 0", boxes=[BOX], resume=True))


def test_a_killed_worker_costs_a_run_and_nothing_else(model):
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    try:
        first = run(client, model, session="kept")
        expected = run(client, model, session="kept", boxes=[BOX], resume=True)
        assert not lost(expected)
        os.kill(client.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        until(lambda: not client.running, client, "its end")
        again = run(client, model, session="kept", boxes=[BOX], resume=True)
        assert lost(again)
        np.testing.assert_array_equal(again.labelmap, expected.labelmap)
        assert not np.array_equal(again.labelmap, first.labelmap)
    finally:
        client.close()


def test_the_network_s_own_boxes_come_with_its_classes(tmp_path: Path):
    client = WorkerClient(core_folder=ROOT)
    try:
        array, folder = generated_case(1)[0], small_bundle(tmp_path / "small")
        found = run(client, folder, array=array, matrix=OBLIQUE, session="own")
        result = Segmenter.from_model(folder).segment(Volume(array, OBLIQUE))
        assert result.instances and any(one.proposal for one in result.instances)
        for message, one in zip(found.instances, result.instances, strict=True):
            if one.proposal is None:
                assert message.proposal is None
            else:
                assert message.proposal.box == one.proposal.box
                assert message.proposal.confidence == pytest.approx(one.proposal.confidence)
    finally:
        client.close()


SMALL_MEMORY = (
    "from MaskSAMCore.inference import embedding_cache; embedding_cache.CACHE_BYTES = 1;"
    "from Testing.helpers import known_worker; known_worker.main()"
)


def test_embeddings_beyond_the_memory_are_files_in_the_client_s_folder_and_go_with_the_worker(
    model, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = WorkerClient(core_folder=ROOT, command=[sys.executable, "-c", SMALL_MEMORY])
    try:
        run(client, model, session="one")
        folder = client.folder
        (first,) = folder.glob("masksam-embeddings-*")
        assert list(first.glob("*.npy"))
        edited = run(client, model, session="one", boxes=[BOX], resume=True)
        assert not lost(edited)
        np.testing.assert_array_equal(edited.labelmap == 1, expected_box())
        # Another session, then one whose worker is killed: the next worker tidies up.
        os.kill(client.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        until(lambda: not client.running, client, "its end")
        assert first.exists()
        run(client, model, session="two")
        (second,) = folder.glob("masksam-embeddings-*")
        assert second != first
        client.close_session("two")
        until(lambda: not second.exists(), client, "an empty folder")
    finally:
        client.close()
    assert not folder.exists()


def expected_box() -> np.ndarray:
    inside = np.zeros(two_blobs().shape, dtype=bool)
    inside[2:6, 3:12, 4:15] = True
    return inside & (two_blobs() != 2)
