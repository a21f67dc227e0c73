"""Folders and commands that tests and benchmarks use."""

import sys
from pathlib import Path

# The repository.
ROOT = Path(__file__).resolve().parents[2]
# Real volumes with labels, beside the repository; tests that need them skip where they are absent.
SHARED_DATA = ROOT.parent / "shared" / "data"
# Command that starts a worker whose model and catalog the tests know.
KNOWN_WORKER = (sys.executable, str(ROOT / "Testing" / "helpers" / "known_worker.py"))
