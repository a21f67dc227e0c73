"""Command line of the worker: ``python -m MaskSAMCore.worker``."""

from __future__ import annotations

from MaskSAMCore.worker.server import main

if __name__ == "__main__":
    main()
