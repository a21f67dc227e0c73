"""Systems of a comparison and the trainings that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.models import catalog
from MaskSAMCore.presets import all_presets, preset_names

Prompt = Literal["none", "box", "boxes"]

# Short names of trainings and checkpoints, with their default presets and catalog names.
TRAININGS = {"masksam": "tiny", "masam": "masam_tiny", "unet": "unet"}
NNUNET = "nnunet"
CHECKPOINTS = {"sam": "sam_vit_b", "medsam": "medsam"}
# Names that stand for several systems.
GROUPS = {
    "table4": tuple(f"ablation_b{number}" for number in range(1, 10)),
    "prompt_forms": ("tiny_masks", "tiny_boxes", "tiny_both", "ablation_b9"),
    "baselines": ("samed_tiny", "med_sa_tiny", "3dsam_adapter_tiny", "sam3d_tiny"),
}
DEFAULT_SYSTEMS = (
    "masksam",
    "masksam-box",
    "masksam-boxes",
    "masam",
    "masam-box",
    "unet",
    "sam-boxes",
    "medsam-boxes",
)


@dataclass(frozen=True)
class System:
    """A system of the comparison: a model, and the prompts it receives.

    Attributes:
        name: name that the user gave.
        training: name of the system's training; empty for a SAM checkpoint.
        checkpoint: name of a SAM checkpoint in the catalog; empty for a trained system.
        prompt: boxes of the reference that the system receives: "none", one "box" in space around
            each class, or "boxes" around each class on each slice.
    """

    name: str
    training: str
    checkpoint: str
    prompt: Prompt


@dataclass(frozen=True)
class Training:
    """A training that one or several systems share.

    Attributes:
        name: name of the training.
        preset: name of the preset; empty for a given run, "nnunet" for nnU-Net itself.
        given: run folder of an earlier training, or None.
    """

    name: str
    preset: str
    given: Path | None = None

    @property
    def is_nnunet(self) -> bool:
        """True for nnU-Net itself, which has its own commands and settings."""
        return self.preset == NNUNET

    @property
    def is_ours(self) -> bool:
        """True for a training with one of our presets."""
        return self.given is None and not self.is_nnunet

    def to_dict(self) -> dict[str, Any]:
        """Return the training in plain types for JSON."""
        return {
            "name": self.name,
            "preset": self.preset,
            "given": None if self.given is None else str(self.given),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Training:
        """Build a training from the plain types of :meth:`to_dict`."""
        given = values["given"]
        return cls(values["name"], values["preset"], None if given is None else Path(given))


def expand_groups(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of systems with each group replaced by its members, each name once."""
    return tuple(dict.fromkeys(one for name in names for one in GROUPS.get(name, (name,))))


def find_systems(
    names: Sequence[str], runs: Mapping[str, Path], presets: Mapping[str, str]
) -> tuple[list[System], dict[str, Training]]:
    """Return the systems with the given names, and the trainings they need by name.

    Args:
        names: names of trainings ("masksam", "masam", "unet", "nnunet", any preset, or a name in
            ``runs``) or checkpoints ("sam", "medsam", or a name in the catalog), followed by "-box"
            or "-boxes" for a system that receives boxes of the reference.
        runs: folders of finished trainings by name.
        presets: preset names by training, in place of the defaults.

    Raises:
        MaskSAMError: a name is unknown, occurs twice, is a checkpoint without boxes, or is nnU-Net
            with boxes.
    """
    systems: list[System] = []
    trainings: dict[str, Training] = {}
    for name in names:
        base, prompt = _split_name(name)
        if any(system.name == name for system in systems):
            raise MaskSAMError(f"system '{name}' occurs twice")
        checkpoint = "" if base in runs else _checkpoint(base)
        if checkpoint:
            if prompt == "none":
                raise MaskSAMError(f"'{name}' needs boxes: compare {name}-box or {name}-boxes")
            systems.append(System(name, "", checkpoint, prompt))
            continue
        systems.append(System(name, base, "", prompt))
        if base in runs:
            trainings[base] = Training(base, "", Path(runs[base]))
            continue
        if base == NNUNET and base not in presets:
            if prompt != "none":
                raise MaskSAMError("nnU-Net accepts no boxes: compare nnunet")
            trainings[base] = Training(base, NNUNET)
            continue
        preset = presets.get(base, TRAININGS.get(base, base))
        if preset not in all_presets():
            known = ", ".join([*TRAININGS, NNUNET, *CHECKPOINTS])
            raise MaskSAMError(
                f"unknown system '{name}': choose {known}, a preset ({preset_names()}) or the NAME"
                " of a --run"
            )
        trainings[base] = Training(base, preset)
    if not systems:
        raise MaskSAMError("there is no system to compare: name some with --systems")
    for given, kind in ((runs, "--run"), (presets, "--preset")):
        unused = sorted(set(given) - set(trainings))
        if unused:
            raise MaskSAMError(f"{kind} {unused[0]}=… belongs to no system of the comparison")
    return systems, trainings


def _split_name(name: str) -> tuple[str, Prompt]:
    """Split the name of a system into its training or checkpoint, and its prompt."""
    if name.endswith("-boxes"):
        return name.removesuffix("-boxes"), "boxes"
    if name.endswith("-box"):
        return name.removesuffix("-box"), "box"
    return name, "none"


def _checkpoint(base: str) -> str:
    """Return the catalog name of a checkpoint, or an empty string."""
    wanted = CHECKPOINTS.get(base, base)
    return next((e.name for e in catalog() if e.name == wanted and e.kind == "backbone"), "")
