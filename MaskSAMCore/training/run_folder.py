"""The folder of a training: what is in it, and how it is read back.

``run.json``: configuration, plan, classes, settings, seed, split, versions, device.
``best.safetensors``, ``last.safetensors``: averaged weights (with a frozen SAM, without SAM's own).
``resume-a.ckpt``, ``resume-b.ckpt``: to continue after a stop or a kill. ``logs/``: CSV and
TensorBoard. ``curves.png``: the curves. ``fingerprint.json``: the training cases in figures.
``validation.json``: Dice of the best weights, and where the largest component alone is better.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from MaskSAMCore.data import Plan
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import Network, NetworkConfig, build_model, kept_names, read_config
from MaskSAMCore.training.hyperparameters import TrainSettings

RUN_FILE, VALIDATION, FINGERPRINT = "run.json", "validation.json", "fingerprint.json"
BEST, LAST = "best.safetensors", "last.safetensors"
PREVIEW = "preview.png"


@dataclass(frozen=True)
class RunRecord:
    """What a run was started with.

    Attributes:
        config: the network.
        plan: the preprocessing.
        classes: names of the classes 1 to K, in order.
        values: their values in the dataset's labelmaps, which predictions carry too.
        settings: the hyperparameters.
        seed: of everything that is drawn.
        split: case names under "train" and "val".
        preset: the preset it started from.
        dataset: the dataset's name.
        facts: versions, device and the like, for people; "max_minutes", the time budget or None;
            "sam_sha256", of the file with the frozen SAM.
        label_maps: what is known of the labels where images are synthesised from them, else None.
    """

    config: NetworkConfig
    plan: Plan
    classes: tuple[str, ...]
    values: tuple[int, ...]
    settings: TrainSettings
    seed: int
    split: dict[str, list[str]]
    preset: str
    dataset: str
    facts: dict[str, Any]
    label_maps: dict[str, Any] | None = None

    @property
    def max_minutes(self) -> float | None:
        """The time budget over all parts of the training, or None."""
        return self.facts.get("max_minutes")

    def with_facts(self, **facts: Any) -> RunRecord:
        """A copy with some facts changed."""
        return replace(self, facts={**self.facts, **facts})

    def save(self, run: Path) -> None:
        """Writes ``run.json``, complete or not at all."""
        values = {
            "config": self.config.to_dict(),
            "plan": self.plan.to_dict(),
            "classes": list(self.classes),
            "values": list(self.values),
            "settings": self.settings.to_dict(),
            "seed": self.seed,
            "split": self.split,
            "preset": self.preset,
            "dataset": self.dataset,
            "facts": self.facts,
            "label_maps": self.label_maps,
        }
        write_json(run / RUN_FILE, values)

    @classmethod
    def load(cls, run: Path) -> RunRecord:
        """Reads ``run.json``.

        Raises:
            MaskSAMError: the folder is no run.
        """
        path = run / RUN_FILE
        if not path.is_file():
            raise MaskSAMError(f"{run} is not a training run: it has no {RUN_FILE}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            # Records from before the values were written down had none but these.
            plain = range(1, len(values["classes"]) + 1)
            return cls(
                config=read_config(values["config"]),
                plan=Plan.from_dict(values["plan"]),
                classes=tuple(values["classes"]),
                values=tuple(int(v) for v in values.get("values", plain)),
                settings=TrainSettings.from_dict(values["settings"]),
                seed=values["seed"],
                split=values["split"],
                preset=values["preset"],
                dataset=values["dataset"],
                facts=values["facts"],
                label_maps=values.get("label_maps"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MaskSAMError(f"{path} is damaged: {error}") from error


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file beside and renames it."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def read_validation(run: Path) -> dict[str, Any]:
    """``validation.json``; empty before the first validation.

    Raises:
        MaskSAMError: it is damaged.
    """
    path = run / VALIDATION
    if not path.is_file():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**values, "dice": float(values["dice"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MaskSAMError(f"{path} is damaged: {error}") from error


def best_dice(run: Path) -> float:
    """The Dice of the best weights in a run, or -1. A kill may come between the weights and
    ``validation.json``: the weights' own note counts too."""
    if not (run / BEST).is_file():
        return -1.0
    try:
        with safe_open(run / BEST, "pt") as weights:
            noted = float((weights.metadata() or {}).get("val_dice", -1))
    except (OSError, SafetensorError):
        return -1.0
    return max(noted, read_validation(run).get("dice", -1.0))


def own_weights(model: Network) -> dict[str, Tensor]:
    """The state to keep: everything, but for what is frozen of a SAM."""
    state = model.state_dict()
    return {name: state[name].detach().contiguous() for name in kept_names(model)}


def save_weights(model: Network, path: Path, facts: dict[str, str]) -> None:
    """Writes a model's own weights as safetensors, complete or not at all."""
    beside = path.with_suffix(".part")
    save_file(own_weights(model), beside, metadata=facts)
    os.replace(beside, path)


def load_weights(record: RunRecord, path: Path) -> Network:
    """The model of a run with weights of the run; a frozen SAM's own are left random.

    Raises:
        MaskSAMError: the weights are absent or do not fit.
    """
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist yet: train until the first validation")
    model = build_model(record.config)
    found = model.load_state_dict(load_file(path), strict=False)
    own = set(kept_names(model))
    missing = [name for name in found.missing_keys if name in own]
    if missing or found.unexpected_keys:
        raise MaskSAMError(f"{path} does not fit the run's network: {missing[:3]}")
    return model.eval()
