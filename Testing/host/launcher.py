"""Stand-in for PythonSlicer, the launcher of Slicer's Python.

It is run as a script with the folder of Slicer's packages and a command. Like CTKAppLauncher it
puts that folder in front of PYTHONPATH, passes its pipes on to the command and its exit status
back, but answers any crash of the command with status 1 and a line on stderr.
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
