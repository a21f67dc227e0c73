"""The panel: settings, the Segment button, and the results of runs."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.learning import LearningLogic
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.mrml.box_nodes import draw
from MaskSAMSlicerLib.mrml.volumes import volume_from_node
from MaskSAMSlicerLib.panel.boxes import BoxesView, BoxUpdates
from MaskSAMSlicerLib.panel.channels import ChannelsView
from MaskSAMSlicerLib.panel.devices import DevicesView
from MaskSAMSlicerLib.panel.dialogs import narrow, select_data
from MaskSAMSlicerLib.panel.dicom import DicomView
from MaskSAMSlicerLib.panel.frames import FramesView
from MaskSAMSlicerLib.panel.keyboard import SEGMENT, Keyboard
from MaskSAMSlicerLib.panel.learning import LearningView
from MaskSAMSlicerLib.panel.model_picker import ModelPicker
from MaskSAMSlicerLib.panel.output import OutputView
from MaskSAMSlicerLib.panel.progress import ProgressView, WorkerTask
from MaskSAMSlicerLib.panel.results import ResultsView
from MaskSAMSlicerLib.run import Outcome, RunCallbacks, RunRequest
from MaskSAMSlicerLib.worker.client import WorkerError


class Panel:
    """The module's panel.

    Args:
        ui: the widgets of MaskSAMSlicer.ui by name.
        logic: runs models.
        learning: adapts models.

    Attributes:
        picker: the list of models.
    """

    def __init__(self, ui: Any, logic: SegmentationLogic, learning: LearningLogic) -> None:
        self._ui = ui
        self._logic = logic
        self._learning_logic = learning
        self._parameters: Any = None
        self._missing_packages: list[str] = []
        self._wanted_extras: list[installer.Extra] = []
        self._lacked_roi = False
        self._progress = ProgressView(ui)
        self._task = WorkerTask(logic, self._progress, self.update)
        self._results = ResultsView(
            ui,
            self._task,
            self._progress,
            lambda *box: self._boxes.show_box(*box),
            self.update,
        )
        self._output = OutputView(ui)
        self._dicom = DicomView(
            ui,
            logic,
            self._task,
            self._progress,
            lambda: self._offer_extra(installer.DICOM, _("then export again")),
        )
        self._channels = ChannelsView(ui)
        self._frames = FramesView(ui)
        self._devices = DevicesView(ui, logic, self._task)
        self.picker = ModelPicker(ui, logic, self._task, self._choose_model)
        self._updates = BoxUpdates(logic, self._task, self._progress, self.picker, self._results)
        self._boxes = BoxesView(
            ui, self._updates, self._task, self._progress, self._update_segment_button
        )
        self._learning = LearningView(
            ui,
            learning,
            self._progress,
            self.picker,
            self._channels,
            lambda: self._offer_extra(installer.LEARNING, _("then press Learn again")),
            self._update_install_button,
        )
        for selector in (ui.volumeSelector, ui.roiSelector, ui.outputSelector):
            narrow(selector)
        ui.segmentButton.connect("clicked(bool)", self._segment_or_cancel)
        self._keyboard = Keyboard(ui, self._segment_by_key)
        ui.installButton.connect("clicked(bool)", self._install)
        ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._draw_roi)
        ui.deviceSelector.connect("currentIndexChanged(int)", self._choose_device)
        logic.on_log = self._progress.log
        logic.on_change = self.update
        self.check_packages()

    @property
    def busy(self) -> bool:
        """Return whether the worker has a task, of the panel or of a script."""
        return self._task.busy

    def set_parameters(self, parameters: Any) -> None:
        """Set the wrapper of the parameter node; None while a scene closes."""
        self._parameters = self._updates.parameters = parameters
        self._output.parameters = self._channels.parameters = parameters
        self._frames.parameters = self._dicom.parameters = parameters
        self._learning.parameters = parameters
        self.update()

    def update(self) -> None:
        """Update all widgets from the parameters, the scene and the worker's task."""
        self._task.end_cancelled()
        parameters, busy = self._parameters, self.busy
        if parameters is not None:
            select_data(self._ui.deviceSelector, parameters.device)
        self._output.refresh()
        self._dicom.refresh()
        self.picker.refresh(None if parameters is None else parameters.model)
        self._channels.refresh(self.picker.model)
        self._frames.refresh()
        for widget in (self._ui.inputsButton, self._ui.outputButton, self._ui.roiSelector):
            widget.enabled = not busy
        warnings = self._warnings()
        self._progress.warn(warnings)
        self._open_advanced_for_roi()
        self._results.refresh(warnings)
        self._boxes.refresh()
        self._learning.installing = self._task.stopped
        self._learning.refresh()
        self._update_segment_button()

    def check_packages(self) -> None:
        """Show which Python packages must be installed."""
        self._missing_packages = installer.missing()
        self._learning.packages_missing = bool(self._missing_packages)
        wanted = [extra for extra in self._wanted_extras if installer.missing_for(extra)]
        self._wanted_extras = wanted
        lines = [installer.explain_extra(extra) for extra in wanted]
        if self._missing_packages:
            lines.insert(0, installer.explain(self._missing_packages))
        self._ui.installFrame.visible = bool(lines)
        self._ui.installLabel.text = "\n".join(lines)
        self.update()

    def enter(self) -> None:
        """Show changes to models and boxes made elsewhere, and resume segmenting after drags."""
        self.picker.read_catalog()
        self.update()
        self._boxes.resume()
        self._learning.offer_corrected()
        self._keyboard.enable(True)

    def exit(self) -> None:
        """Stop segmenting after drags; a run in progress continues."""
        self._boxes.pause()
        self._keyboard.enable(False)

    def close(self) -> None:
        """Stop observing the scene and the worker."""
        self._task.close()
        self._logic.on_log = lambda _text: None
        self._logic.on_change = lambda: None
        self._results.clear()
        self._devices.close()
        self._boxes.close()
        self._learning.close()

    def scene_closing(self) -> None:
        """Cancel the run and drop its nodes before the scene closes."""
        self._results.clear()
        self._learning.clear()
        self._channels.clear()
        if self._logic.busy:
            self._task.cancel()
        self._logic.forget()
        self._task.poll()

    def _segment_or_cancel(self, _checked: bool = False) -> None:
        if self.busy:
            self._task.cancel()
            return
        try:
            self._start()
        except ValueError as error:
            self._progress.refuse(error)

    def _segment_by_key(self) -> None:
        # A key that is pressed twice must not cancel the run that it has started.
        if not self.busy:
            self._segment_or_cancel()

    def _start(self) -> None:
        parameters, model = self._parameters, self.picker.model
        if parameters is None or model is None:
            raise ValueError(_("Choose a model first."))
        request = RunRequest(
            volumes=self._channels.volumes,
            model=model,
            roi=parameters.roi,
            boxes=self._updates.boxes_of_first_run(),
            output=self._output.node,
            rule=self._output.rule,
            device=parameters.device,
            resample=self._channels.ask_to_resample(),
        )
        callbacks = RunCallbacks(self._task.advance, self._on_segmented, self._on_failed)
        start = self._logic.start_sequence if self._frames.all else self._logic.start
        start(request, callbacks)
        self._progress.log(
            _("Segmenting '{volume}' with '{model}'.").format(
                volume="', '".join(node.GetName() for node in self._channels.volumes),
                model=model.title,
            )
        )
        self._task.begin(_("Starting"))

    def _on_failed(self, error: WorkerError) -> None:
        outcome = None if self._logic.run is None else self._logic.run.outcome
        if outcome is None:
            self._task.fail(error)
            return
        kept = _("{count} frames are done").format(count=len(outcome.frames))
        self._take(outcome)
        self._task.fail(error, kept=kept)
        self._results.show(outcome)

    def _on_segmented(self, outcome: Outcome) -> None:
        self._take(outcome)
        if outcome.frames:
            text = _("Done: {count} frames in '{name}', {seconds:.1f} s.")
        else:
            text = _("Done: {count} classes in '{name}', {seconds:.1f} s.")
        self._task.end(
            text.format(
                count=len(outcome.frames or outcome.found),
                name=outcome.node.GetName(),
                seconds=outcome.seconds,
            )
        )
        self._results.show(outcome)

    def _take(self, outcome: Outcome) -> None:
        self._devices.show_used(outcome.device)
        if self._parameters is not None:
            self._parameters.boxSegmentation = outcome.node
        self._output.take(outcome.node)
        self._boxes.show_new()

    def _draw_roi(self, node: Any) -> None:
        node.CreateDefaultDisplayNodes()
        draw(node)
        self._progress.show_status(_("Draw the ROI: click two opposite corners in a slice view."))

    def _install(self, _checked: bool = False) -> None:
        # A running worker keeps the packages it has imported, and Windows locks their files.
        self._learning_logic.close()
        with self._task.no_worker(_("Installing the missing packages ...")):
            try:
                if self._missing_packages:
                    installer.install(self._progress.log)
                for extra in tuple(self._wanted_extras):
                    installer.install_extra(extra, self._progress.log)
            except (RuntimeError, OSError) as error:
                self._progress.end(_("The packages could not be installed."))
                self._progress.show_error(error)
            else:
                self._progress.end(_("The packages are installed."))
        self.check_packages()

    def _update_install_button(self) -> None:
        # Packages that a process has imported cannot be replaced.
        self._ui.installButton.enabled = not (self.busy or self._learning_logic.busy)

    def _offer_extra(self, extra: installer.Extra, then: str) -> None:
        """Offer to install the missing packages of a part of MaskSAM that the user needs.

        Args:
            extra: the part.
            then: next step for the user after the installation.
        """
        if extra not in self._wanted_extras:
            self._wanted_extras.append(extra)
        self.check_packages()
        self._progress.show_status(
            _("Install the missing packages at the top of the panel, {then}.").format(then=then)
        )

    def _choose_model(self, name: str) -> None:
        if self._parameters is not None:
            self._parameters.model = name
        self.update()

    def _choose_device(self, index: int) -> None:
        if self._parameters is not None and index >= 0:
            self._parameters.device = self._ui.deviceSelector.itemData(index)

    def _update_segment_button(self) -> None:
        button = self._ui.segmentButton
        if self.busy and not self._task.stopped:
            button.text = _("&Cancel")
            button.enabled = not self._task.cancelling
            button.toolTip = (
                _("Cancel the run; the frames that are done stay.")
                if self._frames.all
                else _("Cancel the run; nothing will be changed.")
            )
            return
        reason = self._why_disabled()
        button.text = _("&Segment")
        button.enabled = not reason
        button.toolTip = reason or _("Segment the volume ({keys}).").format(keys=SEGMENT)

    def _why_disabled(self) -> str:
        """Return why the volume cannot be segmented now; empty if it can."""
        parameters, model = self._parameters, self.picker.model
        if self._task.stopped:
            return _("Wait until the packages are installed.")
        if parameters is None or parameters.inputVolume is None:
            return _("Choose a volume first.")
        if model is None:
            return _("Choose a model first.")
        if not model.installed:
            return _("The chosen model is not installed: press Download or Import.")
        if self._channels.missing:
            return _("Choose a volume for '{channel}' first.").format(
                channel=self._channels.missing
            )
        if model.needs_boxes and not self._updates.boxes_of_first_run():
            return _("This model needs boxes: name a box under Boxes, then draw it.")
        if self._missing_packages:
            return _("Install the missing Python packages first.")
        return ""

    def _warnings(self) -> list[str]:
        """Return why the chosen volume cannot be used, or may not suit the chosen model."""
        parameters, model = self._parameters, self.picker.model
        if parameters is None or model is None or None in self._channels.volumes:
            return []
        try:
            volumes = self._channels.read()
        except ValueError as error:
            return [str(error)]
        doubts = model.suitability.doubts(volumes[0], parameters.roi is not None)
        return [*self._channels.doubts(volumes), *doubts]

    def _open_advanced_for_roi(self) -> None:
        """Open the section Advanced, which has the ROI selector, when an ROI becomes necessary."""
        lacks_roi = self._lacks_roi()
        if lacks_roi and not self._lacked_roi:
            self._ui.advancedButton.collapsed = False
        self._lacked_roi = lacks_roi

    def _lacks_roi(self) -> bool:
        parameters, model = self._parameters, self.picker.model
        if parameters is None or model is None or parameters.roi is not None:
            return False
        try:
            volume = volume_from_node(parameters.inputVolume)
        except ValueError:
            return False
        return bool(model.suitability.lacks_roi(volume))
