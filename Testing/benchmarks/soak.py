"""Growth of memory, handles, threads and temporary files over hundreds of runs in one session.

    python -m Testing.benchmarks.soak soak.jsonl [--runs 500]

Without a pause, a simulated user operates the real panel with the shipped worker, started through
the stand-in for Slicer's launcher. The user runs a tiny network, and the model "hippocampus" on a
head once in 100 runs; moves boxes, undoes, removes segmentations, cancels at any moment, and closes
scenes between and during runs. One worker serves the first 80 % of the runs. In every second one of
the remaining runs, the worker or its launcher is killed at one of seven moments.

One line is added to the file every 50 runs; starting the program again continues the file. The
program ends with status 1 if a process is left over, or if the number of files, handles, threads or
nodes has grown.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from Testing import host
from Testing.helpers.paths import LAUNCHER, ROOT
from Testing.helpers.small_bundle import small_bundle
from Testing.panel.helpers import User, edges_of, move_box, segmentations
from Testing.slicer.helpers import GRIDS, MODULE, add_volume

EVERY = 50
# Share of the runs, from the first, in which no worker is killed.
CALM = 0.8
SAMPLES = ROOT / "Resources" / "SampleData"
COLUMNS = (
    "runs",
    "minutes",
    "workers",
    "panel_mib",
    "panel_files",
    "panel_threads",
    "objects",
    "nodes",
    "worker_mib",
    "worker_files",
    "worker_threads",
    "processes",
    "temporary_files",
)
# Columns that must not be larger at the end than after the first runs.
CONSTANT = (
    "panel_files",
    "panel_threads",
    "nodes",
    "worker_files",
    "worker_threads",
    "temporary_files",
)


class Soak:
    """A session of a simulated user.

    Args:
        user: user of the open panel.
        folder: temporary folder of this program and its workers.

    Attributes:
        actions: number of runs by action, and of runs with a killed worker by outcome.
    """

    def __init__(self, user: User, folder: Path) -> None:
        self.user = user
        self.actions: dict[str, int] = {}
        self._folder = folder
        self._random = random.Random(0)
        self._workers: set[int] = set()
        self._kills: list[tuple[str, Callable[[], None]]] = [
            ("an idle worker", self._kill_idle),
            ("a worker that starts", self._kill_starting),
            ("while the volume is passed on", partial(self._kill_when, self._passing)),
            ("at the first progress", partial(self._kill_when, self._at(0.0))),
            ("at a third", partial(self._kill_when, self._at(0.33))),
            ("near the end", partial(self._kill_when, self._at(0.85))),
            ("while the result is read", partial(self._kill_when, self._answered)),
        ]

    @property
    def _client(self) -> Any:
        return self.user.widget.logic.segmentation.client

    def run(self, number: int, calm: bool) -> None:
        """Perform one action of a user and check its result.

        Args:
            number: number of the run, which determines the action.
            calm: whether the worker is left alive.
        """
        import slicer

        if number % 10 == 0:
            self._close_scene()
        scene = slicer.mrmlScene
        if not calm and number % 2:
            name, kill = self._kills[number // 2 % len(self._kills)]
            self._count(name)
            kill()
            return
        action = (
            self._segment_small,
            self._move_box,
            self._segment_hippocampus if number % 100 == 22 else self._cancel,
            self._move_box,
            self._cancel,
            self._segment_small,
            self._undo,
            self._remove_segmentation,
            self._close_during_run,
            self._segment_small,
        )[number % 10]
        self._count(action.__name__.strip("_").replace("_", " "))
        action()
        assert not host.errors, host.errors
        assert not host.messages.texts("error"), host.messages.texts("error")
        host.messages.clear()
        assert scene.GetNumberOfNodes() < 500

    def measure(self) -> dict[str, float]:
        """Close the scene; return the resources of this program, its workers and the scene."""
        import slicer

        self._close_scene()
        self.user.wait(lambda: not self._client.needs_polling, "the worker's rest")
        time.sleep(0.5)
        gc.collect()
        panel = psutil.Process()
        values = {
            "panel_mib": panel.memory_info().rss / 2**20,
            "panel_files": panel.num_fds(),
            "panel_threads": panel.num_threads(),
            "objects": len(gc.get_objects()),
            "nodes": slicer.mrmlScene.GetNumberOfNodes(),
            "processes": len(self._processes()),
            "temporary_files": self._temporary_files(),
            "worker_mib": 0.0,
            "worker_files": 0,
            "worker_threads": 0,
            "workers": len(self._workers),
        }
        if self._client.running:
            worker = self.user.worker
            values["worker_mib"] = worker.memory_info().rss / 2**20
            values["worker_files"] = worker.num_fds()
            values["worker_threads"] = worker.num_threads()
        return values

    def left_over(self) -> list[str]:
        """Return processes and files of this program that are left after the panel was closed."""
        found = [" ".join(process.cmdline()) for process in self._processes()]
        return found + [path.name for path in self._folder.glob("masksam-*")]

    def _count(self, name: str) -> None:
        self.actions[name] = self.actions.get(name, 0) + 1

    def _processes(self) -> list[psutil.Process]:
        """Return all other processes that this program has started, orphans included."""
        found = []
        for process in psutil.process_iter():
            try:
                own = process.environ().get("MASKSAM_HOME") == os.environ["MASKSAM_HOME"]
                if own and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue  # of another user, or a zombie
        return found

    def _temporary_files(self) -> int:
        return sum(path.is_file() for path in self._folder.glob("masksam-*/**/*"))

    def _close_scene(self) -> None:
        host.close_scene()
        self.user.wait()

    def _noise(self, smallest: int, largest: int) -> Any:
        """Add a volume of random size, grid and contents."""
        shape = tuple(self._random.randrange(smallest, largest) for _ in range(3))
        voxels = np.random.default_rng(self._random.randrange(1 << 30)).normal(100, 30, shape)
        grid = GRIDS[self._random.choice(sorted(GRIDS))]
        return add_volume(voxels.astype(np.int16), grid, "noise")

    def _start(self, smallest: int = 8, largest: int = 20) -> None:
        self.user.ui.roiSelector.setCurrentNode(None)
        self.user.start(self._noise(smallest, largest), "small")

    def _start_long(self) -> None:
        """Start a run that takes seconds, so that something can happen in each of its stages."""
        self._start(20, 32)

    def _finish(self) -> None:
        self.user.wait()
        assert self.user.status.startswith("Done"), self.user.status
        assert self.user.found, "no class was found"
        self._workers.add(self.user.worker.pid)

    def _segment_small(self) -> None:
        self._start()
        self._finish()

    def _segment_hippocampus(self) -> None:
        import slicer
        from nilearn.datasets.struct import MNI152_FILE_PATH

        volume = slicer.util.loadVolume(str(MNI152_FILE_PATH), {"name": "MNI152"})
        roi = slicer.util.loadMarkups(str(SAMPLES / "hippocampus-left.mrk.json"))
        self.user.choose_volume(volume)
        self.user.ui.roiSelector.setCurrentNode(roi)
        self.user.start(volume, "hippocampus")
        self._finish()

    def _move_box(self) -> None:
        """Shrink or enlarge a box of the shown result, with or without overwriting other classes,
        segment again, and hide the boxes."""
        from MaskSAMSlicerLib.mrml.box_nodes import boxes_of

        user, parameters = self.user, self.user.widget.logic.getParameterNode()
        if not shows_chosen_volume(parameters):
            self._segment_small()
        if not user.ui.showBoxesButton.checked:
            user.click(user.ui.showBoxesButton)
        box = self._random.choice(boxes_of(parameters.boxSegmentation))
        volume = parameters.inputVolume
        edges = edges_of(box, volume)
        lower = np.floor(edges.lower)
        whole = np.ceil(np.array(edges.upper) - lower)
        smaller = np.ceil(whole * self._random.uniform(0.4, 0.9))
        larger = whole + self._random.randint(1, 3)
        user.ui.overwriteCheckBox.checked = self._random.random() < 0.5
        if self._random.random() < 0.5:
            move_box(box, tuple(lower), tuple(lower + larger), volume)
        if not user.ui.updateButton.enabled:  # a box that fills the volume cannot be larger
            move_box(box, tuple(lower), tuple(lower + smaller), volume)
        user.segment_again()
        assert user.status.startswith("Segmented again"), user.status
        user.click(user.ui.showBoxesButton)

    def _undo(self) -> None:
        self._segment_small()
        for button in (self.user.ui.undoButton, self.user.ui.redoButton):
            self.user.click(button)

    def _remove_segmentation(self) -> None:
        import slicer

        self._move_box()
        slicer.mrmlScene.RemoveNode(segmentations(slicer.mrmlScene)[-1])
        slicer.app.processEvents()

    def _cancel(self) -> None:
        """Cancel a run after a random part of it."""
        self._start_long()
        part = self._random.random()
        self.user.wait(lambda: not self.user.busy or self._fraction >= part, "a part of the run")
        if self.user.busy:
            self.user.click(self.user.ui.segmentButton)
        self.user.wait()
        assert self.user.status.startswith(("Cancelled", "Done")), self.user.status

    def _close_during_run(self) -> None:
        import slicer

        self._start_long()
        part = self._random.random()
        self.user.wait(lambda: not self.user.busy or self._fraction >= part, "a part of the run")
        self._close_scene()
        assert not segmentations(slicer.mrmlScene)

    @property
    def _fraction(self) -> float:
        bar = self.user.ui.progressBar
        return bar.value / bar.maximum if bar.maximum > 0 else -1.0

    def _at(self, fraction: float) -> Callable[[], bool]:
        return lambda: self._fraction >= fraction

    def _passing(self) -> bool:
        return self._job is not None and not self._job.sent

    def _answered(self) -> bool:
        return self._job is not None and self._job.answered

    @property
    def _job(self) -> Any:
        run = self.user.widget.logic.segmentation.run
        return None if run is None or run.finished else run.job

    def _kill(self) -> None:
        """Kill the worker, or every other time its launcher."""
        process = self.user.worker
        if self._random.random() < 0.5:
            parents = process.parents()
            process = next((p for p in parents if p.ppid() == os.getpid()), process)
        process.kill()

    def _kill_idle(self) -> None:
        self._segment_small()
        self._kill()
        self._segment_small()

    def _kill_starting(self) -> None:
        if self._client.running:
            self._kill()
            self.user.wait(lambda: not self._client.running, "the worker's end")
        self._start()
        # The client may notice only now that the previous worker has ended.
        self.user.wait(lambda: self._client.running, "a new worker")
        psutil.Process(self._client.pid).kill()
        self._end_killed()

    def _kill_when(self, condition: Callable[[], bool]) -> None:
        if not self._client.running:
            self._segment_small()
        self._start_long()
        self.user.wait(lambda: not self.user.busy or condition(), "the moment to kill")
        if self._client.running:
            self._kill()
        self._end_killed()

    def _end_killed(self) -> None:
        """Wait until a run whose worker was killed is complete, or reported and undone."""
        import slicer

        before = len(segmentations(slicer.mrmlScene))
        self.user.wait()
        done = self.user.status.startswith("Done")
        assert done or self.user.status.startswith("Failed"), self.user.status
        assert len(host.messages.texts("error")) == (0 if done else 1)
        assert len(segmentations(slicer.mrmlScene)) >= before
        self._count("... of which complete nevertheless" if done else "... of which reported")
        host.messages.clear()


def shows_chosen_volume(parameters: Any) -> bool:
    """Return whether the shown result belongs to the chosen volume."""
    from MaskSAMSlicerLib.mrml.run_record import volumes_of

    node = parameters.boxSegmentation
    return node is not None and volumes_of(node)[0] is parameters.inputVolume


def table(rows: list[dict[str, float]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |"]
    lines.append("|" + "---:|" * len(COLUMNS))
    lines += ["| " + " | ".join(f"{row[name]:.0f}" for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def read_rows(log: Path) -> list[dict[str, float]]:
    """Return the rows of a log; none if it does not exist."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    """Perform the runs, add lines to the log, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="file of one line for each 50 runs")
    parser.add_argument("--runs", type=int, default=500)
    options = parser.parse_args()
    rows = read_rows(options.log)
    first = int(rows[-1]["runs"]) if rows else 0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for name in ("TMPDIR", "TEMP", "TMP", "MASKSAM_HOME"):
            os.environ[name] = folder
        tempfile.tempdir = None
        left = soak(options, rows, first, Path(folder))
    print(table(rows))
    problems = [f"left over: {name}" for name in left]
    for name in CONSTANT:
        if rows[-1][name] > rows[0][name]:
            problems.append(f"{name}: {rows[0][name]:.0f} at first, {rows[-1][name]:.0f} at last")
    if any(row["processes"] > 2 for row in rows):
        problems.append("more processes than a worker and its launcher")
    sys.exit("\n".join(problems) or None)


