"""A client whose worker serves many tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from MaskSAMSlicerLib.worker.client import WorkerClient

# A busy machine takes long to import PyTorch; no test waits so long when all is well.
HANG_SECONDS = 300.0


class SharedClient(WorkerClient):
    """A client whose worker outlives the logic that uses it, as importing PyTorch takes seconds.

    Args:
        models_home: the user's folder of models.
        options: see ``WorkerClient``.
    """

    def __init__(self, models_home: Path, **options: object) -> None:
        self._listener: Callable[[str], None] | None = None
        super().__init__(
            environment={"MASKSAM_HOME": str(models_home)},
            on_log=self._hand_on,
            hang_seconds=HANG_SECONDS,
            **options,
        )

    def for_logic(self, on_log: Callable[[str], None]) -> SharedClient:
        """Return this client, which from now on hands log lines to ``on_log``."""
        self._listener = on_log
        return self

    def close(self) -> None:
        """Cancel all jobs and wait for their end; the worker goes on."""
        self._listener = None
        if self.running:
            self.cancel()
            self.wait(self.devices())

    def end(self) -> None:
        """End the worker."""
        super().close()

    def _hand_on(self, text: str) -> None:
        if self._listener is not None:
            self._listener(text)
