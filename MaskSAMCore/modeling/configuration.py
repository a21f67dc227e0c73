"""Frozen dataclasses that are saved as JSON and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Configuration:
    """Base class of all configurations: numbers, strings, tuples and further configurations.

    Attributes:
        renamed_keys: former names of fields in saved files, and the names they have now.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from the plain types of :meth:`to_dict`.

        Raises:
            ValueError: a key is unknown; the message names it.
        """
        known = {field.name for field in fields(cls)}
        renamed = {cls.renamed_keys.get(key, key): value for key, value in values.items()}
        unknown = sorted(set(renamed) - known)
        if unknown:
            raise ValueError(f"unknown {cls.__name__} field(s): {', '.join(unknown)}")
        return cls(**{key: _as_tuple(value) for key, value in renamed.items()})

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
