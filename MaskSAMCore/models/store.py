"""Getting models: downloading what the catalog lists, adding and removing one's own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from MaskSAMCore.errors import Cancelled, MaskSAMError
from MaskSAMCore.models.backbone import sha256
from MaskSAMCore.models.bundle import Bundle, load_bundle, replace_folder, unpack_bundle
from MaskSAMCore.models.catalog import Entry, catalog, find, how_to_get, installed, user_folder

ProgressCallback = Callable[[int, int], None]


def open_model(name_or_path: str | Path) -> tuple[Bundle, Path | None]:
    """The verified bundle of a catalog name, a folder or a zip, and the weights of its frozen SAM
    (None where it has none, or where they are not installed).

    Raises:
        MaskSAMError: there is no such model, or it is damaged.
    """
    path = Path(name_or_path)
    if path.is_dir():
        bundle = load_bundle(path)
    elif path.is_file():
        bundle = add_model(path, keep=False)
    else:
        entry = find(str(name_or_path))
        if entry.kind != "model":
            raise MaskSAMError(f"'{entry.name}' is a backbone, not a model with classes")
        if entry.folder is None:
            raise MaskSAMError(how_to_get(entry))
        bundle = load_bundle(entry.folder)
    return bundle, _backbone(bundle)


def _backbone(bundle: Bundle) -> Path | None:
    sam = bundle.config.frozen_sam
    if sam is None:
        return None
    wanted = f"sam_{sam.name}"
    there = [e for e in catalog() if e.kind == "backbone" and e.file.is_file()]
    for entry in there:
        if entry.sha256 == bundle.sam_sha256:
            return entry.file
    # Of another file than the model's, building tells.
    return next((entry.file for entry in there if entry.name == wanted), None)


def download(
    entry: Entry,
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Downloads an entry, verifies it and installs it. Only ever called for a person who asked.

    Args:
        progress: called with bytes done and bytes in all.
        cancelled: asked as data come in; True stops and leaves nothing.

    Returns:
        The file of a backbone, or the folder of a model.

    Raises:
        MaskSAMError: no connection, or other content than the catalog promises.
        Cancelled: the caller wished to stop.
    """
    if not entry.url and entry.folder is None:
        raise MaskSAMError(how_to_get(entry))
    if not entry.url:
        raise MaskSAMError(f"'{entry.name}' is installed already")
    target = entry.file
    if not (target.is_file() and sha256(target) == entry.sha256):
        _fetch(entry, target, progress, cancelled)
    if entry.kind == "backbone":
        return target
    folder = add_model(target, keep=True).folder
    target.unlink()
    return folder


def _fetch(
    entry: Entry,
    target: Path,
    progress: ProgressCallback | None,
    cancelled: Callable[[], bool] | None,
) -> None:
    import pooch
    import requests

    class Bar:
        """What pooch takes for a tqdm bar."""

        total = entry.size
        done = 0

        def update(self, count: int) -> None:
            if cancelled is not None and cancelled():
                raise Cancelled
            self.done += count
            if progress is not None:
                progress(self.done, max(self.total, entry.size))

        def reset(self) -> None:
            self.done = 0

        def close(self) -> None:
            pass

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".masksam-", dir=target.parent) as beside:
        try:
            pooch.get_logger().setLevel("ERROR")
            got = pooch.retrieve(
                entry.url,
                known_hash=f"sha256:{entry.sha256}",
                fname=target.name,
                path=beside,
                downloader=pooch.HTTPDownloader(progressbar=Bar(), timeout=30),
            )
        except ValueError as error:
            raise MaskSAMError(
                f"what came from {entry.url} is not what the catalog promises (another SHA-256):"
                " it was thrown away; try again later"
            ) from error
        except (OSError, requests.RequestException) as error:
            raise MaskSAMError(
                f"cannot download {entry.url} ({type(error).__name__}): check the connection or"
                " the proxy, or download it elsewhere and add the file by hand"
            ) from error
        os.replace(got, target)


def add_file(entry: Entry, path: Path) -> Path:
    """Takes a backbone's file that was downloaded by hand.

    Raises:
        MaskSAMError: it is not the file that the catalog means, or the catalog knows no SHA-256.
    """
    if not entry.url:
        raise MaskSAMError(
            f"nothing vouches for {path}: masksam models add {path} --name {entry.name}"
        )
    if not path.is_file():
        raise MaskSAMError(f"{path} does not exist")
    if sha256(path) != entry.sha256:
        raise MaskSAMError(f"{path} is not {entry.name}: its SHA-256 is another")
    entry.file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".masksam-", dir=entry.file.parent) as beside:
        copy = Path(beside) / entry.file.name
        shutil.copyfile(path, copy)
        os.replace(copy, entry.file)
    return entry.file


def add_model(path: Path, keep: bool = True) -> Bundle:
    """Verifies a bundle (folder or zip) and copies it to a person's own models.

    Args:
        keep: False only unpacks a zip, into the cache of unpacked archives.

    Raises:
        MaskSAMError: it is damaged, or a model of its name ships with MaskSAM.
    """
    models = user_folder() / ("models" if keep else "unpacked")
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".masksam-", dir=models) as beside:
        new = Path(beside) / "bundle"
        if path.is_dir():
            load_bundle(path)
            shutil.copytree(path, new)
            bundle = load_bundle(new)
        elif path.suffix in (".pth", ".pt") and path.is_file():
            raise MaskSAMError(
                f"{path} is no model with classes: if it holds the weights of a SAM, name it:"
                f" masksam models add {path} --name NAME"
            )
        elif path.is_file():
            bundle = unpack_bundle(path, new)
        else:
            raise MaskSAMError(f"{path} does not exist")
        _check_name(bundle.name, keep)
        target = models / bundle.name
        replace_folder(new, target)
    return load_bundle(target)


def _check_name(name: str, keep: bool) -> None:
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise MaskSAMError(f"'{name}' cannot be a model's name: use letters, digits, - and _")
    own = user_folder() / "models"
    if keep and any(e.name == name and e.folder and e.folder.parent != own for e in catalog()):
        raise MaskSAMError(f"a model named '{name}' ships with MaskSAM: give yours another name")


def remove(name: str) -> None:
    """Removes a download or a person's own model.

    Raises:
        MaskSAMError: there is none, or it ships with MaskSAM.
    """
    entry = find(name)
    own = (user_folder() / "models", user_folder() / "checkpoints")
    if entry.folder is not None and entry.folder.parent in own:
        shutil.rmtree(entry.folder)
    elif entry.url and entry.file.is_file():
        entry.file.unlink()
    elif entry.folder is not None:
        raise MaskSAMError(f"'{name}' ships with MaskSAM and is removed with it")
    else:
        raise MaskSAMError(f"'{name}' is not installed")


def verify(name: str) -> str:
    """Checks an installed entry; what was checked, in words.

    Raises:
        MaskSAMError: it is absent or damaged.
    """
    entry = find(name)
    if entry.folder is not None and entry.kind == "model":
        bundle = load_bundle(entry.folder)
        bundle.build(_backbone(bundle))
        return f"{name}: weights agree with their SHA-256 and fit the network"
    if not installed(entry):
        raise MaskSAMError(how_to_get(entry))
    if sha256(entry.file) != entry.sha256:
        raise MaskSAMError(f"{entry.file} is damaged: masksam models remove {name}")
    return f"{name}: the file agrees with its SHA-256"
