"""Weights of a model or of another training that a new training starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import MaskSAM, Network, NetworkConfig
from MaskSAMCore.modeling.masksam.inheritance import inherit_weights
from MaskSAMCore.models.bundle import WEIGHTS, load_bundle
from MaskSAMCore.models.catalog import DESCRIPTION
from MaskSAMCore.models.store import open_model
from MaskSAMCore.training.run_folder import (
    BEST,
    LAST,
    RUN_FILE,
    TrainingRecord,
    first_mismatches,
    load_weights,
    read_weights,
)


def load_initial_weights(model: Network, given: Path, classes: Sequence[str]) -> dict[str, str]:
    """Load the trained weights of a model or of another run into a new network.

    The weights may be those of a MaskSAM for other classes or larger windows. A class that it has
    by the same name starts as this class, the others as those of its classes that are left, in
    order.

    Parameters that the file lacks keep their initial values if these are zeros, which have no
    effect.

    Args:
        model: network to initialise.
        given: folder or zip of a model bundle, or folder of a run, whose best weights are taken.
        classes: names of the network's classes 1 to K.

    Returns:
        The class that each class of the network comes from; empty if all weights are loaded as they
        are.

    Raises:
        MaskSAMError: the folder holds no weights, or the weights of another network.
    """
    opened = open_model(given, with_estimator=False)[0].folder if given.is_file() else given
    for name in (WEIGHTS, BEST, LAST):
        if (opened / name).is_file():
            break
    else:
        raise MaskSAMError(f"{given} holds no weights to start from: give a model or a run")
    found = read_weights(opened / name)
    state = model.state_dict()
    wanted = {key: state[key] for key in model.kept_names()}
    new = {key: value for key, value in wanted.items() if key not in found and not value.any()}
    wrong = first_mismatches(found, {key: wanted[key] for key in wanted if key not in new})
    source = _source(opened, opened / name)
    if not wrong and (source is None or _folded(source.classes) == _folded(classes)):
        model.load_state_dict(found, strict=False)
        return {}
    try:
        return _inherit(model, source, classes)
    except ValueError as error:
        if wrong:
            raise MaskSAMError(
                f"{given} holds the weights of another network: {wrong}: start from a model of"
                f" the same preset ({error})"
            ) from error
        model.load_state_dict(found, strict=False)
        return {}


@dataclass(frozen=True)
class _Source:
    """Trained network whose description is known.

    Attributes:
        classes: names of its classes 1 to K.
        config: configuration of the network.
        build: function that returns the network with its weights.
    """

    classes: Sequence[str]
    config: NetworkConfig
    build: Callable[[], Network]


def _source(folder: Path, weights: Path) -> _Source | None:
    """Return the network of a bundle or a run; None if the folder holds weights alone.

    Raises:
        MaskSAMError: the bundle or the run is damaged.
    """
    if (folder / DESCRIPTION).is_file():
        bundle = load_bundle(folder, with_estimator=False)
        return _Source([label.name for label in bundle.labels], bundle.config, bundle.build)
    if (folder / RUN_FILE).is_file():
        record = TrainingRecord.load(folder)
        return _Source(record.classes, record.config, partial(load_weights, record, weights))
    return None


def _inherit(model: Network, source: _Source | None, classes: Sequence[str]) -> dict[str, str]:
    """Initialise a network from one for other classes; see :func:`load_initial_weights`.

    Raises:
        MaskSAMError: the weights are damaged.
        ValueError: the source is not a network of the same parts.
    """
    if source is None:
        raise ValueError("nothing in the folder describes its network")
    if model.config.frozen_sam is not None or source.config.frozen_sam is not None:
        raise ValueError("a network with a frozen SAM starts only from one for the same classes")
    network = source.build()
    if not isinstance(model, MaskSAM) or not isinstance(network, MaskSAM):
        raise ValueError("only MaskSAM's networks can start from one for other classes")
    origins = class_origins(classes, source.classes)
    shown = [index % network.config.queries for index in range(len(source.classes) + 1)]
    inherit_weights(model, network, origins, shown)
    return {name: source.classes[origin - 1] for name, origin in zip(classes, origins, strict=True)}


def _folded(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]


def class_origins(classes: Sequence[str], former: Sequence[str]) -> list[int]:
    """Return the index, from 1, of the former class that each class starts as.

    Args:
        classes: names of the new classes.
        former: names of the classes of the network that the new one starts from.
    """
    indices = {name.casefold(): index for index, name in enumerate(former, start=1)}
    named = [indices.get(name.casefold()) for name in classes]
    left = [index for index in indices.values() if index not in named] or list(indices.values())
    others = cycle(left)
    return [next(others) if index is None else index for index in named]
