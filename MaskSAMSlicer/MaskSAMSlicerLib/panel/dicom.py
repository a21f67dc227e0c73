"""Export of the chosen segmentation as a DICOM segmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMSlicerLib import installer
from MaskSAMSlicerLib.dicom_export import export_request, known_files, why_not
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.panel.dialogs import ask_save_path, may_write
from MaskSAMSlicerLib.panel.progress import ProgressView, WorkerTask


class DicomView:
    """The button that exports the segmentation in the output selector, and its option.

    Args:
        ui: the panel's widgets.
        logic: runs the export.
        task: the worker's task.
        progress: shows messages and errors.
        on_missing: called if packages are missing.

    Attributes:
        parameters: wrapper of the parameter node; None while a scene closes.
    """

    def __init__(
        self,
        ui: Any,
        logic: SegmentationLogic,
        task: WorkerTask,
        progress: ProgressView,
        on_missing: Callable[[], None],
    ) -> None:
        self.parameters: Any = None
        self._ui = ui
        self._logic = logic
        self._task = task
        self._progress = progress
        self._on_missing = on_missing
        ui.dicomButton.connect("clicked(bool)", self._export)

    def refresh(self) -> None:
        """Enable the button if the chosen segmentation can be exported."""
        reason = why_not(self._node)
        if self._task.stopped:
            reason = _("Wait until the packages are installed.")
        self._ui.dicomButton.enabled = self._ui.dicomReport.enabled = not reason
        self._ui.dicomButton.toolTip = reason or _(
            "Save the segmentation as a DICOM file that refers to its series."
        )

    @property
    def _node(self) -> Any:
        return None if self.parameters is None else self.parameters.outputSegmentation

    def _export(self, _checked: bool = False) -> None:
        node = self._node
        if installer.missing_for(installer.DICOM):
            self._on_missing()
            return
        title = _("Export DICOM segmentation")
        folder = None
        if not known_files(node):
            folder = self._ask_folder()
            if folder is None:
                return
        path = ask_save_path(title, node.GetName(), ".dcm", "DICOM (*.dcm)")
        if path is None:
            return
        try:
            request = export_request(node, path, bool(self._ui.dicomReport.checked), folder)
        except ValueError as error:
            self._progress.refuse(error)
            return
        if request.report is not None and not may_write(request.report, title):
            return
        self._task.begin(_("Exporting"))
        self._logic.client.export_dicom(
            request,
            on_progress=self._task.advance,
            on_done=lambda _result: self._task.end(_("Saved {path}.").format(path=path)),
            on_error=self._task.fail,
        )

    def _ask_folder(self) -> Path | None:
        """Ask for the folder of the series, which Slicer's DICOM database does not know."""
        title = _("Folder of the volume's DICOM series, which is not in Slicer's DICOM database")
        chosen = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        return Path(chosen) if chosen else None
