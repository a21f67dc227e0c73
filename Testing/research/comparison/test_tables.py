"""Results as Markdown, CSV and a figure."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from MaskSAMCore.research.comparison.statistics import Row, compared_pairs, over_seeds
from MaskSAMCore.research.comparison.tables import write_seeds, write_tables
from Testing.research.comparison.helpers import row_of


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


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path):
    rows = [row_of("$\\unknown$", [0.8, 0.9])]
    write_tables(tmp_path, rows, [], ["$x_$"], {"dataset": "$^$"}, True)
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_tables_of_several_seeds_show_each_seed(tmp_path: Path):
    by_seed = {0: [row_of("masksam", [0.8, 0.9])], 5: [row_of("masksam", [0.6, 0.7])]}
    rows = over_seeds(by_seed)
    write_tables(tmp_path, rows, [], ["A"], {"dataset": "Generated"}, True)
    write_seeds(tmp_path, by_seed, ["A"])
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| 0.7500 (0.141) |" in text and "| 0.8500 0.6500 |" in text
    assert "standard deviation of the seeds' means" in text
    lines = list(csv.DictReader((tmp_path / "seeds.csv").open(encoding="utf-8")))
    assert [(line["seed"], float(line["dice mean"])) for line in lines] == [
        ("0", pytest.approx(0.85)),
        ("5", pytest.approx(0.65)),
    ]


def test_a_seed_that_failed_has_a_dash_and_a_reason(tmp_path: Path):
    failed = [row_of("unet", [0.5, 0.7]), Row("masksam", "tiny", problem="no luck")]
    by_seed = {0: [row_of("unet", [0.5, 0.7]), row_of("masksam", [0.8, 0.9])], 5: failed}
    write_tables(tmp_path, over_seeds(by_seed), [], ["A"], {"dataset": "Generated"}, True)
    write_seeds(tmp_path, by_seed, ["A"])
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| 0.8500 – |" in text and "- masksam, seed 5: no luck" in text
    lines = list(csv.DictReader((tmp_path / "comparison.csv").open(encoding="utf-8")))
    assert [line["problem"] for line in lines] == ["", "seed 5: no luck"]
    lines = list(csv.DictReader((tmp_path / "seeds.csv").open(encoding="utf-8")))
    assert lines[-1]["seed"] == "5" and lines[-1]["dice mean"] == ""
    assert [line["problem"] for line in lines] == ["", "", "", "no luck"]
