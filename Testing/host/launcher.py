"""Stand-in for PythonSlicer, the launcher of Slicer's Python; run as a script with a command.

Like CTKAppLauncher it passes its pipes on to the command and its exit status back, but answers
any crash of the command with status 1 and a line on stderr.
"""

import subprocess
import sys


def main() -> int:
    """Run the command, and return the launcher's exit status."""
    status = subprocess.call(sys.argv[1:])
    if status >= 0:
        return status
    sys.stderr.write(f"error: [{sys.argv[1]}] exit abnormally - Report the problem.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
