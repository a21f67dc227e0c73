"""JSON documents of any shape, for the tests of readers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from MaskSAMCore.errors import MaskSAMError

_ODD = (
    10**400,
    1e999,
    float("nan"),
    -1,
    0,
    "",
    "²",
    "\ud800",
    "a\x00b",
    "../x",
    [],
    {},
    [[]],
    {"": 0},
)


def values() -> st.SearchStrategy[Any]:
    """Return a strategy for JSON values of any shape."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    return st.sampled_from(_ODD) | st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=5,
    )


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield from _places(value[key], (*place, key))


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Return a document in which one or two values are replaced, removed or duplicated."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(_places(document))))
        if not place:
            return copy.deepcopy(draw(values()))
        parent = document
        for key in place[:-1]:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if change == "replace":
            parent[place[-1]] = copy.deepcopy(draw(values()))
        elif change == "remove":
            del parent[place[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[place[-1]]))
        else:
            parent[draw(st.text(max_size=3))] = copy.deepcopy(parent[place[-1]])
    return document


def read_or_refuse(document: Any, path: Path, read: Callable[[Path], object]) -> bool:
    """Write a document and read it; return whether the reader accepted it.

    Exceptions other than MaskSAMError are not caught.
    """
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        read(path)
    except MaskSAMError:
        return False
    return True
