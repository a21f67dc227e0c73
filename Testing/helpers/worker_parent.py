"""Program that starts a worker and a job; run as a script.

Arguments: the model, and "hang" or "exit" for the behaviour of the program once the job runs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "MaskSAMSlicer")]

from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import Calls, WorkerClient, request


def main() -> None:
    model, then = sys.argv[1:]
    client, calls = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER), Calls()
    client.segment(request(two_blobs(), model), **calls.callbacks())
    while "Segmenting" not in calls.stages:
        client.poll()
        time.sleep(0.01)
    print(client.pid, flush=True)
    if then == "hang":
        time.sleep(300)


if __name__ == "__main__":
    main()
