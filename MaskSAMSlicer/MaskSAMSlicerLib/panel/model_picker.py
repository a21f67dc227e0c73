"""The searchable list of models, with what can be done to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMSlicerLib.model_catalog import ModelRow, model_rows, readable_size

# Pixels; the licence, last, may need a scroll.
_TITLE_WIDTH = 190


class ModelPicker:
    """Shows the catalog and lets a person choose, add, download and remove models.

    Args:
        ui: the panel's widgets.
        on_choice: called with the name of the model that a person chose.
        on_download, on_import, on_remove: start the work; they are called once the person agreed,
            with a name or a path.
    """

    def __init__(
        self,
        ui: Any,
        on_choice: Callable[[str], None],
        on_download: Callable[[str], None],
        on_import: Callable[[str], None],
        on_remove: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._on_choice = on_choice
        self._on_download = on_download
        self._on_import = on_import
        self._on_remove = on_remove
        self._rows: list[ModelRow] = []
        self._chosen = ""
        self._enabled = True
        header = ui.modelTree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(0, qt.QHeaderView.Interactive)
        ui.modelTree.setColumnWidth(0, _TITLE_WIDTH)
        ui.modelTree.connect("itemSelectionChanged()", self._selection_changed)
        ui.modelSearch.connect("textChanged(QString)", self._search)
        ui.downloadButton.connect("clicked(bool)", self._download)
        ui.importButton.connect("clicked(bool)", self._import)
        ui.removeButton.connect("clicked(bool)", self._remove)

    @property
    def row(self) -> ModelRow | None:
        """The chosen model."""
        return next((row for row in self._rows if row.name == self._chosen), None)

    def refresh(self) -> None:
        """Reads the catalog again."""
        self._rows = model_rows()
        self._search(self._ui.modelSearch.text)

    def choose(self, name: str) -> None:
        """Show a model as the chosen one."""
        if name != self._chosen:
            self._chosen = name
            self._mark_chosen()
            self._show_details()

    def set_enabled(self, enabled: bool) -> None:
        """Whether models can be chosen and changed now."""
        self._enabled = enabled
        self._ui.modelTree.enabled = enabled
        self._ui.modelSearch.enabled = enabled
        self._show_details()

    def _search(self, text: str) -> None:
        tree = self._ui.modelTree
        blocked = tree.blockSignals(True)
        tree.clear()
        for row in self._rows:
            if row.matches(text) or row.name == self._chosen:
                tree.addTopLevelItem(_item(row))
        tree.blockSignals(blocked)
        self._mark_chosen()
        self._show_details()

    def _mark_chosen(self) -> None:
        tree = self._ui.modelTree
        blocked = tree.blockSignals(True)
        for index in range(tree.topLevelItemCount):
            item = tree.topLevelItem(index)
            chosen = item.data(0, qt.Qt.UserRole) == self._chosen
            item.setSelected(chosen)
            if chosen:
                tree.scrollToItem(item)
        tree.blockSignals(blocked)

    def _selection_changed(self) -> None:
        items = self._ui.modelTree.selectedItems()
        if items:
            self._chosen = items[0].data(0, qt.Qt.UserRole)
            self._show_details()
            self._on_choice(self._chosen)

    def _show_details(self) -> None:
        row = self.row
        self._ui.modelDetails.text = row.details() if row else _("Choose a model.")
        offered = bool(row and row.url and not row.installed)
        self._ui.downloadButton.enabled = bool(self._enabled and offered)
        self._ui.downloadButton.toolTip = (
            _("Download {size} and verify it.").format(size=readable_size(row.size))
            if offered
            else _("The chosen model is installed, or is brought by hand.")
        )
        self._ui.importButton.enabled = self._enabled
        self._ui.removeButton.enabled = bool(self._enabled and row and row.own)

    def _download(self, _checked: bool = False) -> None:
        row = self.row
        if row is None:
            return
        question = _(
            "Download {title}?\n\nFrom: {url}\nSize: {size}\nLicence: {licence}\nSHA-256: {sha256}"
        ).format(
            title=row.title,
            url=row.url,
            size=readable_size(row.size),
            licence=row.licence,
            sha256=row.sha256,
        )
        if slicer.util.confirmOkCancelDisplay(question, _("Download a model")):
            self._on_download(row.name)

    def _import(self, _checked: bool = False) -> None:
        path = qt.QFileDialog.getOpenFileName(
            None,
            _("Add a model from disk"),
            "",
            _("Models (masksam.json *.zip *.pth);;All files (*)"),
        )
        if path:
            chosen = Path(path)
            self._on_import(str(chosen.parent if chosen.name == "masksam.json" else chosen))

    def _remove(self, _checked: bool = False) -> None:
        row = self.row
        if row is None:
            return
        question = _("Delete the files of {title} ({size}) from this computer?").format(
            title=row.title, size=readable_size(row.size)
        )
        if slicer.util.confirmOkCancelDisplay(question, _("Remove a model")):
            self._on_remove(row.name)


def _item(row: ModelRow) -> Any:
    item = qt.QTreeWidgetItem()
    state = _("download") if row.url else _("by hand")
    if row.installed:
        state = _("installed")
    classes = str(len(row.labels)) if row.labels else ""
    texts = (row.title, state, row.modality, classes, readable_size(row.size), row.licence)
    tip = f"{row.title}: {', '.join(label.name for label in row.labels)}".removesuffix(": ")
    for column, text in enumerate(texts):
        item.setText(column, text)
        item.setToolTip(column, tip)
    item.setData(0, qt.Qt.UserRole, row.name)
    return item
