"""``masksam models``: list, show, download, add, verify and remove models."""

from __future__ import annotations

from pathlib import Path

import pytest

from MaskSAMCore.cli import main
from MaskSAMCore.models import find, load_bundle
from Testing.cli.helpers import error_of
from Testing.models.helpers import zipped


def test_a_model_is_added_listed_shown_verified_and_removed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models", "add", model]) == 0
    assert main(["models", "list"]) == 0
    listed = capfd.readouterr().out
    assert "small" in listed
    assert "sam_vit_b" in listed
    assert main(["models", "info", "small"]) == 0
    shown = capfd.readouterr().out
    assert "Bright" in shown
    red, green, blue = (round(255 * part) for part in load_bundle(Path(model)).labels[0].color)
    assert f"#{red:02x}{green:02x}{blue:02x}" in shown
    assert main(["models", "verify", "small"]) == 0
    assert main(["models", "verify", model]) == 0
    assert main(["models", "remove", "small", "--yes"]) == 0
    assert "no model named" in error_of(capfd, ["models", "verify", "small"])


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("model", ["--sha256", "0" * 64], "a bundle is verified by the SHA-256 in its description"),
        ("model", ["--unverified"], "are for the weights of a SAM"),
        ("model", ["--like", "medsam"], "are for the weights of a SAM"),
        ("model", ["--name", "mine"], "is a bundle, which keeps its name: leave out --name"),
        ("sam_vit_b_01ec64.pth", ["--like", "medsam"], "not for sam_vit_b"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    file: str,
    options: list[str],
    message: str,
):
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    path = model if file == "model" else str(tmp_path / file)
    assert message in error_of(capfd, ["models", "add", path, *options])
    assert not (tmp_path / "home").exists()


def test_the_zip_of_a_model_is_shown_and_verified(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    archive = str(zipped(Path(model), tmp_path / "model.zip"))
    assert main(["models", "info", archive]) == 0
    assert "Bright" in capfd.readouterr().out
    assert main(["models", "verify", archive]) == 0
    assert capfd.readouterr().out.startswith(f"{archive}: the weights have the recorded SHA-256")
    for command in ("info", "verify", "add"):  # 3D Slicer's Import accepts this file
        error = error_of(capfd, ["models", command, f"{model}/masksam.json"])
        assert error.endswith(f"masksam.json is a file of a bundle: give its folder, {model}")
    Path(archive).write_bytes(b"no zip")
    for command in ("info", "verify"):
        assert "no zip of a model" in error_of(capfd, ["models", command, archive])


def test_a_download_first_prints_its_source_size_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The catalog is the real one; a proxy that does not exist prevents the download."""
    monkeypatch.setenv("MASKSAM_HOME", str(tmp_path / "home"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert main(["models", "download", "sam_vit_b"]) == 2
    printed, _, error = capfd.readouterr().err.partition("masksam: error: ")
    entry = find("sam_vit_b")
    assert "127.0.0.1" not in printed and "cannot download" in error
    for fact in (entry.title, "375 MB", "Apache-2.0", entry.url, f"SHA-256 {entry.sha256}"):
        assert fact in printed
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_a_bundled_model_is_not_downloaded(capfd: pytest.CaptureFixture[str]):
    assert main(["models", "download", "hippocampus"]) == 2
    # No progress bar precedes the error, because no download begins.
    [error] = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert error == "masksam: error: 'hippocampus' is installed already"


def test_an_unknown_name_is_answered_with_all_that_can_be_downloaded(
    capfd: pytest.CaptureFixture[str],
):
    error = error_of(capfd, ["models", "download", "sam"])
    assert "no model named 'sam': choose " in error
    assert all(name in error for name in ("sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam"))
