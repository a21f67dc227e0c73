"""Folders and commands that tests and benchmarks use."""

import sys
import sysconfig
from pathlib import Path

# Root folder of the repository.
ROOT = Path(__file__).resolve().parents[2]
# Real volumes with labels beside the repository; tests that need them are skipped without them.
SHARED_DATA = ROOT.parent / "shared" / "data"
# Command that starts a worker with models whose results are known.
KNOWN_WORKER = (sys.executable, str(ROOT / "Testing" / "helpers" / "known_worker.py"))
# Beginning of a command that runs under a launcher, as the worker does in Slicer.
LAUNCHER_SCRIPT = ROOT / "Testing" / "host" / "launcher.py"
LAUNCHER = (sys.executable, "-I", "-S", str(LAUNCHER_SCRIPT), sysconfig.get_path("purelib"))
