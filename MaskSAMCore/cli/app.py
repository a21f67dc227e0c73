"""App with all commands of ``masksam``, and the function that runs a command line."""

from __future__ import annotations

import errno
import gc
import io
import sys

import typer
from typer.main import get_command

from MaskSAMCore.allocation import keep_freed_memory
from MaskSAMCore.cli import (
    adapt,
    benchmark,
    compare,
    convert,
    demo,
    evaluate,
    export,
    models,
    predict,
    pretrain,
    quality,
    report,
    submission,
    train,
)
from MaskSAMCore.errors import Cancelled, MaskSAMError, describe, is_out_of_memory, one_line
from MaskSAMCore.io.standard_streams import discard

# Number of new objects after which Python searches for garbage; its default is 700.
_ALLOCATIONS_PER_COLLECTION = 100_000

app = typer.Typer(
    name="masksam",
    help="Named, editable segments from medical volumes, without any prompt.\n\n"
    "For research, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(requested: bool) -> None:
    if requested:
        from MaskSAMCore import __version__

        typer.echo(f"masksam {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Accept the options that come before the command."""


for command in (
    predict,
    report,
    evaluate,
    train,
    pretrain,
    adapt,
    convert,
    submission,
    compare,
    export,
    quality,
    models,
    demo,
    benchmark,
):
    command.register(app)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status.

    The status is 0 on success, 2 after an error, and 3 if some cases of a folder failed.

    Args:
        arguments: command line without the program's name; by default that of this process.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, or the user has cancelled the command.
    """
    for stream in (sys.stdout, sys.stderr):
        # Replaced streams, such as those of a notebook, may have no encoding to change.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    keep_freed_memory()
    if arguments is not None:
        return _flushed(_run(arguments))
    # Imported libraries create some hundred thousand objects that stay until the process ends. By
    # default Python would search them for garbage again and again, and once more at exit.
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION)
    status = _flushed(_run(sys.argv[1:]))
    gc.freeze()
    return status


def _flushed(status: int) -> int:
    """Flush stdout, and return the exit status."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if error.errno == errno.EPIPE:
            return status or 1  # The reader of a pipe, such as `head`, has closed it.
        return status or _fail(describe(error), 2)
    return status


def _run(arguments: list[str]) -> int:
    if "" in arguments:
        # An empty path would be the current folder.
        return _fail("an argument is empty: is a variable of the shell not set?", 2)
    try:
        status = get_command(app).main(
            args=arguments,
            prog_name="masksam",
            standalone_mode=False,
        )
    except typer.Exit as finished:
        status = finished.exit_code
    except (typer.Abort, Cancelled) as stopped:
        raise KeyboardInterrupt from stopped
    except (MaskSAMError, OSError) as error:
        return _fail(describe(error), 2)
    except Exception as error:
        if is_out_of_memory(error):
            return _fail(describe(error), 2)
        # The class of usage errors belongs to click or to typer, depending on the version of typer.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        # Some versions of typer name the class of the error before its message.
        message = format_message().replace(": Value error, ", ": ")
        # Without a command, the help is shown and the message is empty.
        return _fail(message or "give one of the commands above", 2)
    # After Ctrl-C, some versions of typer return 130 themselves.
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print(f"masksam: error: {one_line(message)}", file=sys.stderr)
    return status
