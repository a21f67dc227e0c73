"""Files and folders that are complete or absent, JSON, and the names of image files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import (
    atomic_file,
    atomic_folder,
    image_stem,
    is_image_name,
    made_folders,
    read_json,
    remove_abandoned,
    write_json,
    write_text,
)


def fail_in_file(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def fail_in_folder(path: Path) -> None:
    with atomic_folder(path) as new:
        (new / "half.txt").write_text("half")
        raise KeyError


def test_a_file_is_complete_or_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_in_file(tmp_path / "new.txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(KeyError):
        fail_in_file(tmp_path / "old.txt")
    assert (tmp_path / "old.txt").read_text() == "old"
    with atomic_file(tmp_path / "old.txt") as temporary:
        assert temporary.name == "old.txt"  # writers choose a format by suffix
        temporary.write_text("new")
    assert (tmp_path / "old.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["old.txt"]


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_in_folder(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    with pytest.raises(KeyError):
        fail_in_folder(tmp_path / "model")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["old.txt"]
    with atomic_folder(tmp_path / "model") as new:
        (new / "new.txt").write_text("new")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_new_files_and_folders_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("x")
    with atomic_folder(tmp_path / "folder"):
        pass
    (tmp_path / "plain file").write_text("x")
    (tmp_path / "plain folder").mkdir()
    for kind in ("file", "folder"):
        mode, expected = ((tmp_path / n).stat().st_mode for n in (kind, f"plain {kind}"))
        assert mode == expected


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_an_existing_path_is_replaced_on_request_only(tmp_path: Path, atomic) -> None:
    (tmp_path / "x").mkdir()
    with (
        pytest.raises(MaskSAMError, match=r"exists.*--overwrite .in Python overwrite=True"),
        atomic(tmp_path / "x", overwrite=False),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_with_a_mark_replaces_only_its_like_and_empty_folders(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with atomic_folder(path, mark="mark.json") as new:
            (new / "mark.json").touch()

    (tmp_path / "empty").mkdir()
    for name in ("new", "new", "empty"):
        write(tmp_path / name)
        assert [path.name for path in (tmp_path / name).iterdir()] == ["mark.json"]
    (tmp_path / "file").write_text("precious")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "other"):
        with pytest.raises(MaskSAMError, match=r"is not replaced.*no mark\.json.*another folder"):
            write(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_missing_folder_is_named(tmp_path: Path, atomic) -> None:
    path = tmp_path / "nowhere" / "x"
    with pytest.raises(MaskSAMError, match=f"cannot write {path}"), atomic(path):
        pass


def test_only_old_temporary_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in (".masksam-old", ".masksam-young", ".masksam-written", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.nrrd").touch()
    for name in (".masksam-old/image.nrrd", ".masksam-old", ".masksam-written", "results"):
        os.utime(tmp_path / name, (0, 0))
    remove_abandoned(tmp_path, min_age_seconds=3600)
    remaining = [".masksam-written", ".masksam-young", "results"]
    assert sorted(p.name for p in tmp_path.iterdir()) == remaining


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    # A file name with bytes that are not UTF-8 holds lone surrogates.
    values = {"name": "größe 海马", "file": "\udce4.nii", "dice": [0.5, 1]}
    write_json(path, values)
    assert read_json(path) == values
    with pytest.raises(MaskSAMError, match="exists"):
        write_json(path, {}, overwrite=False)
    write_json(path, {"name": "größe"}, ensure_ascii=False)
    assert "größe" in path.read_text(encoding="utf-8")


def test_a_file_that_is_missing_or_not_json_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    for content in (None, b"{", b"\xff\xfe"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(MaskSAMError, match=f"{path} cannot be read as JSON"):
            read_json(path)


@pytest.mark.parametrize(
    ("name", "stem", "image"),
    [
        ("brain.nii.gz", "brain", True),
        ("brain.1.NII", "brain.1", True),
        ("brain.seg.nrrd", "brain", True),
        ("brain.nrrd", "brain", True),
        ("brain.hdr.gz", "brain", True),
        ("brain.img.gz", "brain", False),
        ("brain.txt", "brain", False),
        ("MR.1.2.840.7", "MR.1.2.840.7", False),
        ("brain", "brain", False),
    ],
)
def test_image_names_are_known_by_their_suffixes(name: str, stem: str, image: bool) -> None:
    assert image_stem(Path("folder") / name) == stem
    assert is_image_name(Path("folder") / name) == image


SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".mrk.json")
WRITE_ALL = f"""
import sys
from pathlib import Path
import numpy as np
from MaskSAMCore.geometry import RasBox, Volume
from MaskSAMCore.io import write_boxes, write_volume
folder = Path(sys.argv[1])
array = np.random.default_rng(0).normal(size=(30, 40, 50))
for suffix in {SUFFIXES}:
    path = folder / ("full" + suffix)
    try:
        if suffix.endswith(".json"):
            write_boxes([RasBox("a", (0, 0, 0), np.eye(3), (1, 1, 1))] * 199, path)
        else:
            write_volume(Volume(array, np.eye(4)), path)
        print("written")
    except ValueError as error:
        print(type(error).__name__, error)
    print(len(list(folder.iterdir())), "left")
"""
LIMIT_FILE_SIZE = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


def assert_every_write_fails_in_one_line(
    program: str, folder: Path, command: Sequence[str] = ()
) -> None:
    done = subprocess.run(
        [*command, sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(SUFFIXES)
    for suffix, message, left in zip(SUFFIXES, lines[::2], lines[1::2], strict=True):
        assert message.startswith(f"MaskSAMError cannot write {folder / 'full'}{suffix}")
        assert left == "0 left"


def can_mount() -> bool:
    """Return whether this process may mount file systems that only it sees."""
    try:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The disk is a file system of 32 KiB."""
    if not can_mount():
        pytest.skip("a small file system needs Linux with user namespaces")
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=32k tmpfs "$0" && exec "$@"']
    assert_every_write_fails_in_one_line(WRITE_ALL, tmp_path, [*mount, str(tmp_path)])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_limit_on_file_sizes_is_reported_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    assert_every_write_fails_in_one_line(LIMIT_FILE_SIZE + WRITE_ALL, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_of_a_windows_editor_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    path.write_bytes('{"name": "größe"}'.encode(encoding))
    assert read_json(path) == {"name": "größe"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": {"b": 1, "b": 2}}', "it has the key 'b' twice in one object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_python_would_misread_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "values.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(MaskSAMError, match=message):
        read_json(path)


def test_text_with_bytes_that_are_not_utf8_is_written_with_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "table.csv", "caf\udce9,1\n")
    assert (tmp_path / "table.csv").read_bytes() == b"caf\\udce9,1\n"
    write_json(tmp_path / "values.json", ["caf\udce9", "größe"], ensure_ascii=False)
    assert read_json(tmp_path / "values.json") == ["caf\udce9", "größe"]


def fail_in_folders(*folders: Path) -> None:
    with made_folders(folders):
        (folders[0] / "result").write_text("kept")
        raise KeyError


def test_folders_of_outputs_are_removed_after_an_error_if_they_are_new_and_empty(
    tmp_path: Path,
) -> None:
    (tmp_path / "old").mkdir()
    folders = [tmp_path / "results", tmp_path / "old" / "new" / "deep", tmp_path / "old"]
    with pytest.raises(KeyError):
        fail_in_folders(*folders)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["old", "results", os.path.join("results", "result")]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MaskSAMError, match=r"cannot write .*deep: not a folder"):
        fail_in_folders(tmp_path / "new", tmp_path / "file" / "deep")
    assert not (tmp_path / "new").exists()
