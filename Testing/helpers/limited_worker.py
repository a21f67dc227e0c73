"""Worker process with little spare memory; run as a script.

Its limit is the memory that it uses after its imports, plus `_SPARE_BYTES`.
"""

from __future__ import annotations

import resource
from pathlib import Path

import MaskSAMCore.inference  # noqa: F401  (counts as used memory)
from MaskSAMCore.worker.server import main

_SPARE_BYTES = 400 << 20

if __name__ == "__main__":
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    main()
