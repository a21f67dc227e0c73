"""Adding, downloading and removing models, with a server on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.server
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from MaskSAMCore import models
from MaskSAMCore.errors import Cancelled, MaskSAMError
from MaskSAMCore.io.files import sha256
from MaskSAMCore.models.bundle import WEIGHTS
from MaskSAMCore.models.catalog import DESCRIPTION, Entry
from Testing.models.helpers import LABELS, save, zipped


@pytest.mark.parametrize("inside", ["", "small/"])
def test_a_zip_of_a_bundle_is_added_and_found_by_its_name(tmp_path: Path, inside: str):
    bundle, _ = save(tmp_path / "small")
    archive = zipped(bundle.folder, tmp_path / "small.zip", inside)
    added = models.add_model(archive)
    assert added.name == "small"
    found, backbone = models.open_model("small")
    assert found.labels == LABELS
    assert backbone is None
    assert "have the recorded SHA-256" in models.verify("small")
    models.remove("small")
    with pytest.raises(MaskSAMError, match="no model named 'small'"):
        models.open_model("small")


def test_a_model_replaces_no_other_one_of_its_name(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    folder = models.add_model(bundle.folder).folder
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert models.add_model(bundle.folder).folder == folder
    state = {k: v + 1 for k, v in safetensors.torch.load_file(bundle.folder / WEIGHTS).items()}
    with_weights(bundle.folder, safetensors.torch.save(state))
    with pytest.raises(MaskSAMError, match="masksam models remove small"):
        models.add_model(zipped(bundle.folder, tmp_path / "small.zip"))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    # Adding a model again repairs a damaged copy.
    (folder / WEIGHTS).unlink()
    assert models.add_model(bundle.folder) == models.open_model("small")[0]
    models.remove("small")
    assert models.add_model(bundle.folder).folder == folder


def test_a_bundles_zip_or_folder_can_be_used_by_its_path(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    archive = zipped(bundle.folder, tmp_path / "small.zip")
    assert models.open_model(archive)[0].labels == LABELS
    assert models.open_model(bundle.folder)[0] == bundle


def test_a_folder_with_the_name_of_a_model_is_the_model_unless_it_holds_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle, _ = save(tmp_path / "made")
    added = models.add_model(bundle.folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / added.name).mkdir()
    assert models.open_model(added.name)[0] == added
    assert "have the recorded SHA-256" in models.verify(added.name)
    (tmp_path / "other").mkdir()
    with pytest.raises(MaskSAMError, match="is not a model bundle"):
        models.open_model("other")
    (tmp_path / added.name).rmdir()
    bundle.folder.rename(tmp_path / added.name)
    assert models.open_model(added.name)[0].folder == Path(added.name)


def test_archives_with_models_of_one_name_keep_their_own_weights(tmp_path: Path):
    archives, expected = [], []
    for seed in (0, 1):
        bundle, _ = save(tmp_path / f"{seed}")
        state = {
            k: v + seed for k, v in safetensors.torch.load_file(bundle.folder / WEIGHTS).items()
        }
        with_weights(bundle.folder, safetensors.torch.save(state))
        archives.append(zipped(bundle.folder, tmp_path / f"{seed}.zip"))
        expected.append(models.load_bundle(bundle.folder).weights())
    opened = [models.open_model(archive)[0] for archive in archives]
    for bundle, weights in zip(opened, expected, strict=True):
        torch.testing.assert_close(bundle.weights(), weights, rtol=0, atol=0)


def test_an_archive_whose_unpacked_files_are_damaged_is_unpacked_again(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    archive = zipped(bundle.folder, tmp_path / "small.zip")
    unpacked = models.open_model(archive)[0].folder
    (unpacked / WEIGHTS).write_bytes(b"damaged")
    models.open_model(archive)[0].build()
    assert models.open_model(archive)[0].folder == unpacked


def test_unpacked_archives_that_are_no_longer_opened_are_removed(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    archive = zipped(bundle.folder, tmp_path / "small.zip")
    other = zipped(bundle.folder, tmp_path / "other.zip", "small/")
    unpacked = models.open_model(archive)[0].folder
    os.utime(unpacked, (0, 0))
    models.open_model(archive)
    kept = models.open_model(other)[0].folder
    assert unpacked.exists() and unpacked != kept
    for folder in (unpacked, kept):
        os.utime(folder, (0, 0))
    (kept / WEIGHTS).unlink()
    models.open_model(other)
    assert kept.exists() and not unpacked.exists()


def test_a_model_cannot_have_the_name_of_a_sam(tmp_path: Path):
    bundle, _ = save(tmp_path / "small", name="sam_vit_b")
    with pytest.raises(MaskSAMError, match="exists already"):
        models.add_model(bundle.folder)
    assert models.find("sam_vit_b").kind == "backbone"


def unsafe_archive(tmp_path: Path, names: list[str]) -> Path:
    bundle, _ = save(tmp_path / "small")
    archive = tmp_path / "unsafe.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for name in names:
            source = DESCRIPTION if name.endswith(".json") else WEIGHTS
            # Unlike write(), this keeps a leading slash and dots.
            target.writestr(zipfile.ZipInfo(name), (bundle.folder / source).read_bytes())
    return archive


@pytest.mark.parametrize(
    "names",
    [
        [f"../{DESCRIPTION}", f"../{WEIGHTS}"],
        [f"/tmp/{DESCRIPTION}", f"/tmp/{WEIGHTS}"],
        [f"a/b/{DESCRIPTION}", f"a/b/{WEIGHTS}"],
        [DESCRIPTION],
        [f"a/{DESCRIPTION}", f"b/{DESCRIPTION}", WEIGHTS],
    ],
)
def test_an_archive_with_unsafe_paths_writes_nothing(tmp_path: Path, names: list[str]):
    archive = unsafe_archive(tmp_path, names)
    before = {p for p in tmp_path.rglob("*") if "home" not in p.parts}
    with pytest.raises(MaskSAMError):
        models.add_model(archive)
    assert {p for p in tmp_path.rglob("*") if "home" not in p.parts} == before
    assert not [p for p in (tmp_path / "home").rglob("*") if p.is_file()]


def test_a_file_that_is_not_a_zip_is_refused(tmp_path: Path):
    path = tmp_path / "model.zip"
    path.write_bytes(b"PK but not really")
    with pytest.raises(MaskSAMError, match="cannot be unpacked"):
        models.add_model(path)
    with pytest.raises(MaskSAMError, match="does not exist"):
        models.add_model(tmp_path / "none.zip")


def test_a_models_name_cannot_leave_its_folder(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    path = bundle.folder / DESCRIPTION
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), "name": "../../away"})
    )
    with pytest.raises(MaskSAMError, match="cannot be a model's name"):
        models.add_model(bundle.folder)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield a folder that is served on the loopback address, and the URL of the server."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def entry_of(path: Path, address: str, kind: str = "model", **changes: object) -> Entry:
    values = Entry(
        path.stem, "Title", kind, "MIT", path.stat().st_size, f"{address}/{path.name}", sha256(path)
    )  # type: ignore[arg-type]
    return dataclasses.replace(values, **changes)  # type: ignore[arg-type]


def test_a_download_is_verified_installed_and_reported(tmp_path: Path, server):
    folder, address = server
    bundle, _ = save(tmp_path / "small")
    archive = zipped(bundle.folder, folder / "small.zip")
    seen: list[tuple[int, int]] = []
    path = models.download(
        entry_of(archive, address), lambda done, total: seen.append((done, total))
    )
    assert path == models.user_folder() / "models" / "small"
    assert models.open_model("small")[0].labels == LABELS
    assert seen
    assert seen[-1][1] == archive.stat().st_size
    assert not (models.user_folder() / "downloads" / "small.zip").exists()


def test_a_download_with_another_sha256_is_deleted(tmp_path: Path, server):
    folder, address = server
    path = folder / "sam.pth"
    path.write_bytes(b"x" * 1000)
    entry = entry_of(path, address, "backbone", sha256="0" * 64)
    with pytest.raises(MaskSAMError, match="another SHA-256 than in the"):
        models.download(entry)
    assert not [p for p in models.user_folder().rglob("*") if p.is_file()]


def test_a_failed_download_says_how_to_add_the_file(tmp_path: Path, server):
    folder, address = server
    path = folder / "sam.pth"
    path.write_bytes(b"x" * 1000)
    absent = entry_of(path, address, "backbone", url=f"{address}/absent.pth")
    refused = entry_of(path, "http://127.0.0.1:9", "backbone")
    for entry in (absent, refused):
        with pytest.raises(MaskSAMError, match="add it with masksam models add"):
            models.download(entry)
    assert not [p for p in models.user_folder().rglob("*") if p.is_file()]


def test_a_download_can_be_cancelled_and_leaves_nothing(tmp_path: Path, server):
    folder, address = server
    path = folder / "sam.pth"
    path.write_bytes(b"x" * 2_000_000)
    with pytest.raises(Cancelled):
        models.download(entry_of(path, address, "backbone"), cancelled=lambda: True)
    assert not [p for p in models.user_folder().rglob("*") if p.is_file()]


def test_a_download_removes_old_ones_that_were_killed(tmp_path: Path, server):
    folder, address = server
    path = folder / "sam.pth"
    path.write_bytes(b"weights")
    killed = models.user_folder() / "downloads" / ".masksam-killed"
    running = killed.with_name(".masksam-running")
    for unfinished in (killed, running):
        unfinished.mkdir(parents=True)
    os.utime(killed, (0, 0))
    models.download(entry_of(path, address, "backbone"))
    assert running.exists() and not killed.exists()


def test_a_downloaded_backbone_is_added_if_its_sha256_is_right(tmp_path: Path):
    path = tmp_path / "sam.pth"
    path.write_bytes(b"weights")
    entry = entry_of(path, "https://example.org", "backbone")
    kept = models.add_file(entry, path)
    assert kept.read_bytes() == b"weights"
    assert models.installed(entry)
    path.write_bytes(b"other")
    with pytest.raises(MaskSAMError, match="it has another SHA-256"):
        models.add_file(entry, path)


def test_a_model_that_is_not_installed_cannot_be_removed():
    with pytest.raises(MaskSAMError, match="is not installed"):
        models.remove("sam_vit_b")
    with pytest.raises(MaskSAMError, match="no model named 'nothing'"):
        models.remove("nothing")


def test_a_damaged_zip_is_refused_whatever_byte_is_wrong(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    archive = tmp_path / "small.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name in (DESCRIPTION, WEIGHTS):
            target.write(bundle.folder / name, name)
    content = archive.read_bytes()
    for place in [*range(0, 40), *range(len(content) - 200, len(content), 7), len(content) // 2]:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        archive.write_bytes(bytes(damaged))
        # A damaged byte in a time or an attribute is harmless, so an error is not required.
        with contextlib.suppress(MaskSAMError):
            models.add_model(archive)


def test_hidden_files_of_a_bundle_are_not_copied(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    for name in (".DS_Store", "._masksam.json"):
        (bundle.folder / name).write_bytes(b"macOS")
    added = models.add_model(bundle.folder)
    assert sorted(path.name for path in added.folder.iterdir()) == [DESCRIPTION, WEIGHTS]


def with_weights(folder: Path, content: bytes) -> Path:
    """Replace the weights of a bundle, and their SHA-256 in its description."""
    (folder / WEIGHTS).write_bytes(content)
    values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    values["weights_sha256"] = sha256(folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: b"version https://git-lfs.github.com/spec/v1", "safetensors"),
        (lambda state: safetensors.torch.save(state)[:-10], "safetensors"),
        (lambda state: safetensors.torch.save(dict(list(state.items())[1:])), "do not fit"),
        (
            lambda state: safetensors.torch.save({k: v.to(torch.int8) for k, v in state.items()}),
            "another kind",
        ),
        (
            lambda state: safetensors.torch.save({k: v * torch.nan for k, v in state.items()}),
            "not finite",
        ),
    ],
    ids=["pointer", "truncated", "missing", "integers", "NaN"],
)
def test_a_model_with_unusable_weights_is_not_added(
    change: Callable[[dict[str, torch.Tensor]], bytes], message: str, tmp_path: Path
):
    bundle, _ = save(tmp_path / "small")
    state = safetensors.torch.load_file(bundle.folder / WEIGHTS)
    archive = zipped(with_weights(bundle.folder, change(state)), tmp_path / "small.zip")
    for path in (bundle.folder, archive):
        with pytest.raises(MaskSAMError, match=message):
            models.add_model(path)
    assert not (models.user_folder() / "models").exists()


def test_the_error_of_an_archive_names_the_archive(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    (bundle.folder / WEIGHTS).write_bytes(b"other")
    archive = zipped(bundle.folder, tmp_path / "small.zip")
    with pytest.raises(MaskSAMError, match="is damaged or was replaced") as caught:
        models.add_model(archive)
    assert str(caught.value).startswith(str(archive))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_not_a_damaged_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    bundle, _ = save(tmp_path / "small")
    archive = zipped(bundle.folder, tmp_path / "small.zip")

    def full(*_: object) -> None:
        raise OSError(number, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(MaskSAMError, match="no space left on device") as caught:
        models.add_model(archive)
    assert "damaged" not in str(caught.value)
    assert not [path for path in models.user_folder().rglob("*") if path.is_file()]


def test_a_full_disk_refuses_a_folder_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundle, _ = save(tmp_path / "small")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(MaskSAMError, match=r"^cannot copy [^\[]*: no space left on device$"):
        models.add_model(bundle.folder)
    assert not models.user_folder().exists()


def test_a_model_that_is_linked_into_the_users_folder_is_removed_from_there_only(tmp_path: Path):
    bundle, _ = save(tmp_path / "elsewhere")
    link = models.user_folder() / "models" / "small"
    link.parent.mkdir(parents=True)
    link.symlink_to(bundle.folder, target_is_directory=True)
    assert models.find("small").folder == link
    models.remove("small")
    assert not link.is_symlink()
    models.load_bundle(bundle.folder)


def test_the_error_of_an_archive_says_where_in_it_a_model_must_lie(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    archive = zipped(bundle.folder, tmp_path / "small.zip", "out/models/small/")
    with pytest.raises(MaskSAMError, match="neither at its top nor in a folder there"):
        models.open_model(archive)
