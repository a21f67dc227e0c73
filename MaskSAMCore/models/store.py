"""Installation, verification and removal of models."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from MaskSAMCore.errors import Cancelled, MaskSAMError
from MaskSAMCore.io.downloads import check_downloaded
from MaskSAMCore.io.files import (
    atomic_file,
    made_folders,
    remove_abandoned,
    replace_folder,
    sha256,
    temporary_folder,
)
from MaskSAMCore.io.listing import is_litter
from MaskSAMCore.models.bundle import Bundle, load_bundle, unpack_bundle
from MaskSAMCore.models.catalog import (
    DESCRIPTION,
    VERSION_DIGITS,
    Entry,
    catalog,
    check_name,
    find,
    how_to_get,
    installed,
    is_path,
    user_folder,
)

# Temporary folders older than this many seconds belong to processes that were killed, and unpacked
# archives that were last opened before that are no longer needed.
_ABANDONED_SECONDS = 2 * 24 * 3600

_CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")

# Arguments: bytes received so far, bytes in total.
DownloadCallback = Callable[[int, int], None]


def open_model(name_or_path: str | Path, with_estimator: bool = True) -> tuple[Bundle, Path | None]:
    """Open and verify a model.

    Args:
        name_or_path: name in the catalog, or path of a bundle (folder or zip).
        with_estimator: whether the estimator of the Dice is also read; that of a zip always is.

    Returns:
        Bundle, and the checkpoint of its frozen SAM: None without a frozen SAM, or if the
        checkpoint is not installed.

    Raises:
        MaskSAMError: the model does not exist, is not installed or is damaged.
    """
    path = Path(name_or_path)
    if is_path(name_or_path):
        bundle = _unpacked(path) if path.is_file() else load_bundle(path, None, with_estimator)
    else:
        entry = find(str(name_or_path))
        if entry.kind != "model":
            raise MaskSAMError(f"'{entry.name}' is a backbone, not a model with classes")
        if entry.folder is None:
            raise MaskSAMError(how_to_get(entry))
        bundle = load_bundle(entry.folder, with_estimator=with_estimator)
    return bundle, _backbone(bundle)


def _backbone(bundle: Bundle) -> Path | None:
    sam = bundle.config.frozen_sam
    if sam is None:
        return None
    wanted = f"sam_{sam.name}"
    present = [e for e in catalog() if e.kind == "backbone" and e.file.is_file()]
    for entry in present:
        if entry.sha256 == bundle.sam_sha256:
            return entry.file
    # `Bundle.build` raises a clear error if the file is not the recorded one.
    return next((entry.file for entry in present if entry.name == wanted), None)


def download(
    entry: Entry,
    progress: DownloadCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Download, verify and install an entry. Call it only on the user's request.

    Args:
        entry: entry of the catalog.
        progress: called with the bytes received so far and the size in bytes.
        cancelled: called as data arrive; if it returns True, the download is stopped and removed.

    Returns:
        File of a backbone, or folder of a model.

    Raises:
        MaskSAMError: the entry cannot be downloaded, or the content has another SHA-256.
        Cancelled: ``cancelled`` returned True.
    """
    if not entry.url and entry.folder is None:
        raise MaskSAMError(how_to_get(entry))
    if not entry.url:
        raise MaskSAMError(f"'{entry.name}' is installed already")
    for folder in user_folder().glob("*"):
        remove_abandoned(folder, _ABANDONED_SECONDS)
    target = entry.file
    if not (target.is_file() and sha256(target) == entry.sha256):
        _fetch(entry, target, progress, cancelled)
    if entry.kind == "backbone":
        return target
    bundle = add_model(target)
    target.unlink(missing_ok=True)  # another process may have added it at the same time
    return bundle.folder


def _fetch(
    entry: Entry,
    target: Path,
    progress: DownloadCallback | None,
    cancelled: Callable[[], bool] | None,
) -> None:
    import pooch
    import requests

    class Bar:
        """Progress bar with the part of tqdm's interface that pooch uses."""

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

    with made_folders([target.parent]), atomic_file(target) as temporary:
        try:
            pooch.get_logger().setLevel("ERROR")
            pooch.retrieve(
                entry.url,
                known_hash=f"sha256:{entry.sha256}",
                fname=temporary.name,
                path=temporary.parent,
                downloader=pooch.HTTPDownloader(progressbar=Bar(), timeout=30),
            )
        except ValueError as error:
            raise MaskSAMError(
                f"the file from {entry.url} was deleted, as it has another SHA-256 than in the"
                " catalog: try again later"
            ) from error
        except (OSError, requests.RequestException) as error:
            raise MaskSAMError(
                f"cannot download {entry.url} ({type(error).__name__}): check the connection or"
                " the proxy, or download the file elsewhere and add it with masksam models add"
            ) from error


def add_file(entry: Entry, path: Path) -> Path:
    """Install the file of a backbone that the user downloaded.

    Args:
        entry: entry of the catalog.
        path: downloaded file, which is copied.

    Returns:
        Path of the installed file.

    Raises:
        MaskSAMError: the file has another SHA-256 than in the catalog, or the catalog has none.
    """
    if not entry.url:
        raise MaskSAMError(
            f"the catalog has no SHA-256 of {entry.name} to verify {path} with: masksam models add"
            f" {path} --name {entry.name}"
        )
    check_downloaded(path)
    if sha256(path) != entry.sha256:
        raise MaskSAMError(f"{path} is not {entry.name}: it has another SHA-256")
    with made_folders([entry.file.parent]), atomic_file(entry.file) as temporary:
        shutil.copyfile(path, temporary)
    return entry.file


