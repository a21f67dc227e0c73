"""Checkpoints that a training continues from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from MaskSAMCore.errors import MaskSAMError

CHECKPOINTS = ("resume-a.ckpt", "resume-b.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """State of a training as saved in a checkpoint, apart from its weights.

    Attributes:
        path: file with the state and the weights.
        iteration: number of completed steps.
        minutes: duration of all parts of the training in minutes.
        restarts: number of times that the training had been resumed.
        stopped: the training ended before its budget was spent.
    """

    path: Path
    iteration: int
    minutes: float
    restarts: int
    stopped: bool

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint without unpickling arbitrary objects.

        Raises:
            Exception: the file is damaged; torch raises errors of many kinds.
        """
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        own = state["masksam"]
        return cls(
            path,
            int(state["global_step"]),
            float(own["minutes"]),
            int(own["restarts"]),
            bool(own.get("stopped", False)),  # Older checkpoints lack this key.
        )


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest readable checkpoint of a training, or None.

    The times of the files are not used, because copies of a run have others.
    """
    found = []
    for path in _files(folder):
        with suppress(Exception):
            found.append(Checkpoint.read(path))
    return max(found, key=lambda each: (each.restarts, each.iteration, each.minutes), default=None)


def resumed_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint that a training continues from; None if it was stopped before it saved
    one.

    Raises:
        MaskSAMError: there are checkpoints, but none can be read.
    """
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None and (damaged := _files(folder)):
        names = " and ".join(path.name for path in damaged)
        raise MaskSAMError(
            f"{folder}: {names} cannot be read: restore a copy, or remove what is damaged to begin"
            " the training again"
        )
    return checkpoint


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in CHECKPOINTS if (folder / name).is_file()]


def next_restart(checkpoint: Checkpoint | None) -> int:
    """Return how often a training has been resumed, this time included.

    Args:
        checkpoint: checkpoint that the training continues from; None for a new training.
    """
    return 0 if checkpoint is None else checkpoint.restarts + 1


def checkpoint_path(checkpoint: Checkpoint | None) -> Path | None:
    """Return the file that Lightning continues from; None for a new training."""
    return None if checkpoint is None else checkpoint.path


def is_stopped(folder: Path) -> bool:
    """Return whether a training ended before its budget was spent."""
    checkpoint = newest_checkpoint(folder)
    return checkpoint is not None and checkpoint.stopped
