"""Sessions of the worker: kept embeddings and files, and the note about a lost session."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore import Box, Segmenter, Volume
from Testing.helpers.generated import generated_case
from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import OBLIQUE, threshold_segmenter, two_blobs, volume_of
from Testing.helpers.worker_tools import (
    MATRIX,
    SegmentRequest,
    WorkerClient,
    end_of,
    known_model,
    request,
    wait_until,
)

BOX = Box("Anterior", (4, 3, 2), (15, 12, 6))
WHOLE = Box("Anterior", (0, 0, 0), (23, 17, 11))


def run(client: WorkerClient, model: Path, array: np.ndarray | None = None, **options):
    array = two_blobs() if array is None else array
    return client.wait(client.segment(request(array, model, **options)))


def lost(result) -> bool:
    return any("whole run was repeated" in note for note in result.notes)


def kill(client: WorkerClient) -> None:
    ended = end_of(client.pid)
    os.kill(client.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    wait_until(ended, what="the worker's end")
    wait_until(lambda: not client.running, client, "the client's notice")


@pytest.mark.parametrize("overwrite", [False, True])
def test_boxes_give_the_result_of_the_engine(known, threshold, overwrite):
    found = run(known, threshold, session="rule", boxes=[WHOLE], overwrite=overwrite)
    volume = volume_of(two_blobs(), MATRIX)
    expected = threshold_segmenter().segment(volume, boxes=[WHOLE], overwrite=overwrite)
    np.testing.assert_array_equal(found.labelmap, expected.labelmap)
    assert found.labels == expected.labels


def test_a_session_encodes_only_changed_volumes_and_decodes_only_changed_boxes(known, threshold):
    array = two_blobs()

    def counts(**options):
        """Return the numbers of windows encoded and decoded so far."""
        notes = run(known, threshold, options.pop("array", array), **options).notes
        return int(notes[-3].split()[1]), int(notes[-2].split()[1])

    box = Box("Anterior", (4, 3, 2), (8, 8, 6))
    encoded, decoded = counts(session="one")
    edited = counts(session="one", boxes=[box])
    assert edited[0] == encoded and decoded < edited[1] < 2 * decoded
    # A copy of the array counts as the same volume.
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


def test_a_session_that_exists_is_resumed_without_a_note(known, threshold):
    run(known, threshold, session="there")
    assert not lost(run(known, threshold, session="there", boxes=[BOX], resume=True))


def test_a_changed_volume_or_a_closed_session_is_segmented_anew_with_a_note(known, threshold):
    run(known, threshold, session="gone")
    changed = two_blobs()
    changed[0, 0, 0] = 1
    assert lost(run(known, threshold, changed, session="gone", boxes=[BOX], resume=True))
    known.close_session("gone")
    assert lost(run(known, threshold, changed, session="gone", boxes=[BOX], resume=True))


def test_other_mirroring_or_another_modality_is_a_session_of_its_own(known, threshold):
    image = volume_of(two_blobs(), MATRIX)
    first = SegmentRequest([image], str(threshold), session="one", resume=True)
    known.wait(known.segment(first))
    mirrored = replace(first, tta="mirror")
    assert lost(known.wait(known.segment(mirrored)))
    assert not lost(known.wait(known.segment(mirrored)))
    of_ct = replace(mirrored, volumes=[replace(image, modality="CT")])
    assert lost(known.wait(known.segment(of_ct)))
    assert not lost(known.wait(known.segment(of_ct)))


def test_the_oldest_of_many_sessions_is_closed(known, threshold):
    for n in range(4):
        run(known, threshold, session=f"number {n}")
    assert not lost(run(known, threshold, session="number 3", boxes=[BOX], resume=True))
    assert not lost(run(known, threshold, session="number 2", boxes=[BOX], resume=True))
    assert lost(run(known, threshold, session="number 0", boxes=[BOX], resume=True))


def test_a_killed_worker_costs_a_whole_run_and_changes_no_result(known, threshold):
    first = run(known, threshold, session="kept")
    expected = run(known, threshold, session="kept", boxes=[BOX], resume=True)
    assert not lost(expected)
    kill(known)
    again = run(known, threshold, session="kept", boxes=[BOX], resume=True)
    assert lost(again)
    np.testing.assert_array_equal(again.labelmap, expected.labelmap)
    assert not np.array_equal(again.labelmap, first.labelmap)


def test_the_boxes_that_the_network_predicted_come_with_its_classes(client, bundle):
    array = generated_case(1)[0]
    found = run(client, bundle, array, matrix=OBLIQUE)
    result = Segmenter.from_model(bundle).segment(Volume(array, OBLIQUE))
    assert result.instances and any(one.proposal for one in result.instances)
    for message, one in zip(found.instances, result.instances, strict=True):
        assert (message.proposal is None) == (one.proposal is None)
        if one.proposal is not None:
            assert message.proposal.box == one.proposal.box
            assert message.proposal.confidence == pytest.approx(one.proposal.confidence)


def test_embeddings_beyond_the_memory_limit_are_files_that_the_next_worker_removes(tmp_path):
    model = known_model(tmp_path, "spilling")
    client = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER)
    try:
        run(client, model, session="one")
        folder = client.folder
        (first,) = folder.glob("masksam-embeddings-*")
        assert list(first.glob("*.npy"))
        edited = run(client, model, session="one", boxes=[BOX], resume=True)
        assert not lost(edited)
        inside = np.zeros(two_blobs().shape, dtype=bool)
        inside[2:6, 3:12, 4:15] = True
        np.testing.assert_array_equal(edited.labelmap == 1, inside & (two_blobs() != 2))
        kill(client)
        assert first.exists()
        run(client, model, session="two")
        (second,) = folder.glob("masksam-embeddings-*")
        assert second != first
        client.close_session("two")
        wait_until(lambda: not second.exists(), client, "an empty folder")
    finally:
        client.close()
    assert not folder.exists()


def test_shared_files_are_removed_when_they_are_no_longer_needed(known, threshold):
    run(known, threshold)
    earlier = set(known.folder.iterdir())

    def sizes() -> list[int]:
        found = []
        for path in set(known.folder.glob("*.raw")) - earlier:
            with suppress(FileNotFoundError):  # the client may have removed it
                found.append(path.stat().st_size)
        return found

    run(known, threshold, session="files")
    changed = two_blobs() * 2
    run(known, threshold, changed, session="files")
    wait_until(lambda: sizes() == [changed.nbytes], known, "the session's volume alone")
    known.close_session("files")
    wait_until(lambda: sizes() == [], known, "a folder without its files")


def test_models_stay_in_memory_when_their_sessions_exceed_the_limit(threshold):
    client = WorkerClient(core_folder=ROOT, command=(*KNOWN_WORKER, "--memory-gib", "0.00001"))
    try:
        first, second = (
            int(run(client, threshold, session="one").notes[0].split()[1]) for _ in range(2)
        )
        # One model has encoded the volume twice, so its count has doubled.
        assert second == 2 * first
    finally:
        client.close()
