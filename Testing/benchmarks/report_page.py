"""Size and loading time of the report of a thousand generated cases.

``python -m Testing.benchmarks.report_page FOLDER IMAGE`` prints the figures in ``Docs/cohort.md``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from MaskSAMCore.cohort.case import picture_of
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.report.page import write_report
from MaskSAMCore.cohort.table import TABLE_NAME, CaseTable, read_rows
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.io.files import write_bytes
from MaskSAMCore.pictures import thumbnail
from MaskSAMCore.volumetry import StructureVolume
from Testing.helpers.browser import browser

CASES = 1000
# Number of different pictures, which the cases share.
_PICTURES = 40
_FAILED = 20
_UNUSUAL = 25


def write_run(folder: Path, image: Path) -> Segmenter:
    """Write the table and the pictures of a run whose volumes vary like those of heads."""
    segmenter = Segmenter.from_model("brain")
    result = segmenter.segment(read_volume(image))
    names = [label.name for label in result.labels]
    voxels = {one.name: one.voxel_count for one in result.instances}
    ml = np.array([voxels.get(name, 0) for name in names]) * result.volume.voxel_ml
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(_PICTURES):
        labelmap = result.labelmap.copy()
        labelmap[: number % 7 * 20] = 0
        pictures.append(thumbnail(result.volume, labelmap, result.labels))
    (folder / "out").mkdir(parents=True, exist_ok=True)
    with CaseTable(folder / "out" / TABLE_NAME, names) as table:
        for number in range(CASES):
            name = f"sub-{number:04d}_T1w"
            output = folder / "out" / f"{name}.nii.gz"
            if number < _FAILED:
                reason = f"in/{name}.nii.gz is damaged or incomplete: copy it again"
                table.add(CaseRecord(name, "failed", reason, (image,), output))
                continue
            own = ml * rng.lognormal(0, 0.09) * rng.lognormal(0, 0.04, len(ml))
            if number < _FAILED + _UNUSUAL:
                own[rng.integers(len(own), size=2)] *= rng.choice([0, 0.4, 1.9], 2)
            volumes = [
                StructureVolume(c, float(rng.uniform(0.8, 0.95)), float(v))
                for c, v in zip(names, own, strict=True)
                if v > 0
            ]
            output.write_bytes(b"")
            write_bytes(picture_of(output), pictures[number % _PICTURES])
            record = CaseRecord(
                name,
                "done",
                inputs=(image,),
                output=output,
                seconds=float(rng.normal(18, 1)),
                peak_memory_mb=float(rng.normal(2100, 60)),
                volumes=tuple(volumes),
                model=segmenter.name,
                model_version=segmenter.version,
                software="masksam",
            )
            table.add(record)
    return segmenter


def main(folder: Path, image: Path) -> None:
    """Write the report and open it in a browser."""
    segmenter = write_run(folder, image)
    page = folder / "out" / "report.html"
    start = time.perf_counter()
    rows = read_rows(folder / "out" / TABLE_NAME)
    write_report(page, rows, folder / "out", segmenter.labels, overwrite=True)
    print(f"written in {time.perf_counter() - start:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
    with browser() as driver:
        driver.get(page.as_uri())
        loaded = driver.execute_script(
            "const t = performance.getEntriesByType('navigation')[0];"
            " return [t.domInteractive, t.loadEventEnd]"
        )
        print("interactive after {:.0f} ms, loaded after {:.0f} ms".format(*loaded))
        script = (
            "const s = document.getElementById('sort'); s.value = arguments[0];"
            " const t = performance.now();"
            " s.dispatchEvent(new Event('change', {bubbles: true})); document.body.offsetHeight;"
            " return performance.now() - t"
        )
        for key in ("name", "class 3"):
            print(f"sorted by {key} in {driver.execute_script(script, key):.0f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
