"""Client whose worker serves many tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from MaskSAMSlicerLib.worker.client import WorkerClient
from Testing.helpers.time_limits import LONG


class SharedClient(WorkerClient):
    """Client whose worker outlives the logic that uses it, because importing PyTorch takes seconds.

    Args:
        models_home: the user's folder of models.
        options: see ``WorkerClient``.
    """

    def __init__(self, models_home: Path, **options: object) -> None:
        self._on_line: Callable[[str], None] | None = None
        super().__init__(
            environment={"MASKSAM_HOME": str(models_home)},
            on_log=self._pass_on,
            hang_seconds=LONG,
            **options,
        )

    def for_logic(self, on_log: Callable[[str], None]) -> SharedClient:
        """Return this client, and pass log lines to ``on_log`` from now on."""
        self._on_line = on_log
        return self

    def close(self) -> None:
        """Cancel all jobs and wait until they have ended; the worker keeps running."""
        self._on_line = None
        self.cancel()
        while self.needs_polling:
            self.poll()
            time.sleep(0.01)

    def end(self) -> None:
        """End the worker."""
        super().close()

    def _pass_on(self, text: str) -> None:
        if self._on_line is not None:
            self._on_line(text)
