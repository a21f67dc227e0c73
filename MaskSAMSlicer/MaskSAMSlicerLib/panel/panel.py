"""The panel: shows the choices, starts and cancels runs, shows what came of them."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.model_catalog import doubts
from MaskSAMSlicerLib.mrml.box_nodes import draw
from MaskSAMSlicerLib.mrml.volumes import volume_from_node
from MaskSAMSlicerLib.panel.box_updates import BoxUpdates
from MaskSAMSlicerLib.panel.boxes import BoxesView
from MaskSAMSlicerLib.panel.catalog_changes import CatalogChanges
from MaskSAMSlicerLib.panel.devices import DevicesView
from MaskSAMSlicerLib.panel.model_picker import ModelPicker
from MaskSAMSlicerLib.panel.progress import ProgressView
from MaskSAMSlicerLib.panel.results import ResultsView
from MaskSAMSlicerLib.run import Choice, Outcome
from MaskSAMSlicerLib.worker.client import WorkerError

_POLL_MS = 50
_RULES = ("replace", "add")
# Its own colors, legible in light and dark themes.
_AMBER = "background: #fff3cd; color: #664d03; padding: 4px; border-radius: 3px;"


class Panel:
    """Everything between the widgets and the logic.

    Args:
        ui: the widgets of MaskSAMSlicer.ui by name.
        logic: runs models.
    """

    def __init__(self, ui: Any, logic: SegmentationLogic) -> None:
        self.ui = ui
        self.logic = logic
        self.parameters: Any = None
        self._task = ""  # what the worker does now, in words; empty when it is idle
        self._cancelling = False
        self._lacking: list[str] = []
        self._asked: Any = None  # where the worker is asked which devices there are
        self._timer = qt.QTimer()
        self._timer.interval = _POLL_MS
        self._timer.connect("timeout()", self._poll)
        self._changes = CatalogChanges(
            logic, self.begin, self.progressed, self._catalog_changed, self.failed
        )
        self.picker = ModelPicker(
            ui,
            self._model_chosen,
            self._changes.download,
            self._changes.add,
            self._changes.remove,
        )
        self.progress = ProgressView(ui)
        self.results = ResultsView(ui, self.progress.say, self.complain)
        self.devices = DevicesView(ui)
        self._updates = BoxUpdates(self)
        self.boxes = BoxesView(
            ui,
            self._updates.start,
            self.progress.say,
            self.complain,
            self._update_segment_button,
        )
        for rule, text in zip(
            _RULES, (_("replace the segment"), _("add a new segment")), strict=True
        ):
            ui.ruleSelector.addItem(text, rule)
        ui.segmentButton.connect("clicked(bool)", self._segment_clicked)
        ui.installButton.connect("clicked(bool)", self._install)
        ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._draw_roi)
        ui.ruleSelector.connect("currentIndexChanged(int)", self._rule_chosen)
        ui.deviceSelector.connect("currentIndexChanged(int)", self._device_chosen)
        ui.warningLabel.styleSheet = _AMBER
        logic.on_log = self.progress.log
        logic.on_change = self.update
        self.picker.refresh()
        self.check_packages()

    @property
    def busy(self) -> bool:
        """Whether the worker does something, for this panel or for a script."""
        return bool(self._task) or self.logic.busy

    def set_parameters(self, parameters: Any) -> None:
        """The parameter node's wrapper, or None while a scene closes."""
        self.parameters = parameters
        self.update()

    def update(self) -> None:
        """Brings the widgets up to date with the parameters, the scene and the run."""
        if not self.busy:
            self._cancelling = False
        parameters = self.parameters
        if parameters is not None:
            self.picker.choose(parameters.model)
            _select(self.ui.ruleSelector, parameters.rule)
            _select(self.ui.deviceSelector, parameters.device)
        self.picker.set_enabled(not self.busy)
        for widget in (
            self.ui.inputsButton,
            self.ui.outputButton,
            self.ui.installButton,
        ):
            widget.enabled = not self.busy
        self.results.refresh()
        self.boxes.refresh(self._updates.boxes(), self.busy)
        self._update_segment_button()
        self._update_warning()

    def check_packages(self) -> None:
        """Looks again for what must be installed."""
        self._lacking = installer.missing()
        self.ui.installFrame.visible = bool(self._lacking)
        self.ui.installLabel.text = _("MaskSAM needs Python packages: {packages}.").format(
            packages=", ".join(self._lacking)
        )
        self.update()

    def ask_devices(self) -> None:
        """Finds out which device "Automatic" means; the worker answers when it is ready."""
        if self._asked is None and not self._lacking and not self.busy:
            self._asked = self.logic.client.devices(self.devices.known, lambda _error: None)
            self._timer.start()

    def close(self) -> None:
        """Ends the run and the worker."""
        self._timer.stop()
        self.logic.on_log = lambda _text: None
        self.logic.on_change = lambda: None
        self._task = ""
        self.results.clear()
        self.boxes.close()

    def scene_closing(self) -> None:
        """The nodes of a run under way are about to vanish."""
        self.results.clear()
        self.boxes.refresh(None, self.busy)
        self.logic.forget()
        if self.logic.busy:
            self.cancel()

    def cancel(self) -> None:
        """Stops what is under way."""
        if self.busy and not self._cancelling:
            self._cancelling = True
            self.progress.say(_("Cancelling ..."))
            self.logic.client.cancel()
            self.update()

    def _segment_clicked(self, _checked: bool = False) -> None:
        if self.busy:
            self.cancel()
            return
        try:
            self._start()
        except ValueError as error:
            self.complain(error)

    def _start(self) -> None:
        parameters, row = self.parameters, self.picker.row
        if parameters is None or row is None:
            raise ValueError(_("Choose a model first."))
        choice = Choice(
            [parameters.inputVolume],
            row,
            parameters.roi,
            self._updates.prompts(),
            parameters.outputSegmentation,
            parameters.rule,
            parameters.device,
        )
        self.logic.start(choice, self.progressed, self._segmented, self.failed)
        self.progress.log(
            _("Segmenting '{volume}' with '{model}'.").format(
                volume=parameters.inputVolume.GetName(), model=row.title
            )
        )
        self.begin(_("Starting"))

    def complain(self, error: Exception) -> None:
        """Tell the person what cannot be done."""
        self.progress.log(str(error))
        slicer.util.errorDisplay(str(error), windowTitle=_("MaskSAM"))

    def begin(self, task: str) -> None:
        """The worker does something from now on."""
        self._task = task
        self._cancelling = False
        self.progress.begin(task)
        self._timer.start()
        self.update()

    def end(self, message: str) -> None:
        """The worker is done, one way or another."""
        self._task = ""
        self._cancelling = False
        self.progress.end(message)
        self.update()

    def _poll(self) -> None:
        self.logic.poll()
        if not self._task and (self._asked is None or self._asked.done):
            self._timer.stop()

    def _draw_roi(self, node: Any) -> None:
        """What a person adds wants to be drawn at once."""
        node.CreateDefaultDisplayNodes()
        draw(node)
        self.progress.say(_("Draw the ROI: click two opposite corners in a slice view."))

    def progressed(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """How far the worker is."""
        if not self._cancelling:
            self.progress.advance(stage, fraction, seconds_left)

    def _segmented(self, outcome: Outcome) -> None:
        self.devices.used(outcome.device)
        if self.parameters is not None:
            self.parameters.boxSegmentation = outcome.node
        self.boxes.renewed(self._updates.boxes())
        self.end(
            _("Done: {count} classes in '{name}', {seconds:.1f} s.").format(
                count=len(outcome.found), name=outcome.node.GetName(), seconds=outcome.seconds
            )
        )
        self.results.show(outcome)

    def failed(self, error: WorkerError) -> None:
        """The worker could not do it."""
        quietly = self._updates.end_quietly()
        if error.details:
            self.progress.log(error.details)
        if error.kind == "cancelled" or self._cancelling:
            self.end(_("Cancelled; nothing was changed."))
            return
        self.end(_("Failed: {reason}").format(reason=error))
        if not quietly:
            self.progress.open_log()
            self.complain(error)

    def _catalog_changed(self, added: str) -> None:
        if added and self.parameters is not None:
            self.parameters.model = added
        self.picker.refresh()
        self.end(_("The list of models is up to date."))

    def _install(self, _checked: bool = False) -> None:
        try:
            installer.install(self.progress.log)
        except RuntimeError as error:
            self.complain(error)
        self.check_packages()

    def _model_chosen(self, name: str) -> None:
        if self.parameters is not None:
            self.parameters.model = name
        self.update()

    def _rule_chosen(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.rule = self.ui.ruleSelector.itemData(index)

    def _device_chosen(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.device = self.ui.deviceSelector.itemData(index)

    def _update_segment_button(self) -> None:
        button = self.ui.segmentButton
        parameters = self.parameters
        row = self.picker.row
        if self.busy:
            button.text = _("Cancel")
            button.enabled = not self._cancelling
            button.toolTip = _("Stop; nothing will be changed.")
            return
        button.text = _("Segment")
        reason = ""
        if parameters is None or parameters.inputVolume is None:
            reason = _("Choose a volume first.")
        elif row is None:
            reason = _("Choose a model first.")
        elif not row.usable:
            reason = _("The chosen model is not installed: press Download or Import.")
        elif row.needs_boxes and not self._updates.prompts():
            reason = _("This model needs boxes: name one under Boxes, and draw it.")
        elif self._lacking:
            reason = _("Install the missing Python packages first.")
        button.enabled = not reason
        button.toolTip = reason or _("Segment the volume.")

    def _update_warning(self) -> None:
        text = ""
        parameters, row = self.parameters, self.picker.row
        if parameters is not None and parameters.inputVolume is not None and row is not None:
            try:
                volume = volume_from_node(parameters.inputVolume)
            except ValueError as error:
                text = str(error)
            else:
                has_roi = parameters.roi is not None
                text = "\n".join(doubts(row, parameters.inputVolume, volume, has_roi))
        self.ui.warningLabel.text = text
        self.ui.warningLabel.visible = bool(text)


def _select(combo: Any, value: str) -> None:
    index = combo.findData(value)
    if index >= 0 and combo.currentIndex != index:
        combo.currentIndex = index
