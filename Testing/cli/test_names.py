"""Names of files: any text and any bytes, on any console."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.cli import main
from MaskSAMCore.cohort.cases import find_cases
from MaskSAMCore.errors import MaskSAMError
from Testing.cli.helpers import error_of, run_process
from Testing.helpers.generated import generated_case, write_image

_NAMES = (
    b"caf\xe9",
    b"two  blanks.img",
    b"a[&b] [bold]x[&]",
    b"\x1b[31mred",
    "海\u2028马".encode(),
)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are Unicode")
def test_names_that_are_no_text_are_kept_on_a_console_of_ascii(model: str, tmp_path: Path):
    write_image(generated_case(0, (6, 16, 20))[0], tmp_path / "image.nii.gz")
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    for name in _NAMES:
        os.link(tmp_path / "image.nii.gz", folder + b"/" + name + b".nii.gz")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ["predict", "in", "-o", "out", "-m", model, "--volumes", "table.csv"]
    done = run_process(arguments, cwd=tmp_path, more={**ascii_only, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    written = os.listdir(os.fsencode(tmp_path / "out"))
    assert sorted(written) == sorted([b"cases.csv", *(name + b".nii.gz" for name in _NAMES)])
    table = (tmp_path / "table.csv").read_text(encoding="utf-8-sig")
    assert "caf\\udce9" in table and "a[&b] [bold]x[&]" in table


def test_an_error_shows_a_name_in_one_line_without_codes(
    tmp_path: Path, model: str, capfd: pytest.CaptureFixture[str]
):
    name = "two  blanks\n\x1b[31m\udce9.nii.gz" if sys.platform == "linux" else "two  blanks.nii.gz"
    (tmp_path / name).write_bytes(b"no image")
    arguments = ["predict", str(tmp_path / name), "-o", str(tmp_path / "o.nii.gz"), "-m", model]
    error = error_of(capfd, arguments)
    assert "two  blanks" in error
    assert "\x1b" not in error
    assert sys.platform != "linux" or "\\x1b[31m\\udce9.nii.gz" in error


_CHARACTERS = st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"])
_TEXT = st.text(_CHARACTERS, min_size=1, max_size=20)
_BYTES = st.binary(min_size=1, max_size=12).filter(lambda b: b"/" not in b and b"\0" not in b)
_ANY = _TEXT | _BYTES.map(os.fsdecode) | st.from_regex(r"[ab]_000[0-2]", fullmatch=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some names")
@settings(max_examples=60, deadline=None)
@given(names=st.sets(_ANY, min_size=1, max_size=4), channels=st.integers(1, 2))
def test_every_name_in_a_folder_becomes_a_case_or_an_error(
    names: set[str], channels: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        (folder / f"{name}.nii.gz").write_bytes(b"")
    try:
        found = find_cases([folder], folder / "out", channels, "nii.gz")
    except MaskSAMError:
        return
    cases = found.cases
    used = [path for case in (*cases, *found.left_out) for path in case.paths]
    assert len(set(used)) == len(used)
    assert {path.name for path in used} == {
        f"{name}.nii.gz" for name in names if not name.startswith((".", "~$"))
    }
    outputs = [case.output for case in cases]
    assert len(set(outputs)) == len(outputs)


def test_a_batch_leaves_out_what_systems_leave_in_folders(model: str, tmp_path: Path):
    write_image(generated_case(0, (6, 16, 20))[0], tmp_path / "in" / "a.nii.gz")
    for name in ("._a.nii.gz", ".DS_Store", "Thumbs.db"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    assert main(["predict", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", model]) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.nii.gz"]
