"""The real panel, and a person who clicks on it."""

from __future__ import annotations

import time

import numpy as np
import psutil
import pytest

from Testing import host
from Testing.helpers.paths import KNOWN_WORKER
from Testing.slicer.module_tools import MODULE, add_volume

# A loaded machine may take long over anything; no test waits so long when all is well.
LONG = 300.0


class Person:
    """Does with the panel what a person does."""

    def __init__(self, widget) -> None:
        self.widget = widget
        self.ui = widget.ui

    def choose_volume(self, node) -> None:
        self.ui.volumeSelector.setCurrentNode(node)

    def choose_model(self, name: str) -> None:
        import qt

        tree = self.ui.modelTree
        for index in range(tree.topLevelItemCount):
            item = tree.topLevelItem(index)
            if item.data(0, qt.Qt.UserRole) == name:
                tree.clearSelection()
                item.setSelected(True)
                return
        raise AssertionError(f"the picker shows no model '{name}'")

    def shown_models(self) -> list[str]:
        import qt

        tree = self.ui.modelTree
        items = [tree.topLevelItem(index) for index in range(tree.topLevelItemCount)]
        return [item.data(0, qt.Qt.UserRole) for item in items]

    def click(self, button) -> None:
        assert button.enabled, f"'{button.text}' cannot be clicked: {button.toolTip}"
        button.click()

    def wait(self, condition=None, what: str = "the end of the run") -> float:
        """Lets the application run until something is so; the seconds it took."""
        import slicer

        condition = condition or (lambda: not self.widget.panel.busy)
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < LONG, f"{what} did not come: {self.status}"
            slicer.app.processEvents()
            time.sleep(0.002)
        return time.monotonic() - began

    def segment(self, node, model: str = "threshold") -> None:
        """The whole way."""
        self.choose_volume(node)
        self.choose_model(model)
        self.click(self.ui.segmentButton)
        self.wait()

    def use_known_worker(self, **how: object) -> None:
        """Workers with networks whose answers are known."""
        from MaskSAMSlicerLib.worker.client import WorkerClient

        self.widget.logic.close()
        self.widget.panel._asked = None
        logic = self.widget.logic.segmentation
        # It imports PyTorch before it greets.
        how = {"on_log": logic._log, "hang_seconds": LONG, **how}
        logic._client = WorkerClient(command=KNOWN_WORKER, **how)

    @property
    def worker(self) -> psutil.Process:
        """The process that segments now."""
        number = self.widget.logic.segmentation.client.pid
        assert number is not None  # psutil would take it for this very process
        return psutil.Process(number)

    @property
    def status(self) -> str:
        return self.ui.statusLabel.text

    @property
    def table(self) -> list[list[str]]:
        table = self.ui.resultsTable
        return [[table.item(r, c).text() for c in range(3)] for r in range(table.rowCount)]


@pytest.fixture
def panel(application, scene, models_home, monkeypatch):
    """The module's widget, opened as the application opens it."""
    monkeypatch.setenv("MASKSAM_HOME", str(models_home))
    host.load_module(MODULE)
    yield host.select_module("MaskSAMSlicer")
    host.unload_module("MaskSAMSlicer")


@pytest.fixture
def person(panel) -> Person:
    person = Person(panel)
    person.use_known_worker()
    return person


def blobs_volume(grid: np.ndarray | None = None, name: str = "MR häd"):
    """A volume whose right segments are known: where it is 1, and where it is 2."""
    from Testing.helpers.threshold_model import two_blobs
    from Testing.slicer.module_tools import GRIDS

    return add_volume(two_blobs(), GRIDS["LPS"] if grid is None else grid, name)
