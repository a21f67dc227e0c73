"""Training: from a dataset folder to a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fit import FitOptions, fit

__all__ = ["FitOptions", "fit"]


def __getattr__(name: str) -> Any:
    # Losses and settings are usable without Lightning; the loop is loaded when asked for.
    if name in __all__:
        from . import fit as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
