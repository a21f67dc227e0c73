"""When boxes are used again: on a click, or live, one update at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from MaskSAMSlicerLib.mrml.box_set import BoxSet
from MaskSAMSlicerLib.run import Choice, Outcome

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsROINode

    from MaskSAMSlicerLib.panel.panel import Panel


class BoxUpdates:
    """Starts updates of the result that the panel shows.

    Args:
        panel: whose parameters and model count, and which is told of everything.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._live = False  # nobody waits for what runs
        self._again = False  # a box was dragged meanwhile

    def boxes(self) -> BoxSet | None:
        """The boxes of the result that is shown."""
        parameters = self._panel.parameters
        if parameters is None:
            return None
        row = self._panel.picker.row
        return BoxSet.of(row, parameters.inputVolume, parameters.boxSegmentation)

    def prompts(self) -> list[vtkMRMLMarkupsROINode]:
        """The boxes of a first run: those of a model that needs them."""
        boxes = self.boxes()
        return boxes.counting if boxes is not None and boxes.row.needs_boxes else []

    def start(self, live: bool) -> None:
        """Segment again from the boxes.

        Args:
            live: a drag has ended: where something runs, this waits for its end, and however many
                drags end meanwhile, one update comes of them.
        """
        panel, boxes = self._panel, self.boxes()
        if panel.busy:
            self._again = self._again or live
            return
        if boxes is None or boxes.segmentation is None:
            return
        choice = Choice(
            (),
            boxes.row,
            boxes=boxes.counting,
            output=boxes.segmentation,
            device=panel.parameters.device,
            overwrite=panel.parameters.boxOverwrite,
        )
        self._live, self._again = live, False
        step = panel.results.step_of(boxes.segmentation)
        try:
            panel.logic.start_update(choice, panel.progressed, self._done, panel.failed, step)
        except ValueError as error:
            if self.end_quietly():
                panel.progress.say(str(error))
            else:
                panel.complain(error)
            return
        panel.begin(_("Updating"))

    def end_quietly(self) -> bool:
        """What ran has failed: whether it was a live update, which nobody is to be disturbed by."""
        live = self._live
        self._live = self._again = False
        return live

    def _done(self, outcome: Outcome) -> None:
        panel = self._panel
        changed = ", ".join(panel.logic.run.changed) or _("nothing")
        panel.end(
            _("Updated: {changed}, {seconds:.2f} s.").format(
                changed=changed, seconds=outcome.seconds
            )
        )
        panel.results.show(outcome)
        again, self._live = self._again, False
        if again:
            self.start(True)