def soak(
    options: argparse.Namespace, rows: list[dict[str, float]], first: int, folder: Path
) -> list[str]:
    """Perform the missing runs; return the processes and files left after the panel was closed."""
    small_bundle(folder / "models" / "small")
    host.start()
    host.load_module(MODULE)
    from MaskSAMSlicerLib.logic import SegmentationLogic
    from MaskSAMSlicerLib.worker.client import WorkerClient

    command = (*LAUNCHER, sys.executable, "-m", "MaskSAMCore.worker")
    # On a busy machine, the client must not kill a worker that is about to stop a cancelled run.
    options_of_client = {"command": command, "core_folder": ROOT, "cancel_seconds": 30.0}
    logic = SegmentationLogic(lambda on_log: WorkerClient(on_log=on_log, **options_of_client))
    module = sys.modules["MaskSAMSlicer"]
    module.MaskSAMSlicerLogic = partial(module.MaskSAMSlicerLogic, logic)
    session = Soak(User(host.select_module("MaskSAMSlicer")), folder)
    began, before = time.monotonic(), rows[-1]["minutes"] if rows else 0.0
    try:
        for number in range(first, options.runs):
            session.run(number, calm=number < CALM * options.runs)
            if (number + 1) % EVERY == 0:
                minutes = before + (time.monotonic() - began) / 60
                row = {"runs": number + 1, "minutes": minutes, **session.measure()}
                rows.append(row)
                with open(options.log, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    finally:
        host.unload_module("MaskSAMSlicer")
    time.sleep(2.0)
    for name, count in session.actions.items():
        print(f"{name}: {count}")
    return session.left_over()


if __name__ == "__main__":
    main()
