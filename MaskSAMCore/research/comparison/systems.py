"""What can be compared, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling.presets import PRESETS, preset_names
from MaskSAMCore.models import catalog

Prompt = Literal["none", "box", "boxes"]

# The systems of the papers by their own names, and the presets that stand for them.
TRAININGS = {"masksam": "tiny", "masam": "masam_tiny", "unet": "unet"}
CHECKPOINTS = {"sam": "sam_vit_b", "medsam": "medsam"}
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
    """A line of the comparison.

    Attributes:
        name: as it was asked for.
        training: of a system that is trained, the name of its run; else empty.
        checkpoint: of a SAM as it is, its name in the catalog; else empty.
        prompt: what it is given of the reference: "none", a "box" in space around each class, or
            "boxes" of each class on each slice.
    """

    name: str
    training: str
    checkpoint: str
    prompt: Prompt


@dataclass(frozen=True)
class Training:
    """A run that systems share.

    Attributes:
        name: of the run.
        preset: what is trained; empty for a run that was given.
        given: the folder of a run that was trained before, or None.
    """

    name: str
    preset: str
    given: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return {
            "name": self.name,
            "preset": self.preset,
            "given": None if self.given is None else str(self.given),
        }


def find_systems(
    names: Sequence[str], runs: Mapping[str, Path], presets: Mapping[str, str]
) -> tuple[list[System], dict[str, Training]]:
    """The systems of some names, and the trainings they need.

    Args:
        names: each of a training ("masksam", "masam", "unet", any preset, or a name in ``runs``) or
            of a checkpoint ("sam", "medsam", or its name in the catalog), with "-box" or "-boxes"
            behind it where it is given boxes of the reference.
        runs: folders of finished trainings, by name.
        presets: other presets for some of the trainings.

    Raises:
        MaskSAMError: a name is unknown, stands there twice, or is a checkpoint without boxes.
    """
    systems: list[System] = []
    trainings: dict[str, Training] = {}
    for name in names:
        base, prompt = _parted(name)
        if any(system.name == name for system in systems):
            raise MaskSAMError(f"system '{name}' stands there twice")
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
        preset = presets.get(base, TRAININGS.get(base, base))
        if preset not in PRESETS:
            known = ", ".join([*TRAININGS, *CHECKPOINTS])
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
            raise MaskSAMError(f"{kind} {unused[0]}=… is of no system that is compared")
    return systems, trainings


def _parted(name: str) -> tuple[str, Prompt]:
    if name.endswith("-boxes"):
        return name.removesuffix("-boxes"), "boxes"
    if name.endswith("-box"):
        return name.removesuffix("-box"), "box"
    return name, "none"


def _checkpoint(base: str) -> str:
    wanted = CHECKPOINTS.get(base, base)
    return next((e.name for e in catalog() if e.name == wanted and e.kind == "backbone"), "")
