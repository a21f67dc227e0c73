"""Parts of a comparison: systems, boxes of the reference, statistics and tables."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import SamSegmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.research.comparison.folder import Folder, read_record
from MaskSAMCore.research.comparison.prompts import reference_boxes, slice_axis
from MaskSAMCore.research.comparison.stage import Job, segment
from MaskSAMCore.research.comparison.statistics import Row, compared_pairs, holm
from MaskSAMCore.research.comparison.systems import DEFAULT_SYSTEMS, System, find_systems
from MaskSAMCore.research.comparison.tables import write_tables
from Testing.helpers.sam_reference import small_sam
from Testing.helpers.short_run import VALUES, write_gapped_dataset
from Testing.helpers.threshold_model import GEOMETRIES, volume_of


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


def test_presets_and_given_runs_are_systems_too():
    systems, trainings = find_systems(
        ["masksam", "ablation_b1", "mine-boxes"], {"mine": Path("run")}, {"masksam": "acdc"}
    )
    assert [(t.name, t.preset) for t in trainings.values()] == [
        ("masksam", "acdc"),
        ("ablation_b1", "ablation_b1"),
        ("mine", ""),
    ]
    assert systems[-1].training == "mine" and systems[-1].prompt == "boxes"


@pytest.mark.parametrize(
    ("names", "runs", "presets", "message"),
    [
        (["nnunet"], {}, {}, "unknown system 'nnunet': choose masksam, masam, unet, sam"),
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


@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
def test_boxes_of_the_reference_enclose_its_classes_tightly(geometry: str):
    label = np.zeros((6, 7, 8), np.uint8)
    label[1:4, 2, 3:6] = 10
    label[2, 4:6, 1:3] = 10
    reference = volume_of(label, GEOMETRIES[geometry])
    (box,) = reference_boxes(reference, ["A", "B"], [10, 20], "box", 0)
    assert (box.class_name, box.lower, box.upper) == ("A", (1, 2, 1), (6, 6, 4))
    for axis in range(3):
        boxes = reference_boxes(reference, ["A", "B"], [10, 20], "boxes", axis)
        covered = np.zeros(label.shape, bool)
        for box in boxes:
            inside = box.slices()
            assert inside[axis].stop - inside[axis].start == 1
            part = label[inside] == 10
            for edge in range(3):
                first, last = part.take(0, edge), part.take(-1, edge)
                assert first.any() and last.any()
            covered[inside] = True
        assert covered[label == 10].all()
        used = (label == 10).any(tuple(a for a in range(3) if a != axis))
        assert len(boxes) == used.sum()


def test_slices_are_across_the_plans_depth_or_the_coarsest_axis():
    reference = volume_of(np.zeros((4, 5, 6)), np.diag([-1.0, -3.0, 1.0, 1.0]))
    assert slice_axis(reference, "RSA") == 2
    assert slice_axis(reference, None) == 1
    assert slice_axis(volume_of(np.zeros((4, 5, 6))), None) == 0


def row_of(name: str, values: list[float], **more: object) -> Row:
    cases = {f"case_{i}": v for i, v in enumerate(values)}
    mean = float(np.nanmean(values))
    return Row(name, "tiny", {"A": (mean, 0.1)}, mean, 0.1, per_case=cases, **more)


def test_pairs_are_tested_over_cases_with_correction():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.6, 0.9, 20)
    rows = [
        row_of("a", list(base)),
        row_of("b", list(base - rng.uniform(0.01, 0.03, 20))),
        row_of("same", list(base)),
    ]
    pairs = {(p.first, p.second): p for p in compared_pairs(rows)}
    # With 20 differences of one sign, p is 2 / 2^20.
    assert pairs["a", "b"].p == pytest.approx(2 / 2**20, rel=0.5)
    assert 0.01 < pairs["a", "b"].difference < 0.03
    assert pairs["a", "b"].p_holm > pairs["a", "b"].p
    assert pairs["a", "same"].p == 1
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_cases_without_a_figure_and_failed_systems_are_not_tested():
    rows = [
        row_of("a", [0.5, math.nan, 0.7]),
        row_of("b", [0.4, 0.5, 0.6]),
        Row("c", "unet", problem="no luck"),
    ]
    (pair,) = compared_pairs(rows)
    assert (pair.first, pair.second, pair.cases) == ("a", "b", 2)


def test_tables_are_written_as_markdown_csv_and_figure(tmp_path: Path):
    rows = [
        row_of("masksam", [0.8, 0.9], tunable=2e6, total=3e6, seconds=1.25, memory=2.0**30),
        row_of("unet", [0.7, 0.9], hd95=math.inf),
        Row("sam-boxes", "sam_vit_b", problem="'sam_vit_b' is not\ninstalled | yet"),
    ]
    facts = {"dataset": "Generated", "command": "masksam compare data -o out"}
    write_tables(tmp_path, rows, compared_pairs(rows), ["A"], facts, False)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| masksam | tiny | 0.8500 (0.100) | 0.8500 (0.100) |" in text
    assert "∞" in text and "masksam compare data -o out" in text
    assert "- sam-boxes: 'sam_vit_b' is not" in text
    assert "chose its best weights on" in text
    lines = list(csv.DictReader((tmp_path / "comparison.csv").open(encoding="utf-8")))
    assert [line["system"] for line in lines] == ["masksam", "unet", "sam-boxes"]
    assert float(lines[0]["dice A"]) == pytest.approx(0.85)
    assert lines[2]["dice mean"] == "" and "not\ninstalled" in lines[2]["problem"]
    cases = list(csv.DictReader((tmp_path / "cases.csv").open(encoding="utf-8")))
    assert float(cases[0]["unet"]) == 0.7 and "sam-boxes" not in cases[0]
    tests = list(csv.DictReader((tmp_path / "tests.csv").open(encoding="utf-8")))
    assert tests[0]["first"] == "masksam"
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_a_comparison_continues_under_its_own_terms_only(tmp_path: Path):
    folder = Folder(tmp_path / "out")
    terms = {"dataset": "Generated", "cases": ["a"], "max_minutes": 1.0}
    folder.begin(terms)
    folder.begin(terms)
    with pytest.raises(MaskSAMError, match="another max_minutes: choose another folder"):
        folder.begin({**terms, "max_minutes": 2.0})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(MaskSAMError, match="is not empty"):
        Folder(tmp_path / "full").begin(terms)


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
    segment(Job("segment", tmp_path / "out", dataset, cases, "cpu", system=system))
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
