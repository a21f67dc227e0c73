"""Loading of the models that a command names, including trainings and ensembles."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from MaskSAMCore.errors import MaskSAMError

if TYPE_CHECKING:
    from MaskSAMCore.inference import Segmenter

# File that marks the folder of a training; named here to avoid importing the training package.
_RUN_FILE = "run.json"


def load_segmenter(models: Sequence[str], device: str) -> Segmenter:
    """Load models as one segmenter.

    Args:
        models: names in the catalog, paths of bundles, or folders of trainings, whose best weights
            are loaded. The probabilities of several models are averaged.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        MaskSAMError: a model cannot be loaded, or several models do not fit each other.
    """
    from MaskSAMCore.inference import EnsembleSegmenter, Segmenter

    with tempfile.TemporaryDirectory(prefix="masksam-") as folder:
        bundles = [_bundle(model, Path(folder) / str(i)) for i, model in enumerate(models)]
        if len(bundles) == 1:
            return Segmenter.from_model(bundles[0], device=device)
        return EnsembleSegmenter.from_model(bundles, device=device)


def is_training(model: str) -> bool:
    """Return whether the name of a model is the folder of a training."""
    return (Path(model) / _RUN_FILE).is_file()


def _bundle(model: str, folder: Path) -> str | Path:
    """Return the name or path of a model to load; a training is exported to a bundle first.

    Args:
        model: name in the catalog, path of a bundle, or folder of a training.
        folder: folder for the bundle of a training; it does not exist yet.
    """
    if not is_training(model):
        return model
    run = Path(model)
    try:
        from MaskSAMCore.training.export import export_run
    except ImportError as error:
        raise MaskSAMError(
            f"{run} is a training, which needs '{error.name}': pip install masksam[train], or"
            " export it elsewhere"
        ) from error
    folder.mkdir()
    export_run(run, folder / "model", {"name": run.resolve().name})
    return folder / "model"
