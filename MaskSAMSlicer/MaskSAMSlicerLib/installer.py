"""Python packages that the worker needs: detection and installation."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from MaskSAMCore.models import user_folder
from MaskSAMSlicerLib.core_path import worker_python

# Only minimum versions are given, because other extensions share Slicer's Python. Packages that
# belong to Slicer (SimpleITK, numpy, requests) are left out, so that they are never replaced.
TORCH = "torch>=2.1"
REQUIREMENTS = (
    "segment-anything>=1.0",
    "scipy>=1.10",
    "safetensors>=0.4",
    "pooch>=1.7",
    "psutil>=5.9",
)
# PyTorch before 2.3 cannot exchange arrays with numpy 2, so one of these two must be satisfied.
TORCH_FOR_NUMPY_2 = "torch>=2.3"
NUMPY_1 = "numpy<2"

_SECONDS_BETWEEN_EVENTS = 0.02


@dataclass(frozen=True)
class Extra:
    """Packages of one part of MaskSAM, offered for installation when the user needs that part.

    The packages go into a folder that only the worker reads, because Slicer's own modules need the
    versions that Slicer comes with. Dependencies are listed, too, so that pip installs no others.

    Attributes:
        requirements: the packages.
        download_mb: size of the download in MB.
        disk_mb: size on the disk in MB.
    """

    requirements: tuple[str, ...]
    download_mb: int
    disk_mb: int


# Packages for writing DICOM segmentations.
DICOM = Extra(
    (
        "highdicom>=0.28",
        "pydicom>=3.0.1",
        "pyjpegls>=1.0",
        "pillow>=8.3",
        "packaging>=17.1",
        "typing-extensions>=4.0",
    ),
    download_mb=6,
    disk_mb=45,
)
# Packages for learning: PyTorch Lightning, batchgeneratorsv2, scikit-learn (fits the expected
# Dice), their dependencies, and nibabel (reads the corrections).
LEARNING = Extra(
    (
        "lightning>=2.6",
        "lightning-utilities>=0.10",
        "torchmetrics>=1.0",
        "fsspec>=2022.5",
        "tqdm>=4.57",
        "PyYAML>=5.4",
        "packaging>=20.0",
        "typing-extensions>=4.5",
        "batchgeneratorsv2>=0.3",
        "scikit-image>=0.21",
        "lazy-loader>=0.4",
        "pandas>=2.0",
        "python-dateutil>=2.8.2",
        "six>=1.16",
        "nibabel>=5",
        "scikit-learn>=1.3",
        "joblib>=1.4",
        "narwhals>=2.0.1",
        "threadpoolctl>=3.5",
    ),
    download_mb=43,
    disk_mb=203,
)


def worker_folder() -> Path:
    """Return the folder of packages that only the worker reads, for this version of Python."""
    return user_folder() / "python" / f"{sys.version_info.major}.{sys.version_info.minor}"


def missing_for(extra: Extra) -> list[str]:
    """Return the requirements of a part of MaskSAM that the worker does not have."""
    return [text for text in extra.requirements if not _satisfied(text, worker_folder())]


def explain_extra(extra: Extra) -> str:
    """Return one line for the user about the missing packages of a part of MaskSAM."""
    part = _("Learning") if extra is LEARNING else _("DICOM segmentations")
    return _(
        "{part}: Python packages are missing ({packages}), {download} MB to download, {disk} MB on"
        " the disk. Slicer's own packages stay as they are."
    ).format(
        part=part,
        packages=", ".join(missing_for(extra)),
        download=extra.download_mb,
        disk=extra.disk_mb,
    )


def install_extra(extra: Extra, log: Callable[[str], None]) -> None:
    """Install the missing packages of a part of MaskSAM; the application stays responsive.

    Args:
        extra: the part.
        log: receives progress messages for the user.

    Raises:
        RuntimeError: the installation failed; the message says what to do.
    """
    wanted, folder = missing_for(extra), worker_folder()
    if not wanted:
        return
    log(_("Installing {packages} ...").format(packages=", ".join(wanted)))
    arguments = ["--no-deps", "--upgrade", "--target", str(folder), *wanted]
    status, output = _run_pip(["install", "--disable-pip-version-check", *arguments])
    if status != 0 or missing_for(extra):
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
        raise RuntimeError(
            _(
                "{packages} could not be installed: {error}. Check the network and the proxy"
                " settings, then try again."
            ).format(packages=", ".join(missing_for(extra) or wanted), error=last.strip())
        )


def _run_pip(arguments: list[str]) -> tuple[int, str]:
    """Run pip in a process of its own, and return its exit status and what it printed."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [worker_python(), "-m", "pip", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Windows would open a console, and closing it would end pip.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        while process.poll() is None:
            slicer.app.processEvents()
            time.sleep(_SECONDS_BETWEEN_EVENTS)
        output.seek(0)
        return process.returncode, output.read().decode("utf-8", "replace")


def missing() -> list[str]:
    """Return the requirements that are not installed or too old, without importing any.

    If the installed PyTorch and numpy cannot work together, the one to be replaced counts as
    missing.
    """
    texts = [text for text in (TORCH, *REQUIREMENTS) if not _satisfied(text)]
    fits = _satisfied(TORCH_FOR_NUMPY_2) or _satisfied(NUMPY_1)
    if TORCH not in texts and not fits:
        texts.append(NUMPY_1 if _is_intel_mac() else TORCH_FOR_NUMPY_2)
    return texts


