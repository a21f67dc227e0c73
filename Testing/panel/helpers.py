"""Simulated user of the panel, and the volume that most tests segment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from MaskSAMCore.geometry import Box
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.time_limits import LONG
from Testing.host.python_lock import sleep_with_lock
from Testing.slicer.helpers import GRIDS, add_volume


class User:
    """Simulated user of the panel.

    Args:
        widget: the module's widget.
    """

    def __init__(self, widget: Any) -> None:
        self.widget = widget
        self.ui = widget.ui

    @property
    def busy(self) -> bool:
        """Return whether the panel shows that the worker is busy."""
        return self.widget.panel.busy

    @property
    def worker(self) -> psutil.Process:
        """The worker process."""
        pid = self.widget.logic.segmentation.client.pid
        assert pid is not None  # psutil.Process(None) is the current process
        return psutil.Process(pid)

    @property
    def status(self) -> str:
        """Text of the status line."""
        return self.ui.statusLabel.text

    @property
    def table(self) -> list[list[str]]:
        """Class, confidence and volume of each row of the results."""
        table = self.ui.resultsTable
        return [[table.item(r, c).text() for c in range(3)] for r in range(table.rowCount)]

    @property
    def found(self) -> list[str]:
        """Names of the classes in the table of results."""
        return [row[0] for row in self.table]

    @property
    def shown_models(self) -> list[str]:
        """Names of the models in the list of models."""
        import qt

        tree = self.ui.modelTree
        items = [tree.topLevelItem(index) for index in range(tree.topLevelItemCount)]
        return [item.data(0, qt.Qt.UserRole) for item in items]

    @property
    def box_states(self) -> dict[str, str]:
        """State of each row of the table of boxes."""
        table = self.ui.boxesTable
        return {table.item(r, 0).text(): table.item(r, 1).text() for r in range(table.rowCount)}

    def choose_volume(self, node: Any) -> None:
        """Choose a volume."""
        self.ui.volumeSelector.setCurrentNode(node)

    def choose_model(self, name: str) -> None:
        """Choose a model of the list of models."""
        import qt

        tree = self.ui.modelTree
        for index in range(tree.topLevelItemCount):
            item = tree.topLevelItem(index)
            if item.data(0, qt.Qt.UserRole) == name:
                tree.clearSelection()
                item.setSelected(True)
                return
        raise AssertionError(f"the list has no model '{name}'")

    def choose_rule(self, rule: str) -> None:
        """Choose the rule for an output that has segments: "new", "replace" or "add"."""
        self.ui.ruleSelector.currentIndex = self.ui.ruleSelector.findData(rule)

    def choose_box(self, name: str) -> None:
        """Choose a row of the table of boxes."""
        table = self.ui.boxesTable
        for row in range(table.rowCount):
            if table.item(row, 0).text() == name:
                table.selectRow(row)
                return
        raise AssertionError(f"the table of boxes has no row '{name}'")

    def click(self, button: Any) -> None:
        """Click a button, which must be enabled."""
        assert button.enabled, f"'{button.text}' is disabled: {button.toolTip}"
        button.click()

    def wait(
        self, condition: Callable[[], bool] | None = None, what: str = "the end of the run"
    ) -> float:
        """Process events until a condition holds, by default the end of the run.

        Returns:
            Duration in seconds.
        """
        import slicer

        condition = condition or (lambda: not self.busy)
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > LONG:
                pytest.fail(f"{what} was not reached within {LONG} s: {self.status}")
            slicer.app.processEvents()
            sleep_with_lock(0.002)
        return time.monotonic() - began

    def wait_for_progress(self) -> None:
        """Process events until the worker reports progress."""
        self.wait(lambda: self.ui.progressBar.maximum > 0, "progress")

    def start(self, node: Any, model: str) -> None:
        """Choose a volume and a model, and click Segment."""
        self.choose_volume(node)
        self.choose_model(model)
        self.click(self.ui.segmentButton)

    def segment(self, node: Any, model: str = "threshold") -> None:
        """Segment a volume and wait for the result."""
        self.start(node, model)
        self.wait()

    def segment_again(self) -> None:
        """Click Segment again and wait for the result."""
        self.click(self.ui.updateButton)
        self.wait()


def blobs_volume(
    grid: np.ndarray | None = None,
    name: str = "MR häd",
    shape: tuple[int, int, int] = (11, 17, 23),
):
    """Add a volume whose correct segments are known: the voxels of value 1 and those of value 2."""
    return add_volume(two_blobs(shape), GRIDS["LPS"] if grid is None else grid, name)


def segmentations(scene: Any) -> list:
    """Return all segmentations of the scene."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    return [scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(count)]


def clone(node: Any) -> Any:
    """Clone a node in the module Data."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = slicer.vtkSlicerSubjectHierarchyModuleLogic.CloneSubjectHierarchyItem(
        hierarchy, hierarchy.GetItemByDataNode(node)
    )
    return hierarchy.GetItemDataNode(item)


def box_node(name: str):
    """Return the one box node of a class."""
    import slicer

    from MaskSAMSlicerLib.mrml.box_nodes import class_of

    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    (found,) = [node for node in nodes if class_of(node) == name]
    return found


def move_box(node: Any, lower: tuple, upper: tuple, volume: Any) -> None:
    """Move a box node to voxel edges (i, j, k) of a volume."""
    from MaskSAMSlicerLib.mrml.box_nodes import class_of, place_box

    place_box(node, Box(class_of(node), lower, upper), volume)


def edges_of(node: Any, volume: Any) -> Box:
    """Return the box of a node in voxel edges of a volume."""
    from MaskSAMSlicerLib.mrml.box_nodes import class_of
    from MaskSAMSlicerLib.mrml.volumes import box_from_roi, volume_from_node

    return box_from_roi(node, volume_from_node(volume), class_of(node))


def show_slice_through(views: dict, name: str, node: Any) -> tuple[Any, tuple[int, int]]:
    """Show the slice through the center of a box in a slice view; return the view and the pixel."""
    import slicer

    view, center = views[name], [0.0, 0.0, 0.0]
    node.GetCenterWorld(center)
    mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, mode)
    slicer.app.processEvents()
    view.window.Render()
    to_pixel = np.linalg.inv(slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS()))
    x, y = (to_pixel @ [*center, 1])[:2].round().astype(int).tolist()
    return view, (x, y)


def drag(views: dict, node: Any, across: int, up: int) -> None:
    """Drag a box in the axial view by a number of pixels."""
    view, (x, y) = show_slice_through(views, "Red", node)
    view.drag((x, y), (x + across, y + up))
