"""The shell command ``masksam``: one file a command; errors are one line on stderr, status 2."""

from __future__ import annotations

import sys

import typer
from typer.main import get_command

from ..errors import Cancelled, MaskSAMError
from . import benchmark, demo, evaluate, export, models, predict, train

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
        from .. import __version__

        typer.echo(f"masksam {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Options before the command."""


for command in (predict, evaluate, train, export, models, demo, benchmark):
    command.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Runs ``masksam``; returns the exit status: 0, 2 after an error, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        status = get_command(app).main(
            args=sys.argv[1:] if arguments is None else arguments,
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
    except Exception as error:
        # Usage errors: their class is click's or typer's own, by the version of typer.
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        return _failed(usage(), 2)


def _failed(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"masksam: error: {line}", file=sys.stderr)
    return status
