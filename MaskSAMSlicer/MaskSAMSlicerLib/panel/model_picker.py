"""The searchable list of models: choosing, downloading, adding and removing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMCore.worker.protocol import AddModelResult
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.model_catalog import ModelInfo, list_models, readable_size
from MaskSAMSlicerLib.panel.progress import WorkerTask

# Columns hidden for lack of room; the summary line shows their values for the chosen model.
_HIDDEN_COLUMNS = (2, 3, 4, 5)


class ModelPicker:
    """The list of models, the description of the chosen one, and the buttons below.

    Args:
        ui: the panel's widgets.
        logic: holds the worker's client, which changes the catalog.
        task: shows the progress of changes.
        on_choice: called with the name of the model that the user chose or added.
    """

    def __init__(
        self,
        ui: Any,
        logic: SegmentationLogic,
        task: WorkerTask,
        on_choice: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._task = task
        self._on_choice = on_choice
        self._models: list[ModelInfo] = []
        self._chosen = ""
        header = ui.modelTree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column in _HIDDEN_COLUMNS:
            ui.modelTree.setColumnHidden(column, True)
        ui.modelTree.connect("itemSelectionChanged()", self._on_selection)
        ui.modelSearch.connect("textChanged(QString)", self._search)
        ui.modelButton.connect("contentsCollapsed(bool)", lambda _collapsed: self._show_details())
        ui.downloadButton.connect("clicked(bool)", self._download)
        ui.importButton.connect("clicked(bool)", self._import)
        ui.removeButton.connect("clicked(bool)", self._remove)
        self.read_catalog()

    @property
    def model(self) -> ModelInfo | None:
        """The chosen model; None if it is not in the catalog."""
        return next((model for model in self._models if model.name == self._chosen), None)

    def choose(self, name: str) -> None:
        """Choose a model, as the user does."""
        self._on_choice(name)

    def refresh(self, name: str | None) -> None:
        """Enable the widgets while the worker is idle, and show a model as the chosen one.

        Args:
            name: name of the model; None to leave the choice as it is.
        """
        self._ui.modelTree.enabled = self._ui.modelSearch.enabled = not self._task.busy
        if name is not None and name != self._chosen:
            self._chosen = name
            self._select_chosen()
        self._show_details()

    def read_catalog(self) -> None:
        """List the models of the catalog, which may have changed."""
        self._models = list_models()
        self._search(self._ui.modelSearch.text)

    def _search(self, text: str) -> None:
        tree = self._ui.modelTree
        blocked = tree.blockSignals(True)
        tree.clear()
        for model in self._models:
            if model.matches(text) or model.name == self._chosen:
                tree.addTopLevelItem(_tree_item(model))
        tree.blockSignals(blocked)
        self._select_chosen()
        self._show_details()

    def _select_chosen(self) -> None:
        tree = self._ui.modelTree
        blocked = tree.blockSignals(True)
        for index in range(tree.topLevelItemCount):
            item = tree.topLevelItem(index)
            chosen = item.data(0, qt.Qt.UserRole) == self._chosen
            item.setSelected(chosen)
            if chosen:
                tree.scrollToItem(item)
        tree.blockSignals(blocked)

    def _on_selection(self) -> None:
        items = self._ui.modelTree.selectedItems()
        if items:
            self._chosen = items[0].data(0, qt.Qt.UserRole)
            self._show_details()
            self._on_choice(self._chosen)

    def _show_details(self) -> None:
        model, idle = self.model, not self._task.busy
        self._ui.modelSummary.text = model.summary() if model else ""
        self._ui.modelDetails.text = model.details() if model else _("Choose a model.")
        can_download = bool(model and model.url and not model.installed)
        if not self._ui.modelButton.collapsed:  # expanding the section runs this method again
            self._ui.downloadButton.visible = can_download
        self._ui.downloadButton.enabled = idle and can_download
        self._ui.downloadButton.toolTip = (
            _("Download {size} and verify the checksum.").format(size=readable_size(model.size))
            if can_download
            else _("The chosen model is installed already, or has to be added by hand.")
        )
        self._ui.importButton.enabled = idle
        self._ui.removeButton.enabled = bool(idle and model and model.own)

    def _download(self, _checked: bool = False) -> None:
        model = self.model
        if model is None:
            return
        question = _(
            "Download {title}?\n\nFrom: {url}\nSize: {size}\nLicence: {licence}\nSHA-256: {sha256}"
        ).format(
            title=model.title,
            url=model.url,
            size=readable_size(model.size),
            licence=model.licence,
            sha256=model.sha256,
        )
        if slicer.util.confirmOkCancelDisplay(question, _("Download a model")):
            self._task.begin(_("Downloading"))
            self._logic.client.download(
                model.name,
                on_progress=self._task.advance,
                on_done=self._on_downloaded,
                on_error=self._task.fail,
            )

    def _import(self, _checked: bool = False) -> None:
        path = qt.QFileDialog.getOpenFileName(
            None,
            _("Add a model from disk"),
            "",
            _("Models (masksam.json *.zip *.pth);;All files (*)"),
        )
        if path:
            chosen = Path(path)
            self._task.begin(_("Adding the model"))
            self._logic.client.add_model(
                chosen.parent if chosen.name == "masksam.json" else chosen,
                on_done=self._on_added,
                on_error=self._task.fail,
            )

    def _remove(self, _checked: bool = False) -> None:
        model = self.model
        if model is None:
            return
        question = _("Delete the files of {title} ({size}) from this computer?").format(
            title=model.title, size=readable_size(model.size)
        )
        if slicer.util.confirmOkCancelDisplay(question, _("Remove a model")):
            self._task.begin(_("Removing the model"))
            self._logic.client.remove_model(
                model.name, on_done=self._on_removed, on_error=self._task.fail
            )

    def _on_added(self, result: AddModelResult) -> None:
        self.read_catalog()
        self._on_choice(result.name)
        self._task.end(_("The model was added."))

    def _on_removed(self, _result: dict[str, Any]) -> None:
        self.read_catalog()
        self._task.end(_("The model was removed."))

    def _on_downloaded(self, _result: dict[str, Any]) -> None:
        self.read_catalog()
        self._task.end(_("The model was downloaded."))


def _tree_item(model: ModelInfo) -> Any:
    item = qt.QTreeWidgetItem()
    state = _("download") if model.url else _("add by hand")
    if model.installed:
        state = _("installed")
    classes = str(len(model.labels)) if model.labels else ""
    size = readable_size(model.size)
    texts = (model.title, state, model.suitability.modality, classes, size, model.licence)
    names = ", ".join(label.name for label in model.labels)
    for column, text in enumerate(texts):
        item.setText(column, text)
        item.setToolTip(column, f"{model.title}: {names}" if names else model.title)
    item.setData(0, qt.Qt.UserRole, model.name)
    return item
