"""Command line of the worker: ``python -m MaskSAMCore.worker``."""

from __future__ import annotations

import os
import sys

from MaskSAMCore.worker import PACKAGES_VARIABLE

# PythonSlicer, a launcher, puts Slicer's packages in front of PYTHONPATH, so that a folder in
# PYTHONPATH would come after them. Spawned processes inherit sys.path.
if os.environ.get(PACKAGES_VARIABLE):
    sys.path.insert(0, os.environ[PACKAGES_VARIABLE])

from MaskSAMCore.worker.server import main

if __name__ == "__main__":
    main()
