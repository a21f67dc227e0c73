"""Python packages that the worker needs: detection and installation."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import slicer
from slicer.i18n import tr as _

# Only minimum versions are given, because other extensions share Slicer's Python.
TORCH = "torch>=2.1"
REQUIREMENTS = (
    "nibabel>=5",
    "segment-anything>=1.0",
    "scipy>=1.10",
    "safetensors>=0.4",
    "pooch>=1.7",
    "psutil>=5.9",
)
# Packages that belong to Slicer and must not be replaced.
_SLICER_PACKAGES = ("SimpleITK", "numpy", "pydicom", "requests")


def missing() -> list[str]:
    """Return the requirements that are not installed or too old, without importing any."""
    return [text for text in (TORCH, *REQUIREMENTS) if not _satisfied(text)]


def install(log: Callable[[str], None]) -> None:
    """Install the missing packages, on the main thread as Slicer's own installer does.

    Args:
        log: receives progress messages for the user.

    Raises:
        RuntimeError: the installation failed; the message says what to do.
    """
    wanted = missing()
    if TORCH in wanted:
        _install_torch(log)
        wanted.remove(TORCH)
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
    try:
        import PyTorchUtils
    except ImportError as error:
        raise RuntimeError(
            _(
                "PyTorch is installed by the PyTorch extension: install it with the Extensions"
                " Manager, restart Slicer and press this button again."
            )
        ) from error
    log(_("Installing PyTorch with the PyTorch extension ..."))
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=TORCH.removeprefix("torch")
        )
    except Exception as error:
        raise RuntimeError(
            _(
                "PyTorch could not be installed: {error}. Try again in the module PyTorch, which"
                " offers other versions and devices."
            ).format(error=error)
        ) from error
    if torch is None:
        raise RuntimeError(_("PyTorch was not installed: MaskSAM cannot run without it."))


def _install_packages(requirements: list[str]) -> None:
    try:
        from slicer import packaging
    except ImportError:
        for requirement in requirements:
            slicer.util.pip_install(requirement)
        return
    packaging.pip_ensure(
        requirements,
        skip_packages=list(_SLICER_PACKAGES),
        requester="MaskSAM",
        skip_in_testing=False,
    )


def _satisfied(requirement: str) -> bool:
    name, _separator, floor = requirement.partition(">=")
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    # The version is None where a failed removal has left files behind.
    return bool(version) and _numbers(version) >= _numbers(floor)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 13, 0) for "2.13.0+cpu"."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
