"""Settings of a preset that the user changes by name, ``--set key=value``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.training.preset import PlanConstraints, Preset

# Fields of the network that the dataset decides.
_OF_THE_DATASET = ("num_classes", "in_channels")
_MOST_NAMES = 5


def change_preset(preset: Preset, given: Sequence[str]) -> Preset:
    """Return a preset with some settings changed.

    Args:
        preset: preset to change.
        given: texts "key=value". A key is the full name of a field of the network, the training or
            the plan ("loss.prompts.share"), or its end if no other name ends so ("semantic"). A
            value is a number, a word, true, false or null, or several numbers separated by commas.

    Raises:
        MaskSAMError: a text has no "=", a key is unknown or not unique, or a value does not fit.
    """
    parts = {
        "network": preset.network.to_dict(),
        "training": preset.training.to_dict(),
        "plan": preset.plan.to_dict(),
    }
    del parts["network"]["network"]
    homes = {key: part for part, values in parts.items() for key in _leaves(values)}
    changes: dict[str, Any] = {}
    for text in given:
        line = " ".join(text.split())
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not name:
            raise MaskSAMError(f"--set needs key=value, such as loss.semantic=0, not '{line}'")
        key = _find_key(name, homes, preset.name)
        changes[key] = _change(parts[homes[key]], key.split("."), _parse(value))
        try:
            changed = replace(
                preset,
                network=type(preset.network).from_dict(parts["network"]),
                training=type(preset.training).from_dict(parts["training"], preset.network.kind),
                plan=PlanConstraints.from_dict(parts["plan"]),
            )
        except ValueError as error:
            raise MaskSAMError(f"--set {key}={value} cannot be used: {error}") from error
    return preset if not changes else replace(changed, changes=changes)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the full names of all settings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif prefix or name not in _OF_THE_DATASET:
            yield f"{prefix}{name}"


def _find_key(name: str, keys: Mapping[str, str], preset: str) -> str:
    """Return the full name of a setting."""
    if name in keys:
        return name
    if name in _OF_THE_DATASET:
        raise MaskSAMError(f"--set {name}: the dataset decides it")
    matches = [key for key in keys if key.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    last = {key.rpartition(".")[2]: key for key in keys}
    near = difflib.get_close_matches(name, [*keys, *last], _MOST_NAMES, 0.5)
    names = matches or list(dict.fromkeys(last.get(key, key) for key in near)) or sorted(keys)
    raise MaskSAMError(
        f"preset '{preset}' has no setting '{name}': did you mean {', '.join(names[:_MOST_NAMES])}?"
    )


def _parse(text: str) -> Any:
    """Return a value as a plain JSON type; a text that is not JSON stays a word."""
    for candidate in (text, f"[{text}]" if "," in text else "", text.lower()):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return None if text.lower() == "none" else text


def _change(values: dict[str, Any], path: Sequence[str], value: Any) -> Any:
    """Change a setting and return its new value; a number in place of a list is a list of one."""
    for name in path[:-1]:
        values = values[name]
    if isinstance(values[path[-1]], list | tuple) and isinstance(value, int | float):
        value = [value]
    values[path[-1]] = value
    return value
