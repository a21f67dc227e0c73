"""The shell command ``masksam``, with one file for each command.

Errors are one line on stderr, with exit status 2.
"""

from __future__ import annotations

import sys

# Exit status after Ctrl-C.
_STOPPED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run ``masksam`` and return its exit status.

    It is 0, 2 after an error, 3 if some cases of a folder failed, and 130 after Ctrl-C.

    Args:
        arguments: command line without the program's name; by default that of the process.
    """
    try:
        # Importing all commands takes half a second, in which Ctrl-C is not a traceback either.
        from MaskSAMCore.cli.app import run

        status = run(arguments)
    except KeyboardInterrupt:
        status = _STOPPED
    if status == _STOPPED:
        print("masksam: error: stopped; nothing was half-written", file=sys.stderr)
    return status
