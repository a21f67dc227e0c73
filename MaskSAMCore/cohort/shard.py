"""Shards: parts of the cases, so that a scheduler can run each part on a different computer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from MaskSAMCore.errors import MaskSAMError

_TEXT = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of the cases.

    Attributes:
        number: number of the part, from 1.
        count: number of parts.
    """

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Shard:
        """Return the shard of a text such as "2/8".

        Raises:
            MaskSAMError: the text has another form, or the number is not between 1 and the count.
        """
        match = _TEXT.fullmatch(text.strip())
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise MaskSAMError(
                f"'{text}' is no shard: give its number and their count, such as 1/8 to 8/8"
            )
        return Shard(number, count)

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of the shard: every ``count``-th item, so that shards have equal sizes.

        The shards of a sequence are disjoint and together hold all its items.
        """
        return items[self.number - 1 :: self.count]

    def own_file(self, path: Path) -> Path:
        """Return the shard's own file in place of ``path``, which all shards would write."""
        return path.with_name(f"{path.stem}-{self.number}-of-{self.count}{path.suffix}")

    @staticmethod
    def is_own_file(path: Path, whole: Path) -> bool:
        """Return whether a file is named like a shard's own file in place of ``whole``."""
        stem, suffix = re.escape(whole.stem), re.escape(whole.suffix)
        return re.fullmatch(rf"{stem}-\d+-of-\d+{suffix}", path.name) is not None

    @staticmethod
    def files(path: Path) -> list[Path]:
        """Return the existing files of shards in place of ``path``."""
        if not path.parent.is_dir():
            return []
        return sorted(one for one in path.parent.iterdir() if Shard.is_own_file(one, path))
