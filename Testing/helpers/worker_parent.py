"""Program that starts a worker and a job; run as a script.

Arguments: the model, and "hang" or "exit" for the behaviour of the program once the job runs; or
a folder, and "keep" to hang while two corrections are added to it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "MaskSAMSlicer")]

import numpy as np

from MaskSAMCore.geometry import Volume
from MaskSAMCore.labels import Label
from MaskSAMSlicerLib.worker.client import CorrectedCase
from Testing.helpers.paths import KNOWN_WORKER, ROOT
from Testing.helpers.threshold_model import two_blobs
from Testing.helpers.worker_tools import MATRIX, Calls, WorkerClient, request


def main() -> None:
    model, then = sys.argv[1:]
    client, calls = WorkerClient(core_folder=ROOT, command=KNOWN_WORKER), Calls()
    if then == "keep":
        cases = [correction(name) for name in ("first", "second")]
        client.keep_corrections(cases, Path(model), **calls.callbacks())
    else:
        client.segment(request(two_blobs(), model), **calls.callbacks())
    while not {"Segmenting", "Keeping first"} & set(calls.stages):
        client.poll()
        time.sleep(0.01)
    print(client.pid, flush=True)
    if then != "exit":
        time.sleep(300)


def correction(name: str) -> CorrectedCase:
    """Return a corrected case whose image depends on its name."""
    image = two_blobs() + np.float32(len(name))
    labelmap = two_blobs().astype(np.uint8)
    labels = [Label(1, "Anterior", (1, 0, 0)), Label(2, "Posterior", (0, 1, 0))]
    return CorrectedCase(name, [Volume(image, MATRIX)], labelmap, labels, ["Anterior"])


if __name__ == "__main__":
    main()
