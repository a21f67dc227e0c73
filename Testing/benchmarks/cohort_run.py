"""Runs over 1000 small cases with 20 bad files of ten kinds: killed, resumed, sharded, with Dask.

``python -m Testing.benchmarks.cohort_run FOLDER`` prints the log in ``Docs/cohort.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from Testing.cohort.helpers import assert_equal_labelmaps, labelmaps, rows_of, write_cohort
from Testing.helpers.small_bundle import small_bundle

# Columns that differ between runs; reasons hold absolute paths where a Dask worker wrote them.
_OF_THE_RUN = ("seconds", "peak_memory_mb", "output", "reason")


class KilledRuns:
    """Runs over a cohort that write to one folder; some are killed.

    Args:
        folder: folder with the cohort ``in`` and the model ``model``.
        out: name of the folder of the results.

    Attributes:
        out: folder of the results.
        recorded: modification time in ns of each labelmap of a case recorded as done.
        again: labelmaps of recorded cases that were written again.
    """

    def __init__(self, folder: Path, out: str) -> None:
        self.out = folder / out
        self.recorded: dict[Path, int] = {}
        self.again: set[Path] = set()
        self._folder = folder

    def run(
        self,
        *more: str,
        killed_after: int | None = None,
        worker_killed_after: int | None = None,
    ) -> None:
        """Run ``masksam predict`` and print how it ended.

        Args:
            more: options of the command.
            killed_after: cases done in this run before it is killed; None to let it end.
            worker_killed_after: cases done before one of its worker processes is killed.
        """
        begun, before = time.monotonic(), self._done()
        arguments = ["predict", "in", "-o", self.out.name, "-m", "model", *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "MaskSAMCore.cli", *arguments],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        print(f"masksam {' '.join(arguments)}")
        if worker_killed_after is not None:
            self._wait(process, before + worker_killed_after)
            workers = [p for p in psutil.Process(process.pid).children() if _is_worker(p)]
            workers[0].kill()
            print(f"  kill -9 of a worker after {self._done() - before} cases")
        if killed_after is not None:
            self._wait(process, before + killed_after)
            process.kill()
        lines = process.communicate()[1].splitlines()
        ended = "kill -9" if process.returncode < 0 else f"exit status {process.returncode}"
        written = self._check_outputs()
        seconds = time.monotonic() - begun
        print(f"  {ended} after {seconds:.0f} s, {written} complete labelmaps", flush=True)
        for line in lines:
            if " done, " in line:
                print(f"  {line}", flush=True)

    def _wait(self, process: subprocess.Popen[str], done: int) -> None:
        while process.poll() is None and self._done() < done:
            time.sleep(0.01)

    def _done(self) -> int:
        """Return the number of cases that the tables of the folder list as done."""
        tables = [*self.out.glob("cases*.csv")]
        return len({case for table in tables for case in _done_cases(table)})

    def _check_outputs(self) -> int:
        """Return the number of labelmaps, all complete, and note those written again."""
        found = labelmaps(self.out)
        done = {case for table in self.out.glob("cases*.csv") for case in _done_cases(table)}
        for name in done:
            path = self.out / f"{name}.nii.gz"
            modified = path.stat().st_mtime_ns
            if self.recorded.setdefault(path, modified) != modified:
                self.again.add(path)
        return len(found)


def _is_worker(process: psutil.Process) -> bool:
    return any("spawn_main" in argument for argument in process.cmdline())


def _done_cases(table: Path) -> list[str]:
    lines = table.read_text(encoding="utf-8").splitlines()
    return [line.split(",", 1)[0] for line in lines if ",done," in line]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run over the cohort once without a kill and once killed and resumed; compare the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--cases", type=int, default=1000)
    options = parser.parse_args(arguments)
    folder, part = options.folder, options.cases // 10
    bad = write_cohort(folder / "in", options.cases, each_bad=max(options.cases // 500, 1))
    small_bundle(folder / "model")
    whole = KilledRuns(folder, "whole")
    whole.run()
    runs = KilledRuns(folder, "killed")
    runs.run(killed_after=2 * part)
    runs.run(
        *("--skip-existing", "--dask", "local:2"),
        worker_killed_after=part,
        killed_after=3 * part,
    )
    runs.run("--skip-existing", "--shard", "1/2", killed_after=part // 2)
    for number in (1, 2):
        runs.run("--skip-existing", "--shard", f"{number}/2")
    runs.run("--skip-existing")
    rows, expected = (rows_of(one.out / "cases.csv") for one in (runs, whole))
    assert rows.keys() == expected.keys() and len(rows) == options.cases
    failed = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
    assert failed.keys() == bad.keys()
    assert all(reason in failed[name] for name, reason in bad.items())
    for name, row in rows.items():
        for column in row.keys() - _OF_THE_RUN:
            assert row[column] == expected[name][column], (name, column)
    assert_equal_labelmaps(labelmaps(whole.out), labelmaps(runs.out))
    assert not list(runs.out.rglob(".masksam-*"))
    print(
        f"{len(rows)} rows and {len(rows) - len(bad)} labelmaps equal those of one whole run,"
        f" {len(runs.again)} recorded cases were segmented again, and the {len(bad)} bad files are"
        " named:"
    )
    for name in sorted(failed)[:: max(options.cases // 500, 1)]:
        print(f"  {name}: {failed[name]}")


if __name__ == "__main__":
    main()
