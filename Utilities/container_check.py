"""Run the steps of the Containerfile in a new virtual environment, where no container engine runs.

``python Utilities/container_check.py FOLDER`` installs the content of the image into a new folder,
then segments generated images, first without network and then over Dask. It needs Linux, access to
pip's index, and permission to use ``unshare --net``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_IMAGE = """
import numpy as np
import SimpleITK as sitk
rng = np.random.default_rng(0)
for name in "ab":
    image = sitk.GetImageFromArray(rng.normal(100, 20, (24, 32, 32)))
    sitk.WriteImage(image, f"scans/{name}.nii.gz")
"""


class Steps:
    """Steps of a Containerfile, run in a folder in place of the file system of an image.

    Args:
        file: the Containerfile; paths that it copies are relative to its folder.
        root: new folder.

    Attributes:
        environment: variables that the steps set, and the path of the virtual environment.
        entrypoint: command that the container runs.
    """

    def __init__(self, file: Path, root: Path) -> None:
        self.entrypoint: list[str] = []
        self._root = root
        self._context = file.parent
        self._folder = root
        venv.create(root / "venv", with_pip=True)
        path = f"{root / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            self.environment.pop(name, None)
        for line in file.read_text(encoding="utf-8").splitlines():
            instruction, _, rest = line.partition(" ")
            if line.strip() and instruction != "#":
                print(line, flush=True)
                getattr(self, f"_{instruction.lower()}")(rest)

    def _from(self, image: str) -> None:
        """Ignore the base image of Python; the virtual environment takes its place."""

    def _arg(self, variable: str) -> None:
        """Ignore a build argument, which keeps its value in the environment of this computer."""

    def _env(self, variables: str) -> None:
        self.environment.update(one.split("=", 1) for one in shlex.split(variables))

    def _workdir(self, folder: str) -> None:
        self._folder = self._root / folder.lstrip("/")
        self._folder.mkdir(parents=True, exist_ok=True)

    def _copy(self, names: str) -> None:
        *sources, target = names.split()
        for source in sources:
            path = self._context / source
            if path.is_dir():
                shutil.copytree(path, self._folder / target)
            else:
                shutil.copy(path, self._folder / target)

    def _run(self, command: str) -> None:
        self.call(["sh", "-c", command])

    def _entrypoint(self, command: str) -> None:
        self.entrypoint = json.loads(command)

    def call(self, command: list[str]) -> None:
        """Run a command in the working folder.

        Raises:
            subprocess.CalledProcessError: the command failed.
        """
        subprocess.run(command, cwd=self._folder, env=self.environment, check=True)


def main() -> None:
    """Run the steps and the check commands, and print each of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="new folder")
    folder = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True)
    steps = Steps(ROOT / "Containerfile", folder)
    steps.call(["mkdir", "scans"])
    steps.call(["python", "-c", _IMAGE])
    predict = [*steps.entrypoint, "predict", "scans", "-m", "hippocampus", "-o"]
    commands = [
        [*steps.entrypoint, "--version"],
        ["unshare", "--net", *predict, "without-network"],
        [*predict, "over-dask", "--dask", "local:1"],
        ["cmp", "without-network/a.nii.gz", "over-dask/a.nii.gz"],
        ["cmp", "without-network/b.nii.gz", "over-dask/b.nii.gz"],
    ]
    for command in commands:
        print("$", shlex.join(command), flush=True)
        steps.call(command)
    print("all steps succeeded")


if __name__ == "__main__":
    sys.exit(main())
