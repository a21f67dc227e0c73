"""Published repository: one commit, complete, small, without placeholders."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from Testing.helpers.paths import ROOT

RELEASE = ROOT / "Utilities" / "release.py"
# In two parts, so that this file has no placeholder that a release would refuse.
CONTRIBUTORS, OWNER = ("PLACEHOLDER_" + word for word in ("CONTRIBUTORS", "OWNER"))
FILLED_IN = {CONTRIBUTORS: "Ada Example (Example University)", OWNER: "example"}


def git(folder: Path, *arguments: str) -> str:
    options = ("-c", "core.compression=1", "-c", "gc.auto=0")
    done = subprocess.run(
        ["git", *options, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return done.stdout


def environment() -> dict[str, str]:
    """Return an environment with a git author and without the git settings of this computer."""
    names = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "Ada Example"), ("EMAIL", "ada@example.org"))
    }
    return {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def release(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RELEASE), str(target), *options],
        cwd=source,
        capture_output=True,
        text=True,
        env=environment(),
    )


def files_of(repository: Path) -> set[str]:
    listed = git(repository, "ls-files", "--cached", "--others", "--exclude-standard")
    return {name for name in listed.splitlines() if (repository / name).is_file()}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with this one's files committed and every placeholder filled in."""
    folder = tmp_path_factory.mktemp("ready")
    for name in sorted(files_of(ROOT)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("CMakeLists.txt", "MaskSAM.json", "MaskSAMSlicer/MaskSAMSlicer.py"):
        text = (folder / name).read_text(encoding="utf-8")
        for placeholder, value in FILLED_IN.items():
            text = text.replace(placeholder, value)
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "commit", "-q", "-m", "second", "--allow-empty")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a repository with one file besides its licences."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("LICENSE", "NOTICE", "code.txt"):
        (folder / name).write_text(name, encoding="utf-8")
    git(folder, "init", "-q")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_public_repository_has_every_file_in_one_commit_and_is_small(
    ready: Path, tmp_path: Path
):
    target = tmp_path / "public"
    done = release(ready, target)
    assert done.returncode == 0, done.stderr
    assert git(target, "rev-list", "--all", "--count").strip() == "1"
    assert git(target, "status", "--porcelain") == ""
    assert files_of(target) == files_of(ready)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-local", str(target), str(clone))
    sizes = [path.lstat().st_size for path in clone.rglob("*") if not path.is_dir()]
    # The Extensions Index refuses clones of 100 MiB; the rest is room for new weights.
    assert sum(sizes) < 60 * 2**20


def test_files_beside_the_commit_are_left_out(small: Path, tmp_path: Path):
    (small / ".gitignore").write_text("/built/\n", encoding="utf-8")
    git(small, "add", "--all")
    git(small, "commit", "-q", "-m", "ignore")
    (small / "built").mkdir()
    (small / "built" / "secret.txt").write_text("no", encoding="utf-8")
    assert release(small, tmp_path / "public").returncode == 0
    assert files_of(tmp_path / "public") == {".gitignore", "LICENSE", "NOTICE", "code.txt"}


def test_work_that_is_not_committed_is_refused(small: Path, tmp_path: Path):
    (small / "new.txt").write_text("new", encoding="utf-8")
    refused(small, tmp_path / "public", "new.txt is not committed")


def test_a_placeholder_is_refused_with_its_file_and_line(small: Path, tmp_path: Path):
    (small / "code.txt").write_text(f"first\nby {CONTRIBUTORS}\n", encoding="utf-8")
    git(small, "commit", "-q", "-a", "-m", "contributors")
    refused(small, tmp_path / "public", f"code.txt:2:{CONTRIBUTORS}")


def test_a_missing_licence_is_refused(small: Path, tmp_path: Path):
    git(small, "rm", "-q", "NOTICE")
    git(small, "commit", "-q", "-m", "remove")
    refused(small, tmp_path / "public", "NOTICE is missing")


def test_a_folder_with_files_is_refused_and_kept(small: Path, tmp_path: Path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "mine.txt").write_text("mine", encoding="utf-8")
    done = release(small, tmp_path / "public")
    assert done.returncode == 2 and "is not empty" in done.stderr
    assert [path.name for path in (tmp_path / "public").iterdir()] == ["mine.txt"]


def test_a_clone_that_would_be_too_large_is_refused(small: Path, tmp_path: Path):
    # Random bytes cannot be compressed: they count twice, as a file and in the .git folder.
    (small / "weights.bin").write_bytes(os.urandom(2**20))
    git(small, "add", "--all")
    git(small, "commit", "-q", "-m", "weights")
    assert release(small, tmp_path / "enough", "--limit", "3").returncode == 0
    reason = "more than 1.8: make weights or pictures smaller"
    refused(small, tmp_path / "public", reason, "--limit", "1.8")


def refused(source: Path, target: Path, reason: str, *options: str) -> None:
    done = release(source, target, *options)
    assert done.returncode == 2
    assert done.stderr.startswith("release: error: ") and reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not target.exists()


def test_the_public_description_names_contributors_and_what_is_not_permissive(ready: Path):
    """Check the texts that the Extensions Catalog shows before anything is installed."""
    text = (ready / "CMakeLists.txt").read_text(encoding="utf-8")
    fields = dict(re.findall(r'set\(EXTENSION_(\w+) "([^"]+)"\)', text))
    person = r"[^\s(),]+( [^\s(),]+)+ \([^()]+\)"
    assert re.fullmatch(rf"{person}(, {person})*", fields["CONTRIBUTORS"])
    description = fields["DESCRIPTION"]
    for word in ("brain", "hippocampus", "boxes", "independent implementation", "research only"):
        assert word in description.lower()
    notice = (ready / "NOTICE").read_text(encoding="utf-8")
    readme = (ready / "README.md").read_text(encoding="utf-8")
    module = (ready / "MaskSAMSlicer" / "MaskSAMSlicer.py").read_text(encoding="utf-8")
    for card in (ready / "Resources" / "Models").glob("*/masksam.json"):
        licence = json.loads(card.read_text(encoding="utf-8"))["card"]["licence"]
        assert f"Resources/Models/{card.parent.name}: {licence}" in notice
        for shown in (description, readme, module):
            assert licence in shown.replace("Apache License 2.0", "Apache-2.0")
