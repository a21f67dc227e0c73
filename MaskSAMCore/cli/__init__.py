"""The shell command ``masksam``, with one file for each command.

Errors are one line on stderr, with exit status 2.
"""

from __future__ import annotations

import signal
import sys

# Exit status after Ctrl-C or SIGTERM.
_STOPPED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run ``masksam`` and return its exit status.

    It is 0, 2 after an error, 3 if some cases of a folder failed, and 130 after Ctrl-C or SIGTERM.

    Args:
        arguments: command line without the program's name; by default that of the process.
    """
    try:
        if arguments is None:
            # Temporary files are removed after SIGTERM, too.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Importing all commands takes half a second, in which Ctrl-C is not a traceback either.
        from MaskSAMCore.cli.app import run

        status = run(arguments)
    except KeyboardInterrupt:
        status = _STOPPED
    if status == _STOPPED:
        print("masksam: error: stopped; nothing was half-written", file=sys.stderr)
    return status
