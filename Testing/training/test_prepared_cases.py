"""Cases that are preprocessed once for a training and its resumed parts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.data.case_cache import CaseCache
from MaskSAMCore.data.dataset import examine_cases, examine_dataset
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.evaluation import dice_scores
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.io import write_volume
from MaskSAMCore.training.prepared_cases import CasePreparation, ExaminedCase, PreparedCases
from MaskSAMCore.training.validation import Evaluator
from Testing.helpers.generated import write_dataset
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    LABELS,
    ThresholdModel,
    plan_for,
    two_blobs,
)

PLAN = Plan("SAR", (2.0, 1.0, 1.0), (4, 8, 8), (ChannelNormalization(),), ("MR0",))
SPLIT = {"train": ["case_00", "case_01"], "val": ["case_02"]}


def prepare(
    folder: Path,
    cache: Path,
    plan: Plan = PLAN,
    split: dict[str, list[str]] = SPLIT,
) -> PreparedCases:
    dataset, _ = examine_dataset(folder)
    preparation = CasePreparation(dataset, split, plan, False, CaseCache(cache))
    names = preparation.missing()
    examined = dict(zip(names, examine_cases(dataset, names, ExaminedCase.of), strict=True))
    lines: list[str] = []
    prepared = preparation.prepare(examined, lines.append)
    assert len(lines) == bool(names), "the size is told before anything is written"
    assert not lines or f"preprocessing {len(names)} cases once" in lines[0]
    return prepared


def written(cache: Path) -> dict[str, int]:
    """Return the times at which the entries of a cache were written, by the names of the cases."""
    return {
        path.name.rpartition("-")[0]: path.stat().st_mtime_ns for path in sorted(cache.iterdir())
    }


def test_only_new_and_changed_cases_are_preprocessed_again(tmp_path: Path):
    folder, cache = write_dataset(tmp_path / "data", cases=3), tmp_path / "cases"
    prepare(folder, cache)
    before = written(cache)
    prepare(folder, cache)
    assert written(cache) == before
    changed = folder / "labelsTr/case_01.nii.gz"
    shutil.copy(folder / "imagesTr/case_00_0000.nii.gz", folder / "imagesTr/case_01_0000.nii.gz")
    shutil.copy(folder / "labelsTr/case_00.nii.gz", changed)
    found = prepare(folder, cache)
    CaseCache(cache).remove_others(found.entries)
    after = written(cache)
    assert {name for name in after if after[name] != before[name]} == {"case_01"}
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(changed)))
    labelmap = found.cases[1].open().labelmap
    assert [(labelmap == value).sum() for value in (1, 2)] == [(truth == n).sum() for n in (1, 2)]


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": (2.0, 1.5, 1.0)},
        {"orientation": "RSA"},
        {"normalization": (ChannelNormalization("ct", 1.0, 2.0, -5.0, 5.0),)},
    ],
)
def test_another_plan_has_other_entries(changes: dict, tmp_path: Path):
    folder, cache = write_dataset(tmp_path / "data", cases=3), tmp_path / "cases"
    first = prepare(folder, cache)
    other = prepare(folder, cache, replace(PLAN, **changes))
    assert not first.entries & other.entries
    assert len(list(cache.iterdir())) == 6
    # The window is cut out of the cases and changes none of them.
    assert prepare(folder, cache, replace(PLAN, window=(2, 4, 4))).entries == first.entries


def test_a_case_that_moves_to_the_other_side_of_the_split_gets_another_entry(tmp_path: Path):
    folder, cache = write_dataset(tmp_path / "data", cases=3), tmp_path / "cases"
    first = prepare(folder, cache)
    other = prepare(folder, cache, split={"train": ["case_02", "case_01"], "val": ["case_00"]})
    assert len(first.entries & other.entries) == 1
    assert first.cases[0].open().reference is None
    assert other.validation[0].open().reference is not None


def test_a_full_disk_is_one_clear_error_and_leaves_no_part_of_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, cache = write_dataset(tmp_path / "data", cases=3), tmp_path / "cases"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        with pytest.raises(MaskSAMError, match=r"^cannot write .*: no space left on device$"):
            prepare(folder, cache)
    assert not list(cache.iterdir())
    assert len(prepare(folder, cache).entries) == 3


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.6, 1.0, 0.8)])
def test_cached_cases_get_the_dice_of_their_segmentations(
    geometry: str, spacing: tuple[float, float, float], tmp_path: Path
):
    image = two_blobs()
    truth = image.astype(np.uint8)
    volume = Volume(image, GEOMETRIES[geometry])
    folder = tmp_path / "data"
    for number in range(3):
        for name, array in (("imagesTr", image), ("labelsTr", truth)):
            suffix = "_0000" if name == "imagesTr" else ""
            target = folder / name / f"case_{number:02d}{suffix}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_volume(replace(volume, array=array), target)
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    description = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    plan = plan_for(spacing=spacing)
    prepared = prepare(folder, tmp_path / "cases", plan)
    scores = Evaluator(prepared.validation, ["Anterior", "Posterior"], [1, 2]).score(
        ThresholdModel(), "cpu"
    )
    segmenter = MaskSegmenter(ThresholdModel(), plan, LABELS, device="cpu")
    found = segmenter.segment(volume).labelmap
    assert list(scores.dice.values()) == pytest.approx(dice_scores(found, truth, (1, 2)))
    if spacing == (1.0, 1.0, 1.0):
        assert scores.mean == 1
