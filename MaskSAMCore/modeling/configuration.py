"""Frozen dataclasses that are saved as JSON and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

if TYPE_CHECKING:
    from typing_extensions import Self

# All valid numbers of configurations are far smaller; PyTorch fails in many ways on larger ones.
_LARGEST = 2**31


@dataclass(frozen=True)
class Configuration:
    """Base class of all configurations: numbers, strings, tuples and nested configurations.

    Attributes:
        renamed_keys: present names of renamed fields by the former names in saved files.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from the plain types of :meth:`to_dict`.

        Raises:
            ValueError: a key is unknown or its value has the wrong type; the message names the key.
        """
        known = {field.name for field in fields(cls)}
        renamed = {cls.renamed_keys.get(key, key): value for key, value in values.items()}
        unknown = sorted(set(renamed) - known)
        if unknown:
            raise ValueError(f"unknown {cls.__name__} field(s): {', '.join(unknown)}")
        given = {key: _as_tuple(value) for key, value in renamed.items()}
        types = get_type_hints(cls)
        for key, value in given.items():
            if not _fits(value, types[key]):
                raise ValueError(f"{cls.__name__} field '{key}' cannot be {value!r:.50}")
        return cls(**given)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def _fits(value: Any, declared: Any) -> bool:
    """Return whether a value has the type that a field declares; numbers must be finite."""
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if declared in (int, float):
        numbers = (int, float) if declared is float else (int,)
        return isinstance(value, numbers) and not isinstance(value, bool) and abs(value) < _LARGEST
    return isinstance(value, origin or declared)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