def check_packages(*extras: Extra) -> None:
    """Check that all packages are installed, including those of given parts of MaskSAM.

    Raises:
        ValueError: packages are missing; the message says what to do.
    """
    texts = missing()
    for extra in extras:
        texts += missing_for(extra)
    if texts:
        raise ValueError(
            _("Python packages are missing ({packages}): press Install missing packages.").format(
                packages=", ".join(texts)
            )
        )


def explain(requirements: list[str]) -> str:
    """Return one line for the user about missing requirements."""
    text = _("MaskSAM needs Python packages: {packages}.").format(packages=", ".join(requirements))
    versions = {"torch": _version("torch"), "numpy": _version("numpy")}
    if NUMPY_1 in requirements:
        text += " " + _(
            "PyTorch {torch}, the newest for this Mac, does not work with numpy {numpy}, which is"
            " replaced; then restart Slicer."
        ).format(**versions)
    elif TORCH_FOR_NUMPY_2 in requirements:
        text += " " + _("PyTorch {torch} does not work with numpy {numpy}.").format(**versions)
    return text


def install(log: Callable[[str], None]) -> None:
    """Install the missing packages, on the main thread as Slicer's own installer does.

    Args:
        log: receives progress messages for the user.

    Raises:
        RuntimeError: the installation failed; the message says what to do.
    """
    if any(text.startswith("torch") for text in missing()):
        _install_torch(log)
    # The PyTorch extension may or may not have replaced numpy.
    wanted = missing()
    if wanted:
        log(_("Installing {packages} ...").format(packages=", ".join(wanted)))
        try:
            _install_packages(wanted)
        except Exception as error:
            raise RuntimeError(
                _(
                    "{packages} could not be installed: {error}. Unless you declined, check the"
                    " network and the proxy settings, then try again."
                ).format(packages=", ".join(wanted), error=error)
            ) from error
    still_missing = missing()
    if still_missing:
        raise RuntimeError(
            _("Still missing: {packages}. Restart Slicer and try again.").format(
                packages=", ".join(still_missing)
            )
        )
    log(_("All packages that MaskSAM needs are installed."))


def _install_torch(log: Callable[[str], None]) -> None:
    """Install PyTorch with the PyTorch extension.

    Raises:
        RuntimeError: PyTorch could not be installed, or its version does not suit; the message says
            what to do.
    """
    try:
        import PyTorchUtils
    except ImportError as error:
        raise RuntimeError(
            _(
                "PyTorch is installed by the PyTorch extension: install it with the Extensions"
                " Manager, restart Slicer and press this button again."
            )
        ) from error
    numpy = _version("numpy")
    if not _version("torch"):  # the extension leaves an installed PyTorch as it is
        log(_("Installing PyTorch with the PyTorch extension ..."))
        try:
            # No requirement is passed, because it would replace the extension's own, which excludes
            # versions that do not work in Slicer on this system.
            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True)
        except Exception as error:
            text = _("PyTorch could not be installed: {error}.").format(error=error)
            raise RuntimeError(text + " " + _other_version()) from error
        if torch is None:
            raise RuntimeError(_("PyTorch was not installed: MaskSAM cannot run without it."))
        _ask_for_restart_if_replaced(numpy)
    unsuitable = [text for text in missing() if text.startswith("torch")]
    if unsuitable:
        raise RuntimeError(
            _(
                "PyTorch {version} is installed, but MaskSAM needs {requirement}: uninstall it in"
                " the module PyTorch, restart Slicer and press this button again."
            ).format(version=_version("torch"), requirement=unsuitable[0])
        )


def _other_version() -> str:
    """Return advice for the user after PyTorch could not be installed."""
    if sys.platform == "win32":
        return _(
            "If paths are too long for Windows, enter <2.13 as the version requirement in the"
            " module PyTorch, and install PyTorch there."
        )
    return _("Try again in the module PyTorch, which offers other versions and devices.")


def _install_packages(requirements: list[str]) -> None:
    try:
        from slicer import packaging
    except ImportError:  # Slicer 5.10
        numpy = _version("numpy")
        for requirement in requirements:
            slicer.util.pip_install(requirement)
        _ask_for_restart_if_replaced(numpy)
        return
    # pip_ensure itself asks for a restart if a package in use was replaced.
    packaging.pip_ensure(requirements, requester="MaskSAM", skip_in_testing=False)


def _ask_for_restart_if_replaced(numpy: str) -> None:
    """Ask the user to restart Slicer if the version of numpy, which Slicer has loaded, changed."""
    if _version("numpy") != numpy:
        slicer.util.infoDisplay(
            _("numpy {before} was replaced by {now}: save your work and restart Slicer.").format(
                before=numpy, now=_version("numpy")
            )
        )


def _is_intel_mac() -> bool:
    """Return whether this Python is built for Intel Macs, whose last PyTorch version is 2.2.

    Slicer for macOS comes with such a Python on Apple's processors, too.
    """
    return sys.platform == "darwin" and platform.machine() == "x86_64"


def _satisfied(requirement: str, folder: Path | None = None) -> bool:
    """Return whether a requirement is satisfied; a package in `folder` takes precedence."""
    name, relation, limit = re.split("(>=|<)", requirement)
    own = None if folder is None else next(_distributions(name, folder), None)
    version = _version(name) if own is None else own.version
    if not version:
        return False
    newer = _numbers(version) >= _numbers(limit)
    return newer if relation == ">=" else not newer


def _distributions(name: str, folder: Path) -> Iterator[metadata.Distribution]:
    return iter(metadata.distributions(name=name, path=[str(folder)]))


def _version(name: str) -> str:
    """Return the version of an installed package; empty if it is not installed."""
    try:
        # The version is None where a failed removal has left files behind.
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 13, 0) for "2.13.0+cpu"."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
