"""Two hundred small cases, some of them damaged: killed three times and resumed, and in shards.

``python -m Testing.benchmarks.cohort_run FOLDER`` prints the log in ``Docs/cohort.md``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import write_volume
from Testing.cohort.helpers import assert_equal_labelmaps, labelmaps, rows_of
from Testing.helpers.dicom import oblique_matrix, write_slices
from Testing.helpers.generated import generated_case
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import GEOMETRIES

IMAGES = 199
# Cases that a run has finished when it is killed.
KILLED_AFTER = (37, 61, 50)
SHARDS = 4
# Columns that differ between runs.
_OF_THE_RUN = ("seconds", "peak_memory_mb", "output")


def write_cohort(folder: Path) -> set[str]:
    """Write images in folders of five sites and three DICOM series; return the bad cases."""
    matrices = list(GEOMETRIES.values())
    for number in range(IMAGES):
        path = folder / f"s{number % 5}" / f"c{number:03d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(Volume(generated_case(number)[0], matrices[number % len(matrices)]), path)
    (folder / "s3" / "c013.nii.gz").write_bytes(b"")
    cut = folder / "s1" / "c051.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-200])
    (folder / "s0" / "c100.nii.gz").write_bytes(b"<!DOCTYPE html><html>404</html>")
    infinite = generated_case(162)[0]
    infinite[0, 0, 0] = np.nan
    (folder / "s2" / "c162.nii.gz").unlink()
    sitk.WriteImage(sitk.GetImageFromArray(infinite), str(folder / "s2" / "c162.mha"))
    slices = generated_case(5)[0].clip(0).astype(np.uint16)
    write_slices(folder / "dicom" / "good", slices, oblique_matrix(), series="1.2.1")
    write_slices(folder / "dicom" / "gap", slices, oblique_matrix(), series="1.2.2")[6].unlink()

    def localizer(header, k):
        header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_slices(folder / "dicom" / "scout", slices, oblique_matrix(), localizer, series="1.2.3")
    return {
        *("s0/c100", "s1/c051", "s2/c162", "s3/c013"),
        "dicom/gap",
    }


def run(folder: Path, out: str, *more: str, killed_after: int | None = None) -> None:
    """Run over the cohort, kill the run after some cases, and print how it ended."""
    table = folder / out / "cases.csv"
    before = finished(table)
    start = time.monotonic()
    arguments = ["predict", "in", "-o", out, "-m", "model", *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "MaskSAMCore.cli", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if killed_after is not None:
        while process.poll() is None and finished(table) - before < killed_after:
            time.sleep(0.01)
        process.kill()
    lines = process.communicate()[1].splitlines()
    end = "killed" if process.returncode < 0 else f"exit status {process.returncode}"
    count = len(labelmaps(folder / out))
    print(f"masksam {' '.join(arguments)}")
    print(f"  {end} after {time.monotonic() - start:.0f} s, {count} complete labelmaps")
    summary = next((n for n, line in enumerate(lines) if " done, " in line), len(lines))
    print("".join(f"  {line}\n" for line in lines[summary:]), end="", flush=True)


def finished(table: Path) -> int:
    """Return the number of cases that a run has finished so far."""
    return table.read_text(encoding="utf-8").count(",done,") if table.exists() else 0


def main(folder: Path) -> None:
    """Run whole, killed and resumed, and in shards, and compare the results."""
    small_bundle(folder / "model")
    bad = write_cohort(folder / "in")
    run(folder, "whole")
    for number, count in enumerate(KILLED_AFTER):
        run(folder, "killed", *(["--skip-existing"] if number else []), killed_after=count)
    run(folder, "killed", "--skip-existing")
    for number in range(SHARDS):
        run(folder, "parts", "--shard", f"{number + 1}/{SHARDS}")
    run(folder, "parts", "--skip-existing")
    whole = rows_of(folder / "whole" / "cases.csv")
    assert {name for name, row in whole.items() if row["status"] == "failed"} == bad
    for out in ("killed", "parts"):
        assert_equal_labelmaps(labelmaps(folder / "whole"), labelmaps(folder / out))
        rows = rows_of(folder / out / "cases.csv")
        for name, row in rows.items():
            for column in row.keys() - _OF_THE_RUN:
                assert row[column] == whole[name][column], (name, column)
        assert not list((folder / out).rglob(".masksam-*"))
        print(f"{out}: {len(rows)} rows and all labelmaps equal those of one whole run")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
