"""Stand-in for PythonSlicer, the launcher of Slicer's Python.

Run as a script with the folder of Slicer's packages and a command. Like CTKAppLauncher, the script
puts the folder first in PYTHONPATH, lets the command use its pipes and returns the exit status of
the command. If the command crashes, the script prints a line on stderr and returns status 1.
"""

import os
import subprocess
import sys


def main() -> int:
    """Run the command, and return the launcher's exit status."""
    packages, *command = sys.argv[1:]
    paths = [packages, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    status = subprocess.call(command, env=environment)
    if status >= 0:
        return status
    sys.stderr.write(f"error: [{command[0]}] exit abnormally - Report the problem.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
