"""Segmenters of the known worker, with known results and one special behaviour each."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from MaskSAMCore.inference import MaskSegmenter, Segmenter, decision
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from Testing.helpers.estimators import known_estimator
from Testing.helpers.sam_reference import small_sam
from Testing.helpers.threshold_model import LABELS, SIDES, ThresholdModel, plan_for

# Channels of the model "two_channels".
CHANNELS = ("T1", "FLAIR")
# Seconds; no test waits this long.
_HANG_SECONDS = 600.0


def _print_everywhere() -> None:
    print("printed", flush=True)
    ctypes.CDLL(None).puts(b"put by a library")
    os.write(1, b"\xff\xfe raw \x00 bytes\n")


def _crash() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def _fail() -> None:
    raise RuntimeError("a genuine\nfault")


# Behaviour of a model's `encode`, by the model's name.
_ON_ENCODE: dict[str, Callable[[], object]] = {
    "printing": _print_everywhere,
    "slow": lambda: time.sleep(0.05),
    "hanging": lambda: time.sleep(_HANG_SECONDS),
    "crashing": _crash,
    "failing": _fail,
    "huge_tensor": lambda: torch.zeros(1 << 50),
}


class _Model(ThresholdModel):
    def __init__(self, on_encode: Callable[[], object], channels: int) -> None:
        super().__init__(channels=channels)
        self._on_encode = on_encode

    def encode(self, images):
        self._on_encode()
        return super().encode(images)


class _NotingSession:
    """Session whose results have as notes the numbers of encoded and decoded windows and a text."""

    def __init__(self, session, model: ThresholdModel, note: str) -> None:
        self._session = session
        self._model = model
        self._note = note

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def memory_bytes(self) -> int:
        return self._session.memory_bytes

    def close(self) -> None:
        self._session.close()

    def segment(self, *arguments, **options):
        result = self._session.segment(*arguments, **options)
        counts = f"encoded {self._model.encoded}", f"decoded {self._model.decoded}"
        return replace(result, notes=(*counts, self._note))


class _KnownSegmenter(MaskSegmenter):
    """A segmenter with the threshold model on the CPU."""

    def __init__(self, name: str) -> None:
        spacing = (16.0,) * 3 if name == "coarse" else (1.0,) * 3
        labels = SIDES if name == "sided" else LABELS
        channels = CHANNELS if name == "two_channels" else ("MR",)
        model = _Model(_ON_ENCODE.get(name, lambda: None), len(channels))
        plan = plan_for(spacing=spacing, channels=channels)
        # An expected Dice of 0.6 marks the second class of "rated" as possibly wrong.
        estimator = known_estimator([0.9, 0.6]) if name == "rated" else None
        inside = [label.name for label in labels] if name == "head" else []
        super().__init__(
            model,
            plan,
            labels,
            device="cpu",
            name=name,
            estimator=estimator,
            intracranial=inside,
        )

    def open(self, volume, **options):
        if self.name == "huge_array":
            np.ones(1 << 47, np.uint8)
        if self.name == "spilling":
            options["cache_bytes"] = 1
        note = ""
        if self.name == "echo":
            volumes = volume if isinstance(volume, list) else [volume]
            note = json.dumps([one.ijk_to_ras.tolist() for one in volumes])
        return _NotingSession(super().open(volume, **options), self.model, note)


def known_segmenter(name: str) -> Segmenter:
    """Return the segmenter of a name; an unknown name gives one without a special behaviour.

    Args:
        name: "threshold"; a key of `_ON_ENCODE`; "slow_loading" to hang while loading;
            "huge_array", "spilling", "many_slabs" or "echo" for a special session or result;
            "coarse", "sided" or "two_channels" for a special plan or labels; "rated" for a Dice
            estimator; "head" for an intracranial volume; "anything" for a small SAM.
    """
    if name == "anything":
        return SamSegmenter(small_sam(), device="cpu", name=name)
    if name == "slow_loading":
        time.sleep(_HANG_SECONDS)
    if name == "many_slabs":
        decision.SLAB_VOXELS = 1
    return _KnownSegmenter(name)
