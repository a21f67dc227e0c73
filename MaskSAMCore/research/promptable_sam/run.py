"""Folder of a SAM's training, with its record and the trained SAM.

``run.json``: configuration, hyperparameters, seed, labelmaps, versions and device.
``best.safetensors``, ``last.safetensors``: averaged weights under segment-anything's own names.
The other files are those of any training, see :mod:`MaskSAMCore.training.run_folder`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import MALFORMED, read_json, write_json
from MaskSAMCore.modeling.sam.checkpoint import state_mismatches
from MaskSAMCore.modeling.sam.predictor import PlainSam
from MaskSAMCore.research.promptable_sam.config import PromptableSamConfig
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.run_folder import BEST, LAST, RUN_FILE, check_command


@dataclass(frozen=True)
class PretrainRecord:
    """Record of everything a SAM's training was started with, saved as ``run.json``.

    Attributes:
        config: configuration of the SAM.
        settings: hyperparameters.
        seed: seed of all random numbers.
        objects: number of objects that are prompted on each slice.
        labelmaps: files of the labelmaps that slices are synthesised from.
        validation: files of held-out labelmaps for validation; if empty, ``labelmaps`` are used.
        facts: versions, device and the like; "max_minutes" is the time budget or None.
    """

    config: PromptableSamConfig
    settings: TrainSettings
    seed: int
    objects: int
    labelmaps: tuple[str, ...]
    validation: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def max_minutes(self) -> float | None:
        """Time budget over all parts of the training in minutes, or None."""
        return self.facts.get("max_minutes")

    def with_budget(self, minutes: float | None, iterations: int | None) -> PretrainRecord:
        """Return a copy with a new budget of time or steps; the record itself without a budget."""
        if minutes is None and iterations is None:
            return self
        settings = self.settings
        if iterations is not None:
            settings = settings.replace(iterations=iterations)
        return replace(self, settings=settings, facts={**self.facts, "max_minutes": minutes})

    def save(self, run: Path) -> None:
        """Write ``run.json`` into a run's folder."""
        values = {
            "config": self.config.to_dict(),
            "settings": self.settings.to_dict(),
            "seed": self.seed,
            "objects": self.objects,
            "labelmaps": list(self.labelmaps),
            "validation": list(self.validation),
            "facts": self.facts,
        }
        write_json(run / RUN_FILE, values)

    @classmethod
    def load(cls, run: Path) -> PretrainRecord:
        """Read ``run.json`` from a run's folder.

        Raises:
            MaskSAMError: the folder holds no training of a SAM, or its record is damaged.
        """
        path = run / RUN_FILE
        if not path.is_file():
            raise MaskSAMError(f"{run} holds no training of a SAM: it has no {RUN_FILE}")
        values = read_json(path)
        check_command(run, values, "pretrain")
        try:
            record = cls(
                config=PromptableSamConfig.from_dict(values["config"]),
                settings=TrainSettings.from_dict(values["settings"], PromptableSamConfig.kind),
                seed=int(values["seed"]),
                objects=int(values["objects"]),
                labelmaps=tuple(str(path) for path in values["labelmaps"]),
                validation=tuple(str(path) for path in values["validation"]),
                facts=dict(values["facts"]),
            )
            minutes = record.max_minutes
            if minutes is not None and not (isinstance(minutes, int | float) and minutes > 0):
                raise ValueError("its time budget is not a number of minutes")
        except MALFORMED as error:
            raise MaskSAMError(f"{path} is damaged: {error}") from error
        return record


def open_sam(run: Path, last: bool = False) -> PlainSam:
    """Build the SAM of a training, ready for inference.

    Args:
        run: folder of the training.
        last: take the last weights in place of those with the best validation Dice.

    Raises:
        MaskSAMError: the folder holds no training of a SAM, or has no usable weights yet.
    """
    record = PretrainRecord.load(run)
    path = run / (LAST if last else BEST)
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist yet: train until the first validation")
    model = PlainSam(record.config.sam, record.config.window[1], fills_boxes=True)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise MaskSAMError(f"{path} cannot be read: it is damaged or incomplete") from error
    if problems := state_mismatches(state, model.sam.state_dict()):
        raise MaskSAMError(f"{path} does not fit the run's SAM: {'; '.join(problems[:3])}")
    model.sam.load_state_dict(state)
    return model.eval().requires_grad_(False)