def add_model(path: Path) -> Bundle:
    """Verify a bundle and copy it into the user's folder.

    Args:
        path: folder or zip of the bundle.

    Raises:
        MaskSAMError: the bundle is damaged, or a model with the same name but other files exists.
    """
    models = user_folder() / "models"
    # The final folder has the name of the bundle, which is known only after unpacking.
    with made_folders([models]), temporary_folder(models / "bundle") as folder:
        new = folder / "bundle"
        if path.is_dir():
            load_bundle(path)
            shutil.copytree(path, new, ignore=_left_out, copy_function=_copy)
            bundle = load_bundle(new)
        else:
            bundle = _unpack(path, new)
        _check_name(bundle.name)
        bundle.weights()
        target = models / bundle.name
        _check_same(new, target)
        replace_folder(new, target)
    return load_bundle(target)


def _check_same(new: Path, installed: Path) -> None:
    """Check that a bundle would only replace an equal or a damaged bundle of the same name.

    Raises:
        MaskSAMError: a bundle with other files is installed.
    """
    try:
        name = load_bundle(installed).name
    except MaskSAMError:
        return
    if _checksums(new) != _checksums(installed):
        raise MaskSAMError(
            f"another model named '{name}' is installed: remove it first (masksam models remove"
            f" {name}), or give the new one another name"
        )


def _checksums(folder: Path) -> dict[Path, str]:
    """Return the SHA-256 of each file of a bundle by its path in the folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not is_litter(path))
    return {path.relative_to(folder): sha256(path) for path in files}


def _unpacked(archive: Path) -> Bundle:
    """Return the bundle of an archive from the cache of unpacked archives.

    The folder in the cache is named by the SHA-256 of the archive, because another archive with a
    model of the same name may be opened before the weights of this one are read.

    Raises:
        MaskSAMError: the archive holds no bundle, or is damaged.
    """
    check_downloaded(archive)
    cache = user_folder() / "unpacked"
    target = cache / sha256(archive)[:VERSION_DIGITS]
    with suppress(MaskSAMError):
        bundle = load_bundle(target)
        _mark_used(target)
        return bundle
    _remove_unused(cache)
    with made_folders([cache]), temporary_folder(target) as folder:
        new = folder / "bundle"
        bundle = _unpack(archive, new)
        check_name(bundle.name)
        bundle.weights()
        # Another process may have unpacked the archive meanwhile, and be reading it.
        with suppress(MaskSAMError):
            return load_bundle(target)
        replace_folder(new, target)
    return load_bundle(target)


def _mark_used(unpacked: Path) -> None:
    # Without permission to write, nothing can be removed either.
    with suppress(OSError):
        os.utime(unpacked)


def _remove_unused(cache: Path) -> None:
    """Remove unpacked archives that were last opened long ago."""
    for unpacked in cache.glob("*"):
        with suppress(OSError):
            if time.time() - unpacked.stat().st_mtime >= _ABANDONED_SECONDS:
                shutil.rmtree(unpacked)


def _unpack(archive: Path, target: Path) -> Bundle:
    """Unpack the zip of a bundle, which must not be a checkpoint, into a new folder."""
    check_downloaded(archive)
    if archive.name == DESCRIPTION:
        raise MaskSAMError(f"{archive} is a file of a bundle: give its folder, {archive.parent}")
    if archive.suffix.lower() in _CHECKPOINT_SUFFIXES:
        raise MaskSAMError(
            f"{archive} is not a bundle: if it is a SAM checkpoint, name it:"
            f" masksam models add {archive} --name NAME"
        )
    return unpack_bundle(archive, target)


def _copy(source: str, target: str) -> None:
    """Copy a file of a bundle.

    Raises:
        MaskSAMError: the file cannot be copied; `copytree` would collect an OSError in a list.
    """
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MaskSAMError(f"cannot copy {source} to {user_folder()}: {reason}") from error


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Return the names in a bundle's folder that are not copied."""
    return [name for name in names if is_litter(Path(folder) / name)]


def _check_name(name: str) -> None:
    check_name(name)
    own = user_folder() / "models"
    taken = [entry for entry in catalog() if entry.name == name]
    if any(entry.kind == "backbone" for entry in taken):
        raise MaskSAMError(f"a model named '{name}' exists already: choose another name")
    if any(entry.folder and entry.folder.parent != own for entry in taken):
        raise MaskSAMError(f"a model named '{name}' ships with MaskSAM: choose another name")


def remove(name: str) -> None:
    """Remove a downloaded or added model.

    Raises:
        MaskSAMError: the model is not installed, or it ships with MaskSAM.
    """
    entry = find(name)
    own = (user_folder() / "models", user_folder() / "checkpoints")
    if entry.folder is not None and entry.folder.parent in own:
        _remove_folder(entry.folder)
    elif entry.url and entry.file.is_file():
        entry.file.unlink()
    elif entry.folder is not None:
        raise MaskSAMError(f"'{name}' ships with MaskSAM and is removed with it")
    else:
        raise MaskSAMError(f"'{name}' is not installed")


def _remove_folder(folder: Path) -> None:
    """Remove the folder of a model; if it is a link, remove only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def verify(name: str) -> str:
    """Verify a model and return the result in one line for the user.

    Args:
        name: name of an installed model, or path of a bundle (folder or zip).

    Raises:
        MaskSAMError: the model is not installed or is damaged.
    """
    entry = None if is_path(name) else find(name)
    if entry is None or (entry.folder is not None and entry.kind == "model"):
        bundle, backbone = open_model(name)
        bundle.build(backbone)
        return f"{name}: the weights have the recorded SHA-256 and fit the network"
    if not installed(entry):
        raise MaskSAMError(how_to_get(entry))
    if sha256(entry.file) != entry.sha256:
        raise MaskSAMError(f"{entry.file} is damaged: masksam models remove {name}")
    return f"{name}: the file has the recorded SHA-256"
