"""Prepare the public repository: the last commit's files in one commit, without history.

The Extensions Index refuses a repository whose whole clone, history included, exceeds 100 MB, and
every version of a model's weights stays in the history.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# A text that the publisher must replace, for example the owner of the public repository.
PLACEHOLDER = r"PLACEHOLDER_[A-Z]+"
LICENCES = ("LICENSE", "NOTICE")
# Largest clone in MiB, the unit of the Extensions Index, whose limit is 100.
LARGEST_CLONE = 60
MESSAGE = "MaskSAM for 3D Slicer"


class ReleaseError(Exception):
    """A reason not to prepare a release, with its remedy."""


def release(source: Path, target: Path, limit: float = LARGEST_CLONE) -> float:
    """Write the last commit's files into a new repository with one commit.

    Args:
        source: folder inside the repository to publish.
        target: folder of the new repository; it must be missing or empty.
        limit: largest clone in MiB.

    Returns:
        Size of a clone in MiB, with its ``.git`` folder.

    Raises:
        ReleaseError: the files are not ready to be published; nothing is left behind.
    """
    source = Path(_git(source, "rev-parse", "--show-toplevel").strip())
    _check(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ReleaseError(f"{target} is not empty: choose a new folder")
    created = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    try:
        _export(source, target)
        _git(target, "init", "-q", "-b", "main")
        # A user's own ignore file must not leave a file out.
        _git(target, "add", "--force", "--all")
        _git(target, "commit", "-q", "-m", MESSAGE)
        size = clone_size(target)
        if size > limit:
            raise ReleaseError(
                f"a clone would have {size:.1f} MiB, more than {limit:g}: make weights or pictures"
                " smaller"
            )
    except BaseException:
        for path in target.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if created:
            target.rmdir()
        raise
    return size


def placeholders(source: Path) -> list[str]:
    """Return the texts that the publisher must still replace, each with its file and line number,
    for example ``"MaskSAM.json:8:PLACEHOLDER_..."``."""
    found = _run(source, "grep", "-n", "-o", "-I", "-E", PLACEHOLDER, "HEAD", "--")
    lines = (line.removeprefix("HEAD:") for line in found.stdout.splitlines())
    return list(dict.fromkeys(lines))


def clone_size(repository: Path) -> float:
    """Return the size in MiB of a full clone of a repository, with its ``.git`` folder."""
    with tempfile.TemporaryDirectory() as folder:
        # Without --no-local the objects would be hard links to loose files, which a download packs.
        _git(repository, "clone", "-q", "--no-local", ".", f"{folder}/clone")
        files = Path(folder, "clone").rglob("*")
        return sum(path.lstat().st_size for path in files if not path.is_dir()) / 2**20


def _check(source: Path) -> None:
    changed = _git(source, "status", "--porcelain").splitlines()
    if changed:
        raise ReleaseError(f"{changed[0][3:]} is not committed: commit or remove it first")
    files = _git(source, "ls-files").splitlines()
    for name in LICENCES:
        if name not in files:
            raise ReleaseError(f"the file {name} is missing: add it")
    unfilled = placeholders(source)
    if unfilled:
        raise ReleaseError(
            "replace these placeholders and commit (see Docs/publishing.md): " + "; ".join(unfilled)
        )


def _export(source: Path, target: Path) -> None:
    """Write the files of the last commit, ignoring the work tree."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        _git(source, "read-tree", "HEAD", environment=index)
        prefix = f"--prefix={target.as_posix()}/"
        _git(source, "checkout-index", "--all", prefix, environment=index)


def _run(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def _git(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    done = _run(folder, *arguments, environment=environment)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Prepare the public repository.")
    parser.add_argument("folder", type=Path, help="new or empty folder of the public repository")
    parser.add_argument(
        "--limit", type=float, default=LARGEST_CLONE, help="largest clone in MiB (%(default)s)"
    )
    options = parser.parse_args()
    target = options.folder.absolute()
    try:
        size = release(Path.cwd(), target, options.limit)
    except ReleaseError as error:
        print(f"release: error: {error}", file=sys.stderr)
        return 2
    print(f"{target}: one commit, {size:.1f} MiB as a clone; next: Docs/publishing.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
