"""Weights of a model or of another training that a new training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import MaskSAM, Network
from MaskSAMCore.modeling.masksam.inheritance import inherit_weights
from MaskSAMCore.models.bundle import WEIGHTS, load_bundle
from MaskSAMCore.models.catalog import DESCRIPTION
from MaskSAMCore.training.run_folder import (
    BEST,
    LAST,
    RUN_FILE,
    TrainingRecord,
    first_mismatches,
    load_weights,
    read_weights,
)


def load_initial_weights(model: Network, folder: Path, classes: Sequence[str]) -> dict[str, str]:
    """Load the trained weights of a model or of another run into a new network.

    The weights may be those of a MaskSAM for other classes or larger windows. A class that it has
    by the same name starts as this class, the others as those of its classes that are left, in
    order.

    Parameters that the file lacks keep their initial values if these are zeros, which have no
    effect.

    Args:
        model: network to initialise.
        folder: folder of a model bundle, or of a run, whose best weights are taken.
        classes: names of the network's classes 1 to K.

    Returns:
        The class that each class of the network comes from, if the weights are those of a network
        for other classes or windows; empty if all weights fit as they are.

    Raises:
        MaskSAMError: the folder holds no weights, or the weights of another network.
    """
    for name in (WEIGHTS, BEST, LAST):
        if (folder / name).is_file():
            break
    else:
        raise MaskSAMError(f"{folder} holds no weights to start from: give a model or a run")
    found = read_weights(folder / name)
    state = model.state_dict()
    wanted = {key: state[key] for key in model.kept_names()}
    new = {key: value for key, value in wanted.items() if key not in found and not value.any()}
    wrong = first_mismatches(found, {key: wanted[key] for key in wanted if key not in new})
    if not wrong:
        model.load_state_dict(found, strict=False)
        return {}
    try:
        return _inherit(model, folder, folder / name, classes)
    except ValueError as error:
        raise MaskSAMError(
            f"{folder} holds the weights of another network: {wrong}: start from a model of the"
            f" same preset ({error})"
        ) from error


def _inherit(model: Network, folder: Path, weights: Path, classes: Sequence[str]) -> dict[str, str]:
    """Initialise a network from one for other classes; see :func:`load_initial_weights`.

    Raises:
        MaskSAMError: the model or the run is damaged.
        ValueError: the folder holds no network of the same parts.
    """
    if model.config.frozen_sam is not None:
        raise ValueError("a network with a frozen SAM starts only from one for the same classes")
    if (folder / DESCRIPTION).is_file():
        bundle = load_bundle(folder, with_estimator=False)
        if bundle.config.frozen_sam is not None:
            raise ValueError("its SAM is frozen")
        source, former = bundle.build(), [label.name for label in bundle.labels]
    elif (folder / RUN_FILE).is_file():
        record = TrainingRecord.load(folder)
        source, former = load_weights(record, weights), list(record.classes)
    else:
        raise ValueError("nothing in the folder describes its network")
    if not isinstance(model, MaskSAM) or not isinstance(source, MaskSAM):
        raise ValueError("only MaskSAM's networks can start from one for other classes")
    origins = class_origins(classes, former)
    shown = [index % source.config.queries for index in range(len(former) + 1)]
    inherit_weights(model, source, origins, shown)
    return {name: former[origin - 1] for name, origin in zip(classes, origins, strict=True)}


def class_origins(classes: Sequence[str], former: Sequence[str]) -> list[int]:
    """Return the index, from 1, of the former class that each class starts as.

    Args:
        classes: names of the new classes.
        former: names of the classes of the network that the new one starts from.
    """
    indices = {name.casefold(): index for index, name in enumerate(former, start=1)}
    named = [indices.get(name.casefold()) for name in classes]
    left = [index for index in indices.values() if index not in named] or list(indices.values())
    origins = []
    others = 0
    for index in named:
        if index is None:
            index = left[others % len(left)]
            others += 1
        origins.append(index)
    return origins
