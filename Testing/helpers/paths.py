"""Folders that tests and benchmarks use."""

from pathlib import Path

# The repository.
ROOT = Path(__file__).resolve().parents[2]
# Real volumes with labels, beside the repository; tests that need them skip where they are absent.
SHARED_DATA = ROOT.parent / "shared" / "data"
# A worker whose model and catalog the tests know.
KNOWN_WORKER_SCRIPT = ROOT / "Testing" / "helpers" / "known_worker.py"
