"""Files are written whole or not at all, under any name, and never with other values than given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.io import atomic_file, read_volume, write_labelmap, write_volume
from MaskSAMCore.labels import Label

_LABELS = [Label(1, "Anterior", (1.0, 0.5, 0.25))]


def _volume() -> Volume:
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    return Volume(array, np.diag([0.7, 0.8, 2.5, 1.0]), "case")


def _labelmap(shape: tuple[int, int, int]) -> np.ndarray:
    labelmap = np.zeros(shape, dtype=np.int64)
    labelmap[2:4, 3:5, 5:6] = 1
    return labelmap


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd"])
@pytest.mark.parametrize("change", [str, str.upper], ids=["as-named", "upper-case"])
def test_names_may_have_any_letters(
    tmp_path: Path, suffix: str, change: Callable[[str], str]
) -> None:
    folder = tmp_path / "Ablage Ü 海马"
    folder.mkdir()
    volume = _volume()
    write_labelmap(_labelmap(volume.shape), volume, folder / change(f"größe {suffix}"), _LABELS)
    (path,) = folder.iterdir()
    assert path.name == change(f"größe {suffix}")
    assert np.array_equal(read_volume(path).array, _labelmap(volume.shape))


@pytest.mark.parametrize("kind", [">f4", "float16", "bool", "int64", "uint16"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_every_kind_of_number_is_written(tmp_path: Path, suffix: str, kind: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    write_volume(Volume(array, np.eye(4)), tmp_path / f"x{suffix}")
    assert np.array_equal(read_volume(tmp_path / f"x{suffix}").array, array)


@pytest.mark.parametrize(
    ("array", "told"),
    [(np.full((2, 3, 4), np.nan), "NaN"), (np.zeros((0, 3, 4)), "no voxels")],
    ids=["nan", "empty"],
)
def test_a_volume_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, array: np.ndarray, told: str
) -> None:
    with pytest.raises(MaskSAMError, match=told):
        write_volume(Volume(array, np.eye(4)), tmp_path / "x.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-1, 65536, 70000])
def test_a_value_that_is_no_label_is_refused_rather_than_wrapped(
    tmp_path: Path, value: int
) -> None:
    volume = _volume()
    labelmap = _labelmap(volume.shape)
    labelmap[0, 0, 0] = value
    with pytest.raises(MaskSAMError, match=str(value)):
        write_labelmap(labelmap, volume, tmp_path / "x.nrrd", _LABELS)
    assert list(tmp_path.iterdir()) == []


def test_a_labelmap_of_another_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskSAMError, match="grid"):
        write_labelmap(np.zeros((1, 2, 3), np.uint8), _volume(), tmp_path / "x.nrrd", _LABELS)


def _write_half(path: Path) -> None:
    with atomic_file(path) as beside:
        beside.write_text("half")
        raise KeyError


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(KeyError):
        _write_half(tmp_path / "old.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"
    with atomic_file(tmp_path / "old.txt") as beside:
        assert beside.suffix == ".txt"
        beside.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "new"


def test_an_existing_file_is_replaced_on_request_only(tmp_path: Path) -> None:
    volume = _volume()
    write_volume(volume, tmp_path / "x.nrrd")
    with pytest.raises(MaskSAMError, match="exists"):
        write_volume(volume, tmp_path / "x.nrrd")
    write_volume(volume, tmp_path / "x.nrrd", overwrite=True)


@pytest.mark.parametrize("name", ["x.png", "nowhere/x.nrrd"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(MaskSAMError, match="cannot write"):
        write_volume(_volume(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


_FILES = [".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".mrk.json"]
_WRITE_MUCH = """
import sys
from pathlib import Path
import numpy as np
from MaskSAMCore.geometry import RasBox, Volume
from MaskSAMCore.io import write_boxes, write_volume
path = sys.argv[1]
try:
    if path.endswith(".json"):
        write_boxes([RasBox("a", (0, 0, 0), np.eye(3), (1, 1, 1))] * 199, path)
    else:
        array = np.random.default_rng(0).normal(size=(30, 40, 50))
        write_volume(Volume(array, np.eye(4)), path)
except ValueError as error:
    print(type(error).__name__, error)
print("left:", list(Path(path).parent.iterdir()))
"""
_LIMIT_FILE_SIZE = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


def _assert_told_and_nothing_left(
    program: str, folder: Path, suffix: str, within: Sequence[str] = ()
) -> None:
    done = subprocess.run(
        [*within, sys.executable, "-c", program, str(folder / f"full{suffix}")],
        capture_output=True,
        text=True,
        check=False,
    )
    told, left = done.stdout.splitlines()
    assert told.startswith("MaskSAMError cannot write"), done.stdout + done.stderr
    assert left == "left: []"
    assert done.stderr == ""


def _private_disks() -> bool:
    """Whether this process may mount file systems that it alone sees and that end with it."""
    try:
        command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("suffix", _FILES)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    """On a real file system of 32 KiB."""
    if not _private_disks():
        pytest.skip("a small file system to fill needs Linux with user namespaces")
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=32k tmpfs "$0" && exec "$@"']
    _assert_told_and_nothing_left(_WRITE_MUCH, tmp_path, suffix, [*mount, str(tmp_path)])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("suffix", _FILES)
def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(
    tmp_path: Path, suffix: str
) -> None:
    _assert_told_and_nothing_left(_LIMIT_FILE_SIZE + _WRITE_MUCH, tmp_path, suffix)
