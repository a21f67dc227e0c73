"""Weights that a new training starts from: a finished model's, or another run's."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import Network, kept_names
from MaskSAMCore.modeling.sam.build import mismatches
from MaskSAMCore.models.bundle import WEIGHTS
from MaskSAMCore.training.run_folder import BEST, LAST


def start_from(model: Network, folder: Path) -> None:
    """Puts the trained weights of a bundle or a run into a network of the same form.

    Args:
        model: a network, newly made.
        folder: a model's folder, or a run's, whose best weights are taken.

    Raises:
        MaskSAMError: there are no weights, or they are those of another network.
    """
    for name in (WEIGHTS, BEST, LAST):
        if (folder / name).is_file():
            break
    else:
        raise MaskSAMError(f"{folder} holds no weights to start from: give a model or a run")
    try:
        found = load_file(folder / name)
    except (SafetensorError, OSError) as error:
        raise MaskSAMError(f"{folder / name} cannot be read: {error}") from error
    state = model.state_dict()
    wrong = mismatches(found, {name: state[name] for name in kept_names(model)})
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise MaskSAMError(
            f"{folder} holds the weights of another network: {'; '.join(wrong[:3])}{more}:"
            " start from a model of the same preset, window and number of classes"
        )
    model.load_state_dict(found, strict=False)
