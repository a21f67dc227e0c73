"""Lightning trainer with the arguments that all trainings share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from MaskSAMCore.training.devices import precision


def build_trainer(
    kind: str, folder: Path, callbacks: Sequence[Callback], clip: float, **engine: Any
) -> lightning.Trainer:
    """Return a trainer that stops, saves and reports through its callbacks alone.

    Args:
        kind: kind of the device, see :func:`~MaskSAMCore.training.devices.accelerator`.
        folder: folder of the training.
        callbacks: callbacks of the training.
        clip: largest norm of the gradient; 0 does not limit it.
        engine: further arguments of Lightning's trainer, such as loggers and devices.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    arguments: dict[str, Any] = {"devices": 1, "logger": False, **engine}
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        precision=precision(kind),
        max_epochs=-1,
        max_steps=-1,
        gradient_clip_val=clip or None,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **arguments,
    )


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning raises SystemExit for a signal in a ``with`` block.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM ended the block.
    """
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
