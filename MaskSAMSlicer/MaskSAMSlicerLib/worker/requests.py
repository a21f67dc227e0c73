"""What can be asked of a worker besides segmenting, and waiting for it in a script."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from MaskSAMSlicerLib.worker.jobs import DoneCallback, ErrorCallback, Job, ProgressCallback


class Requests:
    """The part of a client that needs nothing but its three ways of doing things."""

    def _ask(
        self,
        method: str,
        params: dict[str, Any],
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        raise NotImplementedError

    def poll(self) -> None:
        """Take in what has come."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop everything."""
        raise NotImplementedError

    def devices(
        self, on_done: DoneCallback | None = None, on_error: ErrorCallback | None = None
    ) -> Job:
        """Where the network can run: `choices`, and which of them `auto` is."""
        return self._ask("devices", {}, None, on_done, on_error)

    def models(
        self, on_done: DoneCallback | None = None, on_error: ErrorCallback | None = None
    ) -> Job:
        """The catalog, as `models`."""
        return self._ask("models", {}, None, on_done, on_error)

    def download(
        self,
        name: str,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Download an entry of the catalog, because a person asked for it."""
        return self._ask("download", {"name": name}, on_progress, on_done, on_error)

    def add_model(
        self,
        path: str | Path,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Verify a bundle or SAM's weights and keep a copy; gives its `name` and `title`."""
        path = str(Path(path).absolute())
        return self._ask("add_model", {"path": path}, on_progress, on_done, on_error)

    def remove_model(
        self,
        name: str,
        on_progress: ProgressCallback | None = None,
        on_done: DoneCallback | None = None,
        on_error: ErrorCallback | None = None,
    ) -> Job:
        """Remove a download or a model that a person added."""
        return self._ask("remove_model", {"name": name}, on_progress, on_done, on_error)

    def wait(
        self,
        job: Job,
        timeout: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Poll until a job is done, and give its result.

        Args:
            job: what to wait for.
            timeout: seconds after which everything is cancelled.
            on_idle: called over and over, to keep a program's windows alive.

        Raises:
            WorkerError: there is none.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not job.done:
            self.poll()
            if until is not None and time.monotonic() > until:
                self.cancel()
            if on_idle is not None:
                on_idle()
            if not job.done:
                time.sleep(0.01)
        if job.error is not None:
            raise job.error
        return job.result or {}
