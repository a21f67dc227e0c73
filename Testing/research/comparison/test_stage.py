"""Stages of a comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.inference import SamSegmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.research.comparison.folder import Folder, read_record
from MaskSAMCore.research.comparison.prompts import reference_boxes
from MaskSAMCore.research.comparison.stage import Job, segment
from MaskSAMCore.research.comparison.systems import System, Training
from Testing.helpers.sam_reference import small_sam
from Testing.helpers.short_run import VALUES, write_gapped_dataset


def job_of(folder: Path, dataset: Path, cases: tuple[str, ...]) -> Job:
    """Return a job that segments cases on the CPU."""
    split, cache = folder / "split.json", folder / "cache"
    return Job("segment", folder / "out", dataset, split, cache, cases, "cpu")


@pytest.mark.parametrize("prompt", ["box", "boxes"])
def test_masks_of_a_sam_checkpoint_get_the_values_of_the_dataset(
    prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # SAM itself numbers the class names of the boxes from 1.
    dataset = write_gapped_dataset(tmp_path / "data", 2)

    def load_small_sam(name: str, device: str) -> SamSegmenter:
        return SamSegmenter(small_sam(), device=device, name=name)

    monkeypatch.setattr(SamSegmenter, "from_model", staticmethod(load_small_sam))
    cases = ("case_00", "case_01")
    system = System("sam-boxes", "", "sam_vit_b", prompt)
    segment(replace(job_of(tmp_path, dataset, cases), system=system))
    folder = Folder(tmp_path / "out")
    found = set()
    for case in cases:
        truth = read_volume(dataset / f"labelsTr/{case}.nii.gz")
        mask = read_volume(folder.predictions("sam-boxes") / f"{case}.nii.gz")
        assert mask.same_grid(truth)
        for value in VALUES.values():
            k, j, i = np.nonzero(mask.array == value)
            if k.size:
                (box,) = (b for b in reference_boxes(truth, ["x"], [value], "box", 0))
                inside = np.zeros(mask.shape, bool)
                inside[box.slices()] = True
                assert inside[k, j, i].all()
        found |= set(np.unique(mask.array).tolist())
    assert found <= {0, *VALUES.values()} and len(found) > 1
    facts = read_record(folder.facts("sam-boxes"))
    assert facts["tunable"] == 0 and facts["total"] > 0
    assert set(facts["seconds"]) == set(cases)


def test_a_job_is_read_back_as_it_was_written(tmp_path: Path):
    training = Training("mine", "", tmp_path / "run")
    system = System("mine-box", "mine", "", "box")
    job = replace(job_of(tmp_path, tmp_path / "data", ("a", "b")), training=training, system=system)
    changed = replace(job, max_minutes=None, settings=("iterations=9",), orientation="RSA")
    for one in (job, changed, replace(changed, sam_checkpoint=tmp_path / "sam.pth")):
        assert Job.from_dict(json.loads(json.dumps(one.to_dict()))) == one
