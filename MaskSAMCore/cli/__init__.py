"""The shell command ``masksam``: one file a command; errors are one line on stderr, status 2."""

from __future__ import annotations

import errno
import os
import sys

import typer
from typer.main import get_command

from MaskSAMCore.cli import benchmark, compare, demo, evaluate, export, models, predict, train
from MaskSAMCore.errors import Cancelled, MaskSAMError

app = typer.Typer(
    name="masksam",
    help="Named, editable segments from medical volumes, without any prompt.\n\n"
    "For research, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        from MaskSAMCore import __version__

        typer.echo(f"masksam {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Options before the command."""


for command in (predict, evaluate, train, compare, export, models, demo, benchmark):
    command.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Runs ``masksam``; returns the exit status: 0, 2 after an error, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    status = _run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python tries again as it ends, and fails in lines of its own.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            return status or 1  # the reader has seen enough
        return status or _failed(_in_words(error), 2)
    return status


def _run(arguments: list[str]) -> int:
    try:
        status = get_command(app).main(
            args=arguments,
            prog_name="masksam",
            standalone_mode=False,
        )
        return status if isinstance(status, int) else 0
    except typer.Exit as finished:
        return finished.exit_code
    except (typer.Abort, KeyboardInterrupt, Cancelled):
        return _failed("stopped; nothing was half-written", 130)
    except MaskSAMError as error:
        return _failed(str(error), 2)
    except MemoryError:
        return _failed("the memory ran out: close other programs, or give a smaller volume", 2)
    except OSError as error:
        return _failed(_in_words(error), 2)
    except Exception as error:
        # Usage errors: their class is click's or typer's own, by the version of typer.
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        return _failed(usage(), 2)


def _in_words(error: OSError) -> str:
    """Which file, and what is wrong with it in the system's words, without numbers."""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(names)}: {reason}" if names else reason


def _failed(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"masksam: error: {line}", file=sys.stderr)
    return status
