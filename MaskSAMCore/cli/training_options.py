"""Options shared by the commands that train a network."""

from __future__ import annotations

from typing import Any

import typer

# Largest values of options: without a limit, infinity and numbers that no computer can work with
# would be accepted. A million minutes are nearly two years.
MOST_MINUTES = 1e6
MOST_STEPS = 10**9
MOST_WINDOWS = 10**6
MOST_PROCESSES = 1024
MOST_RATE = 1e3

DEVICE = typer.Option("auto", help="auto, cpu, cuda or mps.")
SEED = typer.Option(
    0, min=0, max=2**32 - 1, help="Seed of all random numbers; a resumed run keeps its own."
)


def run_option(default: Any) -> Any:
    """Return the option for the folder of a run.

    Args:
        default: None, or ``...`` where the option is required.
    """
    return typer.Option(default, "-o", "--output", help="Folder of the run.")


def max_minutes_option(default: str = "") -> Any:
    """Return the option for a time budget.

    Args:
        default: text about the budget that applies without the option.
    """
    return typer.Option(
        None,
        min=0.01,
        max=MOST_MINUTES,
        help=f"Time budget over all resumed parts{default}; with --resume, it replaces the run's"
        " budget.",
    )


def resume_option(kept: str) -> Any:
    """Return the option that continues a run.

    Args:
        kept: text that lists the choices, besides the seed, that the run keeps.
    """
    return typer.Option(
        False, "--resume", help=f"Continue the run in -o with its own {kept} and seed."
    )


def stop_after_option(stops: str, purpose: str = "") -> Any:
    """Return the option that ends a part of a training.

    Args:
        stops: text that lists the signals with the same effect.
        purpose: text about the use of the option.
    """
    return typer.Option(
        None,
        "--stop-after",
        min=0.0,
        max=MOST_MINUTES,
        metavar="MINUTES",
        help="End this part of the training after some minutes, with a checkpoint for"
        f" --resume{purpose}. {stops} do the same at once.",
    )
