"""Reading and writing of the files in a training's folder.

``run.json``: configuration, plan, classes, settings, seed, split, versions and device.
``best.safetensors``, ``last.safetensors``: averaged weights, without those of a frozen SAM.
``resume-a.ckpt``, ``resume-b.ckpt``: checkpoints to continue from after a stop or a kill.
``logs/``: CSV and TensorBoard logs. ``curves.png``: training curves.
``.cases/``: preprocessed cases, removed when the training is complete.
``.compiler-cache/``: files of torch.compile, removed when the training ends.
``preview.png``: contact sheet of training windows.
``fingerprint.json``: statistics of the training cases.
``validation.json``: Dice of the best weights, and the post-processing that raises it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from MaskSAMCore.data import Plan
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import MALFORMED, atomic_file, read_json, write_json
from MaskSAMCore.modeling import Network, NetworkConfig, build_model, expected_state, read_config
from MaskSAMCore.modeling.sam.checkpoint import state_mismatches
from MaskSAMCore.models.suitability import Suitability
from MaskSAMCore.training.hyperparameters import TrainSettings

RUN_FILE, VALIDATION, FINGERPRINT = "run.json", "validation.json", "fingerprint.json"
BEST, LAST = "best.safetensors", "last.safetensors"
PREVIEW = "preview.png"
# Folders that are removed have names that a user's own folder is unlikely to have.
COMPILER_CACHE = ".compiler-cache"
CASES = ".cases"
# Files of a run that could overwrite a file of the user.
WRITTEN_FILES = (RUN_FILE, VALIDATION, FINGERPRINT, BEST, LAST, PREVIEW)


@dataclass(frozen=True)
class TrainingRecord:
    """Record of everything a training was started with, saved as ``run.json``.

    Attributes:
        config: configuration of the network.
        plan: preprocessing.
        classes: names of the classes 1 to K, in order.
        values: values of the classes 1 to K in the dataset's labelmaps and in predictions.
        settings: hyperparameters.
        seed: seed of all random numbers.
        split: case names under "train" and "val".
        preset: name of the preset.
        dataset: name of the dataset.
        facts: versions, device and the like; "max_minutes" is the time budget or None,
            "sam_sha256" the SHA-256 of the frozen SAM's file, and "targets", for a training on
            labelmaps alone, the name of the file given with --targets, or None.
        label_description: description of the labels if images are synthesised from labelmaps,
            else None.
        folder: folder of the dataset when the training was begun or last resumed; empty if
            unknown.
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
    label_description: dict[str, Any] | None = None
    folder: str = ""

    @property
    def max_minutes(self) -> float | None:
        """Time budget over all parts of the training in minutes, or None."""
        return self.facts.get("max_minutes")

    def with_facts(self, **facts: Any) -> TrainingRecord:
        """Return a copy with some facts changed."""
        return replace(self, facts={**self.facts, **facts})

    def save(self, run: Path) -> None:
        """Write ``run.json`` into a run's folder."""
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
            "label_maps": self.label_description,
            "folder": self.folder,
        }
        write_json(run / RUN_FILE, values)

    @classmethod
    def load(cls, run: Path) -> TrainingRecord:
        """Read ``run.json`` from a run's folder.

        Raises:
            MaskSAMError: the folder holds no training, or its record is damaged.
        """
        path = run / RUN_FILE
        if not path.is_file():
            raise MaskSAMError(f"{run} is not a training run: it has no {RUN_FILE}")
        values = read_json(path)
        check_command(run, values, "train")
        try:
            # Records of older versions have no values: their labelmaps held 1 to K.
            consecutive = range(1, len(values["classes"]) + 1)
            config = read_config(values["config"])
            record = cls(
                config=config,
                plan=Plan.from_dict(values["plan"]),
                classes=tuple(str(name) for name in values["classes"]),
                values=tuple(int(v) for v in values.get("values", consecutive)),
                settings=TrainSettings.from_dict(values["settings"], config.kind),
                seed=int(values["seed"]),
                split={side: [str(n) for n in values["split"][side]] for side in ("train", "val")},
                preset=str(values["preset"]),
                dataset=str(values["dataset"]),
                facts=dict(values["facts"]),
                label_description=values.get("label_maps"),
                folder=str(values.get("folder", "")),
            )
            record.check()
        except MALFORMED as error:
            raise MaskSAMError(f"{path} is damaged: {error}") from error
        return record

    def check(self) -> None:
        """Check that the parts of the record fit each other.

        Raises:
            ValueError: the parts do not fit each other.
        """
        if not len(self.classes) == len(self.values) == self.config.num_classes:
            raise ValueError("it has other numbers of classes, values and classes of the network")
        if len(set(self.values)) < len(self.values) or min(self.values) < 1:
            raise ValueError("the values of its classes are not different numbers from 1 up")
        if not isinstance(self.label_description, dict | None):
            raise ValueError("its description of labels is not an object")
        minutes = self.max_minutes
        if minutes is not None and not (isinstance(minutes, int | float) and minutes > 0):
            raise ValueError("its time budget is not a number of minutes")


