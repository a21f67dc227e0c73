"""The shell command ``masksam``, with one file for each command.

An error is reported as one line on stderr, with exit status 2.
"""

from __future__ import annotations

import signal
import sys

# Exit status after Ctrl-C or SIGTERM.
_STOPPED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run ``masksam`` and return its exit status.

    The status is 0 on success, 2 after an error, 3 if some cases of a folder failed, and 130 after
    Ctrl-C or SIGTERM.

    Args:
        arguments: command line without the program's name; by default that of this process.
    """
    try:
        if arguments is None:
            # SIGTERM raises KeyboardInterrupt too, so that temporary files are removed.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Imported here, because it takes half a second, and Ctrl-C must not print a traceback then.
        from MaskSAMCore.cli.app import run

        status = run(arguments)
    except KeyboardInterrupt:
        status = _STOPPED
    if status == _STOPPED:
        print("masksam: error: stopped; nothing was half-written", file=sys.stderr)
    return status
