"""Output of a run: segmentation, rule for its existing segments, and earlier results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from MaskSAMSlicerLib.mrml.box_nodes import boxes_of
from MaskSAMSlicerLib.mrml.run_record import SegmentationRecord, same_region, segmented_volume
from MaskSAMSlicerLib.mrml.segments import ADD, REPLACE
from MaskSAMSlicerLib.mrml.sequences import has_segments
from MaskSAMSlicerLib.panel.dialogs import select_data

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode

# Rule that leaves an output with segments as it is and makes a new segmentation.
NEW = "new"


class OutputView:
    """The selectors of the output and of its rule.

    The result of a run becomes the output of the next one. It also hides earlier results of the
    same volume, model and region, so that only one of them is visible at a time.

    Args:
        ui: the panel's widgets.

    Attributes:
        parameters: wrapper of the parameter node; None while a scene closes.
    """

    def __init__(self, ui: Any) -> None:
        self.parameters: Any = None
        self._ui = ui
        self._volume_id = ""
        ui.ruleSelector.addItem(_("make a new segmentation"), NEW)
        ui.ruleSelector.addItem(_("replace those of the same name"), REPLACE)
        ui.ruleSelector.addItem(_("add new segments"), ADD)
        ui.ruleSelector.connect("currentIndexChanged(int)", self._choose_rule)

    def refresh(self) -> None:
        """Show the rule, and deselect an output that is a result of the previous volume.

        The run, not the user, chose that output; the user can choose it again.
        """
        parameters = self.parameters
        if parameters is None:
            self._volume_id = ""
            return
        select_data(self._ui.ruleSelector, parameters.rule)
        before, volume = self._volume_id, parameters.inputVolume
        self._volume_id = "" if volume is None else volume.GetID()
        segmented = segmented_volume(parameters.outputSegmentation)
        if segmented is not None and segmented.GetID() == before != self._volume_id:
            parameters.outputSegmentation = None

    @property
    def node(self) -> vtkMRMLSegmentationNode | None:
        """Segmentation that the next run writes to; None for a new one."""
        output = self.parameters.outputSegmentation
        if output is None or self.parameters.rule != NEW:
            return output
        return None if has_segments(output) else output

    @property
    def rule(self) -> str:
        """Rule for segments of the same name, see ``segments.write_segments``."""
        return ADD if self.parameters.rule == ADD else REPLACE

    def take(self, node: vtkMRMLSegmentationNode) -> None:
        """Choose the result of a run as the next output, and hide the earlier ones."""
        for earlier in _earlier_results(node):
            earlier.SetDisplayVisibility(False)
            for box in boxes_of(earlier):
                box.SetDisplayVisibility(False)
        node.SetDisplayVisibility(True)
        parameters = self.parameters
        if parameters is not None and parameters.inputVolume is segmented_volume(node):
            parameters.outputSegmentation = node

    def _choose_rule(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.rule = self._ui.ruleSelector.itemData(index)


def _earlier_results(node: vtkMRMLSegmentationNode) -> Iterator[vtkMRMLSegmentationNode]:
    """Yield other results of the same volume, model and region; none if the node has no record, as
    in a frame of a sequence without a result."""
    record, volume = SegmentationRecord.load(node), segmented_volume(node)
    if record is None:
        return
    for other in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        found = SegmentationRecord.load(other)
        if (
            other is not node
            and found is not None
            and found.model == record.model
            and segmented_volume(other) is volume
            and same_region(found.roi, record.roi)
        ):
            yield other
