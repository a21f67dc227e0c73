"""Time of a run over several heads, compared with the network's own time.

python -m Testing.benchmarks.overlap HEAD.nii.gz... [-m brain] [--network | --run]

The network's own time is measured on the same heads in memory, one after the other, without reading
or writing files. Both times are measured unless --network or --run selects one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from MaskSAMCore import Segmenter, read_volume
from MaskSAMCore.allocation import keep_freed_memory
from MaskSAMCore.cohort.case import Case, ImageSource
from MaskSAMCore.cohort.case_run import CaseSettings
from MaskSAMCore.cohort.record import CaseRecord
from MaskSAMCore.cohort.run import run_cases
from MaskSAMCore.cohort.table import CaseTable
from MaskSAMCore.cohort.warm_model import WarmModel


class _Silent:
    """Watcher that shows nothing."""

    def started(self, name: str) -> None: ...

    def progress(self, stage: str, fraction: float, seconds_left: float | None) -> None: ...

    def noted(self, name: str, notes: Sequence[str]) -> None: ...

    def finished(self, record: CaseRecord) -> None:
        assert record.status == "done", record.reason

    def message(self, text: str) -> None: ...


class _Clock:
    """Wall seconds and processor seconds since the clock was created."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        wall, cpu = self._began
        seconds, processor = time.perf_counter() - wall, time.process_time() - cpu
        return f"{seconds:.2f} s, {processor:.2f} processor seconds"


def network_time(model: WarmModel, heads: list[Path]) -> str:
    volumes = [read_volume(head) for head in heads]
    clock = _Clock()
    for volume in volumes:
        model.segmenter.segment(volume)
    return str(clock)


def run_time(model: WarmModel, heads: list[Path]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        cases = [
            Case(f"{number}", (ImageSource(head),), out / f"{number}.nii.gz")
            for number, head in enumerate(heads)
        ]
        names = [label.name for label in model.segmenter.labels]
        clock = _Clock()
        with CaseTable(out / "cases.csv", names) as table:
            run_cases(cases, model, CaseSettings(), table, _Silent(), keep_going=False)
        return str(clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path, nargs="+")
    parser.add_argument("-m", "--model", default="brain")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--network", action="store_true", help="measure the network only")
    part.add_argument("--run", action="store_true", help="measure the run only")
    options = parser.parse_args()
    keep_freed_memory()
    model = WarmModel(lambda: Segmenter.from_model(options.model))
    count = len(options.heads)
    if not options.run:
        print(f"network alone, {count} head(s): {network_time(model, options.heads)}", flush=True)
    if not options.network:
        print(f"run over {count} head(s): {run_time(model, options.heads)}")


if __name__ == "__main__":
    main()
