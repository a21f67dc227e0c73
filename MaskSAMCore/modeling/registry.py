"""All networks of the product, by what their descriptions say: one place that knows them."""

from __future__ import annotations

from typing import Any, overload

from MaskSAMCore.modeling.masam.config import MASamConfig
from MaskSAMCore.modeling.masam.network import MASam
from MaskSAMCore.modeling.masksam.config import MaskSAMConfig
from MaskSAMCore.modeling.masksam.network import MaskSAM
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.research.unet.network import UNet

NetworkConfig = MaskSAMConfig | MASamConfig | UNetConfig
Network = MaskSAM | MASam | UNet

# What "network" says in a description; MaskSAM's own has no such key.
_CONFIGS: dict[str, Any] = {"masksam": MaskSAMConfig, "masam": MASamConfig, "unet": UNetConfig}


def read_config(values: dict[str, Any]) -> NetworkConfig:
    """The configuration of a network from plain types, as its ``to_dict`` gave them.

    Raises:
        ValueError: the network is of an unknown kind, or a key is unknown.
    """
    kind = values.get("network", "masksam")
    if kind not in _CONFIGS:
        raise ValueError(f"unknown network '{kind}': choose one of {', '.join(_CONFIGS)}")
    config: NetworkConfig = _CONFIGS[kind].from_dict(values)
    return config


@overload
def build_model(config: MaskSAMConfig) -> MaskSAM: ...


@overload
def build_model(config: MASamConfig) -> MASam: ...


@overload
def build_model(config: UNetConfig) -> UNet: ...


def build_model(config: NetworkConfig) -> Network:
    """A network of this configuration, randomly initialised (SAM included)."""
    if isinstance(config, MASamConfig):
        return MASam(config)
    if isinstance(config, UNetConfig):
        return UNet(config)
    return MaskSAM(config)


def kept_names(model: Network) -> list[str]:
    """Names of the state to keep with a model: all of it, each tensor once, but for what the file
    of a frozen SAM gives."""
    state = set(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    names += [name for name, _ in model.named_buffers()]
    if model.config.frozen_sam is not None:
        trained = model.trained_parameters()
        names = [name for name in names if not name.startswith("sam.") or name in trained]
    return [name for name in names if name in state]
