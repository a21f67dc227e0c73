"""Models that a person downloads, adds from disk, or removes: the worker's work."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from MaskSAMCore.worker.protocol import AddModelResult
from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.worker.client import WorkerError


class CatalogChanges:
    """Starts changes of the list of models.

    Args:
        logic: has the worker's client.
        on_begin: called with what is done, in words.
        on_progress: called with (stage, fraction done, seconds left or None).
        on_done: called with the name of a model that was added, else with an empty text.
        on_error: called with what went wrong.
    """

    def __init__(
        self,
        logic: SegmentationLogic,
        on_begin: Callable[[str], None],
        on_progress: Callable[[str, float, float | None], None],
        on_done: Callable[[str], None],
        on_error: Callable[[WorkerError], None],
    ) -> None:
        self._logic = logic
        self._on_begin = on_begin
        self._on_progress = on_progress
        self._on_done = on_done
        self._on_error = on_error

    def download(self, name: str) -> None:
        """An entry of the catalog."""
        self._on_begin(_("Downloading"))
        self._logic.client.download(
            name,
            on_progress=self._on_progress,
            on_done=lambda _result: self._on_done(""),
            on_error=self._on_error,
        )

    def add(self, path: str) -> None:
        """A model from disk."""
        self._on_begin(_("Adding the model"))
        self._logic.client.add_model(path, on_done=self._added, on_error=self._on_error)

    def remove(self, name: str) -> None:
        """A model that a person added or downloaded."""
        self._on_begin(_("Removing the model"))
        self._logic.client.remove_model(
            name, on_done=lambda _result: self._on_done(""), on_error=self._on_error
        )

    def _added(self, result: AddModelResult) -> None:
        self._on_done(result.name)
