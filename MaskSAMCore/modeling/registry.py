"""Lookup of networks by name.

A network is a package of ``MaskSAMCore.modeling`` or ``MaskSAMCore.research`` that has a module
``network`` and whose ``__init__`` exports

- ``Config``, a subclass of :class:`~MaskSAMCore.modeling.base.NetworkConfig` whose ``kind`` is the
  name of the package, and
- ``Network``, a subclass of :class:`~MaskSAMCore.modeling.base.Network`.

A new network is a new package: nothing else has to be edited. Its loss is found in the same way,
see :mod:`MaskSAMCore.training.losses`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from MaskSAMCore.modeling.base import Network, NetworkConfig

# Packages are found by name instead of imported, because not every installation has research.
_PARENTS = ("MaskSAMCore.modeling", "MaskSAMCore.research")
# Configurations that were saved when there was only one network do not name it.
_DEFAULT_KIND = "masksam"
# Errors of PyTorch and segment-anything for sizes that do not fit each other.
_BUILDING_ERRORS = (
    ArithmeticError,
    AssertionError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
# PyTorch's messages are cut to this many characters.
_REASON_LETTERS = 100


def network_packages() -> dict[str, str]:
    """Return the full names of the networks' packages by kind."""
    found = {}
    for parent in filter(importlib.util.find_spec, _PARENTS):
        for module in pkgutil.iter_modules(importlib.import_module(parent).__path__):
            name = f"{parent}.{module.name}"
            spec = importlib.util.find_spec(name)
            folder = None if spec is None else spec.submodule_search_locations
            if folder is not None and PathFinder.find_spec("network", list(folder)) is not None:
                found[module.name] = name
    return found


def network_package(kind: str) -> ModuleType:
    """Return the package of a network.

    Raises:
        ValueError: there is no such network.
    """
    packages = network_packages()
    if kind not in packages:
        raise ValueError(f"unknown network '{kind}': choose one of {', '.join(packages)}")
    return importlib.import_module(packages[kind])


def read_config(values: Mapping[str, Any]) -> NetworkConfig:
    """Build the configuration of a network from the plain types of its ``to_dict``.

    Raises:
        ValueError: the network or a key is unknown.
    """
    package = network_package(values.get("network", _DEFAULT_KIND))
    config: NetworkConfig = package.Config.from_dict(values)
    return config


def expected_state(config: NetworkConfig) -> dict[str, Tensor]:
    """Return the tensors that the weights of a network must contain, on the meta device.

    Tensors from the checkpoint of a frozen SAM are left out.

    Raises:
        ValueError: no network can be built from the configuration.
    """
    with torch.device("meta"):
        model = build_limited(config, None)
    state = model.state_dict()
    return {name: state[name] for name in model.kept_names()}


def build_limited(config: NetworkConfig, most: int | None) -> Network:
    """Build a randomly initialised network from a configuration that may be damaged.

    Args:
        config: description of the network.
        most: largest total number of values in the parameters; None for no limit.

    Raises:
        ValueError: no network can be built from the configuration, or its parameters have more
            values.
    """
    total = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal total
        if parameter is None:
            return
        if not parameter.numel():
            raise ValueError("a layer has no values")
        # Some networks replace a parameter when they initialise it, which must not count twice.
        former = module._parameters.get(name)
        total += parameter.numel() - (0 if former is None else former.numel())
        if most is not None and total > most:
            raise ValueError(f"it describes a network of more than {most} values")

    # The hook is called before a parameter is filled, thus before its memory is used.
    hook = register_module_parameter_registration_hook(count)
    try:
        return build_model(config)
    except _BUILDING_ERRORS as error:
        reason = " ".join(str(error).split())[:_REASON_LETTERS]
        raise ValueError(f"its configuration is damaged ({reason})") from error
    finally:
        hook.remove()


def build_model(config: NetworkConfig) -> Network:
    """Build a randomly initialised network, its SAM included."""
    network: Network = network_package(config.kind).Network(config)
    return network
