"""A real worker with networks whose answers are known; run as a script.

The model is a folder whose name says which: "threshold" and what it does besides.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path


def segmenter_of(path: str | Path, device: str = "auto"):
    """Takes the place of `Segmenter.from_model`."""
    import resource

    import torch

    from MaskSAMCore.inference import MaskSegmenter
    from Testing.helpers.threshold_model import LABELS, SIDES, ThresholdModel, plan_for

    name = Path(path).name

    class Model(ThresholdModel):
        def encode(self, images):
            if name == "noisy":
                print("printed", flush=True)
                ctypes.CDLL(None).puts(b"put by a library")
                os.write(1, b"\xff\xfe raw \x00 bytes\n")
            elif name == "slow":
                time.sleep(0.05)
            elif name == "deaf":
                time.sleep(600)
            elif name == "deadly":
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                os.kill(os.getpid(), 11)
            elif name == "broken":
                raise RuntimeError("a genuine\nfault")
            elif name == "hungry":
                torch.zeros(1 << 50)
            return super().encode(images)

    class Known(MaskSegmenter):
        def open(self, volume, **how):
            if name == "echo":
                volumes = volume if isinstance(volume, list) else [volume]
                self.seen = json.dumps([one.ijk_to_ras.tolist() for one in volumes])
            if name == "greedy":
                import numpy as np

                np.ones(1 << 47, np.uint8)
            session = super().open(volume, **how)
            segment = session.segment

            def noted(*arguments, **more):
                result = segment(*arguments, **more)
                counts = f"encoded {model.encoded}", f"decoded {model.decoded}"
                return replace(result, notes=(*counts, getattr(self, "seen", "")))

            session.segment = noted
            return session

    if name == "anything":
        from MaskSAMCore.inference.sam.segmenter import SamSegmenter
        from Testing.helpers.sam_reference import small_sam

        return SamSegmenter(small_sam(), device="cpu", name=name)
    if name == "lazy":
        time.sleep(600)
    model = Model()
    spacing = (16.0,) * 3 if name == "coarse" else (1.0,) * 3
    labels = SIDES if name == "sided" else LABELS
    return Known(model, plan_for(spacing=spacing), labels, device="cpu")


def main() -> None:
    """A worker, changed in nothing but its networks."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import MaskSAMCore.inference as inference
    from MaskSAMCore.inference import decision
    from MaskSAMCore.worker import server

    if "--small-slabs" in sys.argv:
        sys.argv.remove("--small-slabs")
        decision.SLAB_VOXELS = 1
    if "--largest-file" in sys.argv:
        import resource

        place = sys.argv.index("--largest-file")
        size = int(sys.argv[place + 1])
        del sys.argv[place : place + 2]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if "TEST_ENTRY" in os.environ:
        from MaskSAMCore import models

        models.find = lambda _name: models.Entry(**json.loads(os.environ["TEST_ENTRY"]))
    inference.Segmenter.from_model = staticmethod(segmenter_of)
    server.main()


if __name__ == "__main__":
    main()
