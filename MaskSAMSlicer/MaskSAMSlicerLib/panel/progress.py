"""Progress of the worker's current task: bar, warnings, status line, log, and cancelling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from MaskSAMSlicerLib.logic import SegmentationLogic
from MaskSAMSlicerLib.worker.client import WorkerError

_POLL_MS = 50
_STATUS_BAR_MS = 10_000
# Colors of warnings, legible in light and dark themes.
_WARNING_STYLE = "background: #fff3cd; color: #664d03; padding: 4px; border-radius: 3px;"


class ProgressView:
    """The warnings above the Segment button, the progress bar, the status line, and the log.

    Args:
        ui: the panel's widgets.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        ui.progressBar.visible = False
        ui.warningLabel.styleSheet = _WARNING_STYLE

    def warn(self, warnings: Sequence[str]) -> None:
        """Show warnings about the user's choices in place of the earlier ones."""
        self._ui.warningLabel.text = "\n".join(warnings)
        self._ui.warningLabel.visible = bool(warnings)

    def refuse(self, error: Exception) -> None:
        """Show why the user's choices cannot work, until the next call of `warn`.

        The main window's status bar shows the reason, too, because the button that was clicked may
        be far below the warnings.
        """
        self.log(str(error))
        self.warn([str(error)])
        slicer.util.showStatusMessage(str(error), _STATUS_BAR_MS)

    def begin(self, task: str) -> None:
        """Show that a task has begun whose duration is not known yet."""
        self._ui.progressBar.setRange(0, 0)
        self._ui.progressBar.visible = True
        self.show_status(task)

    def advance(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """Show the stage and the fraction done of a task, and the time left if it is known."""
        self._ui.progressBar.setRange(0, 1000)
        self._ui.progressBar.value = round(1000 * fraction)
        self.show_status(stage + time_left(seconds_left))

    def end(self, message: str) -> None:
        """Hide the bar and show a message about the end of a task."""
        self._ui.progressBar.visible = False
        self.show_status(message)
        self.log(message)

    def show_status(self, text: str) -> None:
        """Show a text in the status line."""
        self._ui.statusLabel.text = text

    def show_error(self, error: Exception) -> None:
        """Show an error in a dialog and in the log."""
        self.log(str(error))
        slicer.util.errorDisplay(str(error), windowTitle=_("MaskSAM"))

    def log(self, text: str) -> None:
        """Add a line to the log."""
        self._ui.logText.appendPlainText(f"{time.strftime('%H:%M:%S')}  {text}")

    def open_log(self) -> None:
        """Expand the log."""
        self._ui.logButton.collapsed = False


class WorkerTask:
    """The one task that the worker does at a time for the panel.

    Args:
        logic: runs models.
        progress: shows the task.
        on_change: called when a task begins, is being cancelled, or ends.
    """

    def __init__(
        self, logic: SegmentationLogic, progress: ProgressView, on_change: Callable[[], None]
    ) -> None:
        self._logic = logic
        self._progress = progress
        self._on_change = on_change
        self._under_way = False
        self._cancelling = False
        self._stopped = False
        self._next: Callable[[], None] | None = None
        self._timer = qt.QTimer()
        self._timer.interval = _POLL_MS
        self._timer.connect("timeout()", self._poll)

    @property
    def busy(self) -> bool:
        """Return whether the worker has a task, of the panel or of a script, or may not get one."""
        return self._under_way or self._stopped or self._logic.busy

    @property
    def stopped(self) -> bool:
        """Return whether no task may be begun, because packages are being installed."""
        return self._stopped

    @contextmanager
    def no_worker(self, reason: str) -> Iterator[None]:
        """End the worker, and give it no task inside the ``with`` block.

        Args:
            reason: status text.
        """
        self._logic.close()
        self._stopped = True
        try:
            self._progress.begin(reason)
            self._on_change()
            yield
        finally:
            self._stopped = False
            self._on_change()

    @property
    def cancelling(self) -> bool:
        """Return whether the task is being cancelled."""
        return self._cancelling and self.busy

    def begin(self, name: str) -> None:
        """Note that a task was started.

        Args:
            name: status text until the first progress.
        """
        self._under_way, self._cancelling = True, False
        self._progress.begin(name)
        self._timer.start()
        self._on_change()

    def follow_with(self, start: Callable[[], None]) -> None:
        """Call a function once the panel's task has ended, unless the user cancels the task.

        Args:
            start: the function; it replaces a function set earlier.
        """
        if self._under_way:
            self._next = start

    def advance(self, stage: str, fraction: float, seconds_left: float | None) -> None:
        """Show the task's progress."""
        if not self._cancelling:
            self._progress.advance(stage, fraction, seconds_left)

    def end(self, message: str) -> None:
        """Note that the task has ended.

        Args:
            message: status text about the result.
        """
        self._under_way = self._cancelling = False
        self._progress.end(message)
        self._on_change()

    def fail(self, error: WorkerError, show: bool = True, kept: str = "") -> None:
        """Note that the task has failed or was cancelled.

        Args:
            error: the error.
            show: show a dialog, or a warning if the user's choices were refused; nothing if the
                task was cancelled.
            kept: what the task has changed nevertheless; empty for nothing.
        """
        cancelled = self._cancelling or error.kind == "cancelled"
        if error.details:
            self._progress.log(error.details)
        if cancelled:
            self._next = None
            kept = kept or _("nothing was changed")
            self.end(_("Cancelled; {kept}.").format(kept=kept))
            return
        self.end(_("Failed: {reason}").format(reason=error))
        if show and error.kind == "refused":
            self._progress.refuse(error)
        elif show:
            self._progress.open_log()
            self._progress.show_error(error)

    def cancel(self) -> None:
        """Cancel the task, whoever started it."""
        if self.busy and not self._cancelling and not self._stopped:
            self._cancelling = True
            self._progress.show_status(_("Cancelling ..."))
            self._logic.client.cancel()
            self._on_change()

    def end_cancelled(self) -> None:
        """Show that a script's run, which the user has cancelled, has ended."""
        if self._cancelling and not self.busy:
            self._cancelling = False
            self._progress.end(_("Cancelled."))

    def poll(self) -> None:
        """Poll the worker until nothing is left to do, even without a task."""
        self._timer.start()

    def close(self) -> None:
        """Stop polling the worker."""
        self._timer.stop()
        self._under_way = False
        self._next = None

    def _poll(self) -> None:
        self._logic.poll()
        idle = not self._logic.needs_polling
        if idle and self._under_way and not self._logic.busy:
            # The client drops a job before it calls the callback: the callback raised an error.
            self.end(_("Ended after an error inside MaskSAM: see Slicer's error log."))
        if self._next is not None and not self.busy:
            start, self._next = self._next, None
            start()
        if idle and not self._under_way:
            self._timer.stop()


def time_left(seconds: float | None) -> str:
    """Return the time left as the end of a status text; empty if it is unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return _(" - about {seconds:.0f} s left").format(seconds=max(1.0, seconds))
    return _(" - about {minutes:.0f} min left").format(minutes=seconds / 60)
