"""Losses of the networks.

The loss of a network is a module named after the network's kind in this package, or the module
``loss`` in the network's own package (see :mod:`MaskSAMCore.modeling.registry`). It has

- ``LossSettings``, a frozen dataclass derived from
  :class:`~MaskSAMCore.modeling.configuration.Configuration`,
- ``training_loss(model, images, labels, settings, rng)``, and
- ``generator_loss(model, images, labels, settings)`` if the network has a prompt generator that can
  be trained without the decoder.

Both functions return the loss, and its parts for the log as tensors without gradient.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from MaskSAMCore.modeling.configuration import Configuration
from MaskSAMCore.modeling.registry import network_package


def find_loss(kind: str) -> Any:
    """Return the module with the loss of a network.

    Raises:
        ValueError: there is no such network.
    """
    name = f"{__name__}.{kind}"
    if importlib.util.find_spec(name) is None:
        name = f"{network_package(kind).__name__}.loss"
    return importlib.import_module(name)


def read_loss_settings(values: Mapping[str, Any], kind: str) -> Configuration:
    """Build the settings of a network's loss from the plain types of their ``to_dict``.

    Raises:
        ValueError: the network or a key is unknown.
    """
    settings: Configuration = find_loss(kind).LossSettings.from_dict(values)
    return settings
