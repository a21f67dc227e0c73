"""Names of systems, and the trainings they share."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.research.comparison.systems import DEFAULT_SYSTEMS, expand_groups, find_systems


def test_the_default_systems_share_three_trainings_and_two_checkpoints():
    systems, trainings = find_systems(DEFAULT_SYSTEMS, {}, {})
    assert {t.name: t.preset for t in trainings.values()} == {
        "masksam": "tiny",
        "masam": "masam_tiny",
        "unet": "unet",
    }
    assert [s.prompt for s in systems] == [
        "none", "box", "boxes", "none", "box", "none", "boxes", "boxes",
    ]  # fmt: skip
    assert [s.checkpoint for s in systems[-2:]] == ["sam_vit_b", "medsam"]


def test_presets_and_given_runs_are_systems():
    systems, trainings = find_systems(
        ["masksam", "ablation_b1", "mine-boxes"], {"mine": Path("run")}, {"masksam": "acdc"}
    )
    assert [(t.name, t.preset) for t in trainings.values()] == [
        ("masksam", "acdc"),
        ("ablation_b1", "ablation_b1"),
        ("mine", ""),
    ]
    assert systems[-1].training == "mine" and systems[-1].prompt == "boxes"


def test_groups_of_systems_have_one_name():
    names = expand_groups(["table4", "prompt_forms", "unet"])
    assert names[0] == "ablation_b1" and names[8] == "ablation_b9" and len(names) == 13
    systems, trainings = find_systems(names, {}, {})
    assert [system.name for system in systems] == list(names) == list(trainings)


@pytest.mark.parametrize(
    ("names", "runs", "presets", "message"),
    [
        (["nnformer"], {}, {}, "'nnformer': choose masksam, masam, unet, nnunet, sam"),
        (["nnunet-box"], {}, {}, "nnU-Net accepts no boxes: compare nnunet"),
        (["sam"], {}, {}, "needs boxes: compare sam-box or sam-boxes"),
        (["unet", "unet"], {}, {}, "'unet' occurs twice"),
        ([], {}, {}, "no system to compare"),
        (["unet"], {"mine": Path("x")}, {}, "--run mine=… belongs to no system"),
        (["unet"], {}, {"masam": "masam_b"}, "--preset masam=… belongs to no system"),
    ],
)
def test_invalid_names_are_refused(names, runs, presets, message: str):
    with pytest.raises(MaskSAMError, match=message):
        find_systems(names, runs, presets)
