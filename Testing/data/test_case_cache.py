"""Cache of preprocessed cases in files that processes share."""

from __future__ import annotations

import itertools
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.data import PreparedCase
from MaskSAMCore.data.case_cache import CaseCache, entry_name
from MaskSAMCore.data.windows import CachedCase, IndexedCase, WindowDataset
from MaskSAMCore.errors import MaskSAMError
from Testing.data.helpers import plan_of, prepared_cases

ARRAYS = {"image": np.arange(40_000.0), "counts": np.array([3])}


def test_an_entry_has_the_arrays_that_were_stored(tmp_path: Path):
    cache = CaseCache(tmp_path / "deep" / "cases")
    assert cache.find("case", ARRAYS) is None
    cache.store("case", ARRAYS)
    found = cache.find("case", ARRAYS)
    assert found is not None
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.read(name), array)
    # A mapped array may be written to, but its file stays as it is.
    found.read("image")[:] = 0
    np.testing.assert_array_equal(found.read("image"), ARRAYS["image"])


@pytest.mark.parametrize("values", [(), (1,), (1, 4, 7)])
def test_a_cached_case_is_the_same_when_it_is_opened(values: tuple[int, ...], tmp_path: Path):
    labelmap = np.zeros((4, 5, 6), np.uint8)
    for place, value in enumerate(values):
        labelmap[place, : place + 1] = value
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    case = IndexedCase.from_case(PreparedCase(image, labelmap), reference=labelmap[:2])
    stored = CaseCache(tmp_path).store("case", case.to_arrays())
    opened = CachedCase(stored, validated=True).open()
    assert opened.lowest == case.lowest and len(opened.foreground) == len(values)
    for found, expected in zip(opened.foreground, case.foreground, strict=True):
        np.testing.assert_array_equal(found, expected)
    for name in ("image", "labelmap", "reference"):
        np.testing.assert_array_equal(getattr(opened, name), getattr(case, name))
    assert CachedCase(stored).open().reference is None


def test_an_entry_is_complete_or_absent(tmp_path: Path):
    class Unwritable:
        def __array__(self, *_: object) -> np.ndarray:
            raise OSError(28, "No space left on device")

    cache = CaseCache(tmp_path)
    with pytest.raises(MaskSAMError, match=r"^cannot write .*case: no space left on device$"):
        cache.store("case", {"image": np.zeros(9), "labelmap": Unwritable()})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_damaged_entry_is_not_found(size: int, tmp_path: Path):
    cache = CaseCache(tmp_path)
    stored = cache.store("case", ARRAYS)
    path = stored.folder / "image.npy"
    path.write_bytes(path.read_bytes()[:size])
    assert cache.find("case", ARRAYS) is None
    with pytest.raises(MaskSAMError, match=r"image\.npy is missing or damaged.*--resume"):
        stored.read("image")
    cache.store("case", ARRAYS)
    assert cache.find("case", ARRAYS) is not None


def test_an_entry_that_another_training_has_written_meanwhile_is_kept(tmp_path: Path):
    cache = CaseCache(tmp_path)
    entry = entry_name("case", {})

    of_other = []

    class Slow:
        """Array during whose writing another training stores the same entry."""

        def __array__(self, *_: object) -> np.ndarray:
            stored = CaseCache(tmp_path).store(entry, ARRAYS)
            of_other.append((stored.folder / "image.npy").stat().st_ino)
            return ARRAYS["counts"]

    arrays: dict = {**ARRAYS, "counts": Slow()}
    cache.store(entry, arrays, keep=True)
    assert (tmp_path / entry / "image.npy").stat().st_ino == of_other[0]
    assert [path.name for path in tmp_path.iterdir()] == [entry]
    (tmp_path / entry / "image.npy").write_bytes(b"")
    cache.store(entry, ARRAYS, keep=True)  # a damaged entry is replaced
    assert cache.find(entry, ARRAYS) is not None


def test_the_name_of_an_entry_tells_what_it_was_made_from():
    first = entry_name("case", {"spacing": [1.0, 2.0], "files": ["a"]})
    assert first == entry_name("case", {"files": ["a"], "spacing": [1.0, 2.0]})
    assert first != entry_name("case", {"spacing": [1.0, 2.0], "files": ["b"]})
    assert first.startswith("case-")


def test_too_little_space_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 5_100_000_000))
    cache = CaseCache(tmp_path / "cases")
    cache.check_space(5_000_000_000)
    with pytest.raises(MaskSAMError, match=r"need 22\.0 GB in .* only 5\.1 GB are free.*--cache"):
        cache.check_space(22_000_000_000)
    assert not cache.folder.exists()


def test_other_entries_are_removed(tmp_path: Path):
    cache = CaseCache(tmp_path / "cases")
    first, second = (entry_name(name, {}) for name in ("first", "second"))
    for name in (first, second):
        cache.store(name, ARRAYS)
    cache.remove_others({second})
    assert [path.name for path in cache.folder.iterdir()] == [second]
    cache.remove_others(())
    assert not cache.folder.exists()
    cache.remove_others(())


def test_files_that_are_no_entries_are_never_removed(tmp_path: Path):
    cache = CaseCache(tmp_path / "cases")
    cache.store(entry_name("case", {}), ARRAYS)
    (cache.folder / "imagesTr").mkdir()
    (cache.folder / "imagesTr" / "case-1_0000.nii.gz").touch()
    (cache.folder / ".masksam-killed").mkdir()
    before = cache.folder / "imagesTr", cache.folder / "imagesTr" / "case-1_0000.nii.gz"
    cache.remove_others(())
    assert tuple(sorted(cache.folder.rglob("*"))) == before


def test_windows_of_cached_cases_are_those_of_cases_in_memory(tmp_path: Path):
    cases = prepared_cases()
    cached = cached_cases(cases, tmp_path)

    def windows(sources: list) -> list[tuple[torch.Tensor, torch.Tensor]]:
        torch.manual_seed(0)
        dataset = WindowDataset(sources, plan_of(), 1.0, (0,), 0.5, 3)
        return list(itertools.islice(dataset, 4))

    for one, other in zip(windows(cases), windows(cached), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_cached_cases_are_sent_to_other_processes_without_their_arrays(tmp_path: Path):
    cases = prepared_cases()
    dataset = WindowDataset(cached_cases(cases, tmp_path), plan_of(), 1.0, (0,), 0.5, 3)
    assert len(pickle.dumps(dataset)) < 4_000 < cases[0].image.nbytes


def cached_cases(cases: list[IndexedCase], folder: Path) -> list[CachedCase]:
    cache = CaseCache(folder)
    return [CachedCase(cache.store(str(n), case.to_arrays())) for n, case in enumerate(cases)]
