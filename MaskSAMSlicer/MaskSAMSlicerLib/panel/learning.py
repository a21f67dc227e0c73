"""The panel's section Learn: a model adapts to the volumes that the user has corrected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.models.unfinished import unfinished_learning
from MaskSAMCore.worker.protocol import AdaptResult
from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.learning import (
    LearningCallbacks,
    LearningLogic,
    LearningRequest,
    choose_corrections_folder,
    corrections_folder,
    free_name,
    output_of,
)
from MaskSAMSlicerLib.mrml.corrections import images_of
from MaskSAMSlicerLib.panel.channels import ChannelsView
from MaskSAMSlicerLib.panel.corrections_table import CorrectionsTable
from MaskSAMSlicerLib.panel.dialogs import narrow
from MaskSAMSlicerLib.panel.dice_plot import dice_plot
from MaskSAMSlicerLib.panel.model_picker import ModelPicker
from MaskSAMSlicerLib.panel.progress import ProgressView, time_left
from MaskSAMSlicerLib.worker.client import WorkerError

_POLL_MS = 100
_TEMPORARY_WIDGETS = (
    "resumeCheckBox",
    "learnProgress",
    "learnPlot",
    "learnResults",
    "chooseModelButton",
)


class LearningView:
    """The table of corrections, the settings, the button Learn, and the result.

    Learning has its own worker and progress bar, so that segmenting can go on meanwhile.

    Args:
        ui: the panel's widgets.
        logic: adapts models.
        progress: shows refusals, errors and the log.
        picker: holds the chosen model.
        channels: holds the chosen volumes.
        on_missing: called if packages are missing.
        on_change: called when a learning may have begun or ended.

    Attributes:
        parameters: wrapper of the parameter node; None while a scene closes.
        packages_missing: whether packages that every model needs are missing.
        installing: whether packages are being installed.
    """

    def __init__(
        self,
        ui: Any,
        logic: LearningLogic,
        progress: ProgressView,
        picker: ModelPicker,
        channels: ChannelsView,
        on_missing: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self.parameters: Any = None
        self.packages_missing = False
        self.installing = False
        self._ui = ui
        self._logic = logic
        self._progress = progress
        self._picker = picker
        self._channels = channels
        self._on_missing = on_missing
        self._on_change = on_change
        self._model = ""  # the model for which name and folder are shown
        self._new_model = ""
        self._cancelling = False
        self._table = CorrectionsTable(ui.learnTree, self._update_buttons)
        self._timer = qt.QTimer()
        self._timer.interval = _POLL_MS
        self._timer.connect("timeout()", self._poll)
        header = ui.learnResults.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        narrow(ui.learnSelector)
        # Visibility of widgets that are shown at times. It is kept here because expanding a
        # collapsed section shows all of its widgets, even hidden ones.
        self._shown = dict.fromkeys(_TEMPORARY_WIDGETS, False)
        ui.learnButton.connect("contentsCollapsed(bool)", self._on_collapsed)
        ui.learnSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_selected)
        ui.addCorrectionButton.connect("clicked(bool)", self._add)
        ui.removeCorrectionButton.connect("clicked(bool)", self._remove)
        ui.learnName.connect("textChanged(QString)", self._on_name)
        ui.learnFolderButton.connect("clicked(bool)", self._choose_folder)
        ui.startLearningButton.connect("clicked(bool)", self._learn_or_cancel)
        ui.chooseModelButton.connect("clicked(bool)", self._choose_model)
        logic.on_log = progress.log
        logic.on_change = self._on_script

    def _on_script(self) -> None:
        """Show that a script's learning has begun or ended, which may have made a model."""
        self._picker.read_catalog()
        self.refresh()

    def refresh(self) -> None:
        """Show the model that learns and a name for the new model, and update the buttons."""
        self._table.forget_removed()
        self._end_cancelled()
        model = self._picker.model
        if model is not None and model.name != self._model and not self._logic.busy:
            self._model = model.name
            self._ui.learnName.text = free_name(model.name)
            self._show_folder(corrections_folder(model.name))
        self._ui.learnInfo.text = _(
            "Correct the segments of some volumes, tick those that are right, and press Learn:"
            " '{model}' learns from them, on this computer."
        ).format(model="" if model is None else model.title)
        if self._ui.learnSelector.currentNode() is None and self.parameters is not None:
            self._ui.learnSelector.setCurrentNode(self.parameters.outputSegmentation)
        self._show_unfinished()
        self._update_buttons()
        self._on_change()

    def _end_cancelled(self) -> None:
        """Show that a script's learning, which the user has cancelled, has ended."""
        if self._cancelling and not self._logic.busy:
            self._end(_("Cancelled."))

    def offer_corrected(self) -> None:
        """Add the segmentations that the user has corrected to the table, if it is shown."""
        if not self._ui.learnButton.collapsed:
            self._table.offer()

    def clear(self) -> None:
        """Empty the table, because the scene closes; a model goes on learning."""
        self._table.clear()

    def close(self) -> None:
        """Stop polling the worker."""
        self._timer.stop()
        self._logic.on_log = lambda _text: None
        self._logic.on_change = lambda: None

    def _on_collapsed(self, collapsed: bool) -> None:
        if not collapsed:
            self._show()
            self._table.offer()

    def _show(self, **shown: bool) -> None:
        """Show and hide widgets by their names, once the section is expanded."""
        self._shown.update(shown)
        if not self._ui.learnButton.collapsed:
            for name, visible in self._shown.items():
                getattr(self._ui, name).visible = visible

    def _on_selected(self, _node: Any) -> None:
        self._update_buttons()

    def _add(self, _checked: bool = False) -> None:
        node = self._ui.learnSelector.currentNode()
        volumes, chosen = images_of(node), self._channels.volumes
        # The geometry of a segmentation that the user has drawn is that of one channel.
        if None not in chosen and (not volumes or (len(volumes) == 1 and volumes[0] in chosen)):
            volumes = chosen
        try:
            self._table.add(node, volumes)
        except ValueError as error:
            self._progress.refuse(error)

    def _remove(self, _checked: bool = False) -> None:
        self._table.remove_selected()

    def _on_name(self, _text: str) -> None:
        self._show_unfinished()
        self._update_buttons()

    def _show_unfinished(self) -> None:
        """Offer to resume if learning under the entered name was interrupted."""
        found = bool(self._name) and unfinished_learning(output_of(self._name)) is not None
        offered = found and not self._logic.busy
        if offered and not self._shown["resumeCheckBox"]:
            self._ui.resumeCheckBox.checked = True
        self._show(resumeCheckBox=offered)

    @property
    def _name(self) -> str:
        return self._ui.learnName.text.strip()

    @property
    def _folder(self) -> Path:
        return Path(self._ui.learnFolder.text)

    def _show_folder(self, folder: Path) -> None:
        self._ui.learnFolder.text = self._ui.learnFolder.toolTip = str(folder)

    def _choose_folder(self, _checked: bool = False) -> None:
        title = _("Folder that keeps the corrected volumes")
        chosen = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), title, str(self._folder)
        )
        if chosen:
            self._show_folder(Path(chosen))
            choose_corrections_folder(self._model, Path(chosen))
            self._update_buttons()

    def _learn_or_cancel(self, _checked: bool = False) -> None:
        if self._logic.busy:
            self._cancelling = True
            self._ui.learnStatus.text = _("Cancelling ...")
            if self._logic.learning.keeping:
                self._ui.learnStatus.text = _("Cancelling once the corrections are kept ...")
            self._logic.cancel()
            self._update_buttons()
            return
        if installer.missing_for(installer.LEARNING):
            self._on_missing()
            return
        try:
            self._start()
        except ValueError as error:
            self._progress.refuse(error)

    def _start(self) -> None:
        model = self._picker.model
        if model is None:
            raise ValueError(_("Choose a model first."))
        self._table.offer()
        request = LearningRequest(
            model=model,
            name=self._name,
            corrections=self._table.corrections(),
            folder=self._folder,
            minutes=self._ui.learnMinutes.value,
            device="auto" if self.parameters is None else self.parameters.device,
            resume=self._shown["resumeCheckBox"] and self._ui.resumeCheckBox.checked,
        )
        callbacks = LearningCallbacks(
            self._on_progress, self._on_kept, self._on_validation, self._on_done, self._on_error
        )
        self._logic.start(request, callbacks)
        self._new_model, self._cancelling = request.name, False
        self._show(learnProgress=True, learnPlot=False, learnResults=False, chooseModelButton=False)
        self._ui.learnProgress.setRange(0, 0)
        self._say(_("'{model}' learns as '{name}'.").format(model=model.title, name=request.name))
        self._timer.start()
        self.refresh()

    def _on_progress(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        if not self._cancelling:
            self._ui.learnProgress.setRange(0, 1000)
            self._ui.learnProgress.value = round(1000 * fraction)
            self._ui.learnStatus.text = stage + time_left(seconds_left)

    def _on_kept(self, count: int) -> None:
        self._progress.log(
            _("{count} corrected volumes are kept in {folder}.").format(
                count=count, folder=self._folder
            )
        )

    def _on_validation(self, _minutes: float, dice: float) -> None:
        points = self._logic.learning.validations
        self._ui.learnPlot.setPixmap(dice_plot(points))
        self._show(learnPlot=True)
        self._progress.log(_("Dice of volumes held out: {dice:.3f}.").format(dice=dice))

    def _on_done(self, result: AdaptResult) -> None:
        self._end(result.message)
        self._show_result(result)
        if result.kept:
            self._picker.read_catalog()
            self._show(chooseModelButton=True)
            self._ui.learnName.text = free_name(self._model)
        self.refresh()

    def _on_error(self, error: WorkerError) -> None:
        if error.details:
            self._progress.log(error.details)
        if error.kind == "cancelled":
            self._end(_("Cancelled; the corrections and what was learnt so far are kept."))
        else:
            self._end(_("Failed: {reason}").format(reason=error))
            if error.kind == "refused":
                self._progress.refuse(error)
            else:
                self._progress.open_log()
                self._progress.show_error(error)
        self.refresh()

    def _end(self, message: str) -> None:
        self._cancelling = False
        self._show(learnProgress=False)
        self._say(message)

    def _say(self, message: str) -> None:
        self._ui.learnStatus.text = message
        self._progress.log(message)

    def _show_result(self, result: AdaptResult) -> None:
        """Show the Dice before and after, class by class, where volumes were held out."""
        table = self._ui.learnResults
        names = [name for name in result.after if name in result.before]
        table.setRowCount(len(names))
        for row, name in enumerate(names):
            table.setItem(row, 0, qt.QTableWidgetItem(name))
            for column, dice in ((1, result.before[name]), (2, result.after[name])):
                cell = qt.QTableWidgetItem(f"{dice:.3f}")
                cell.setTextAlignment(int(qt.Qt.AlignRight | qt.Qt.AlignVCenter))
                table.setItem(row, column, cell)
        self._show(learnResults=bool(names))

    def _choose_model(self, _checked: bool = False) -> None:
        self._picker.choose(self._new_model)

    def _update_buttons(self) -> None:
        ui, busy = self._ui, self._logic.busy
        for widget in (
            ui.learnTree,
            ui.learnSelector,
            ui.learnName,
            ui.learnMinutes,
            ui.learnFolderButton,
        ):
            widget.enabled = not busy
        ui.addCorrectionButton.enabled = not busy and ui.learnSelector.currentNode() is not None
        ui.removeCorrectionButton.enabled = not busy and self._table.selected
        button = ui.startLearningButton
        if busy:
            button.text = _("Cance&l learning")
            button.enabled = not self._cancelling
            button.toolTip = _("Stop learning; what was learnt so far is kept for the next time.")
            return
        reason = self._why_disabled()
        button.text = _("&Learn")
        button.enabled = not reason
        button.toolTip = reason or _("Adapt the model to the corrected volumes.")

    def _why_disabled(self) -> str:
        """Return why the model cannot learn now; empty if it can."""
        model = self._picker.model
        if model is None:
            return _("Choose a model first.")
        if not model.installed:
            return _("The chosen model is not installed: press Download or Import.")
        if model.needs_boxes:
            return _("This model has no classes that could learn: choose another one.")
        if not self._name:
            return _("Name the new model.")
        if self.installing:
            return _("Wait until the packages are installed.")
        if self.packages_missing:
            return _("Install the missing Python packages first.")
        if not self._table.corrections() and not (self._folder / "dataset.json").is_file():
            return _("Add a corrected segmentation first, and tick the segments that are right.")
        return ""

    def _poll(self) -> None:
        self._logic.poll()
        if not self._logic.busy and not self._logic.needs_polling:
            self._timer.stop()
