"""Shards: parts of nearly equal size that together cover all cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.cohort.shard import Shard
from MaskSAMCore.errors import MaskSAMError


@settings(max_examples=50, deadline=None)
@given(items=st.integers(0, 60), count=st.integers(1, 20))
def test_shards_are_the_whole_without_overlap(items: int, count: int):
    parts = [Shard(number, count).of(range(items)) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "", "1/9999999"]
)
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(MaskSAMError, match="is no shard"):
        Shard.parse(text)


def test_each_shard_has_files_of_its_own(tmp_path: Path):
    table = tmp_path / "cases.csv"
    own = [Shard.parse(text).own_file(table) for text in ("1/12", "12/12")]
    assert [path.name for path in own] == ["cases-1-of-12.csv", "cases-12-of-12.csv"]
    for path in own:
        path.write_text("")
    (tmp_path / "cases-of-mine.csv").write_text("")
    assert Shard.files(table) == own
