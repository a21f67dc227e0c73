"""Unfinished learning run of a new model, in a folder beside that of the model."""

from __future__ import annotations

from pathlib import Path

# File that is written once a learning run can be resumed.
STATE = "learning.json"


def learning_folder(output: Path) -> Path:
    """Return the folder that holds the learning run of a new model until it is finished.

    Args:
        output: folder of the new model.
    """
    return output.with_name(f".{output.name}.learning")


def unfinished_learning(output: Path) -> Path | None:
    """Return the folder of an interrupted learning run; None if none can be resumed.

    Args:
        output: folder of the new model.
    """
    folder = learning_folder(output)
    return folder if (folder / STATE).is_file() else None