def check_command(run: Path, values: Any, command: Literal["train", "pretrain"]) -> None:
    """Check that a run was begun by a command.

    Args:
        run: folder of the run.
        values: content of ``run.json``.
        command: ``masksam train``, or ``masksam pretrain``, whose runs list their labelmaps.

    Raises:
        MaskSAMError: the run was begun by the other command; the message says how to resume it.
    """
    if not isinstance(values, dict):
        return
    if "labelmaps" in values and command == "train":
        raise MaskSAMError(
            f"{run} is a run of masksam pretrain: continue it with masksam pretrain -o {run}"
            " --resume"
        )
    if "classes" in values and command == "pretrain":
        raise MaskSAMError(
            f"{run} is a run of masksam train: continue it with masksam train"
            f" {values.get('folder') or 'DATASET'} -o {run} --resume"
        )


def read_field_of_view(run: Path) -> list[list[float]] | None:
    """Return the extents of the training cases in mm, see :func:`field_of_view`.

    None for trainings of older versions, which did not record them.

    Raises:
        MaskSAMError: ``fingerprint.json`` cannot be read, or is damaged.
    """
    path = run / FINGERPRINT
    if not path.is_file():
        return None
    values = read_json(path)
    try:
        view: list[list[float]] | None = values.get("field_of_view_mm")
        Suitability.from_card({"field_of_view_mm": view})
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is damaged: {error}") from error
    return view


def read_validation(run: Path) -> dict[str, Any]:
    """Return the content of ``validation.json``; empty before the first validation.

    Raises:
        MaskSAMError: the file is damaged.
    """
    path = run / VALIDATION
    if not path.is_file():
        return {}
    values = read_json(path)
    try:
        return {**values, "dice": float(values["dice"])}
    except MALFORMED as error:
        raise MaskSAMError(f"{path} is damaged: {error}") from error


def best_dice(run: Path) -> float:
    """Return the Dice of the best weights in a run, or -1 if there are none.

    The metadata of the weights is read too, because a process may be killed after it wrote the
    weights and before it wrote ``validation.json``.
    """
    if not (run / BEST).is_file():
        return -1.0
    try:
        with safe_open(run / BEST, "pt") as weights:
            noted = float((weights.metadata() or {}).get("val_dice", -1))
    except (OSError, SafetensorError):
        return -1.0
    return max(noted, read_validation(run).get("dice", -1.0))


def last_iteration(run: Path) -> int | None:
    """Return the iteration of a run's last validated weights; None without weights."""
    try:
        with safe_open(run / LAST, "pt") as weights:
            return int((weights.metadata() or {}).get("iteration", -1))
    except (OSError, SafetensorError, ValueError):
        return None


def own_weights(model: Network) -> dict[str, Tensor]:
    """Return a network's state without the weights of a frozen SAM."""
    state = model.state_dict()
    return {name: state[name].detach().contiguous() for name in model.kept_names()}


def save_weights(model: Network, path: Path, facts: dict[str, str]) -> None:
    """Write a network's own weights as safetensors, complete or not at all.

    Args:
        model: network to save; the weights of a frozen SAM are left out.
        path: file to write.
        facts: metadata of the file.
    """
    with atomic_file(path) as temporary:
        # The file writer of safetensors raises its own type of error when the disk is full.
        temporary.write_bytes(save(own_weights(model), facts))


def load_weights(record: TrainingRecord, path: Path) -> Network:
    """Build the network of a run and load weights of the run; those of a frozen SAM remain random.

    Raises:
        MaskSAMError: the file does not exist or does not fit the network.
    """
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist yet: train until the first validation")
    found = read_weights(path)
    try:
        # The network of a damaged record may be too large for memory: compare the shapes first.
        wrong = first_mismatches(found, expected_state(record.config))
    except ValueError as error:
        raise MaskSAMError(f"the run's network cannot be built: {error}") from error
    if wrong:
        raise MaskSAMError(f"{path} does not fit the run's network: {wrong}")
    model = build_model(record.config)
    model.load_state_dict(found, strict=False)
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights.

    Raises:
        MaskSAMError: the file cannot be read.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise MaskSAMError(f"{path} cannot be read: it is damaged or incomplete") from error


def first_mismatches(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Describe the first weights that do not fit a network; empty if all fit."""
    wrong = state_mismatches(found, wanted)
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more
