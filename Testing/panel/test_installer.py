"""Missing Python packages: detection, and installation from the panel."""

from __future__ import annotations

import sys
import types
from importlib import metadata

import pytest

from MaskSAMCore import Volume
from Testing import host
from Testing.helpers.blocked_packages import block_packages
from Testing.helpers.generated import generated_case
from Testing.helpers.paths import ROOT
from Testing.helpers.time_limits import LONG
from Testing.helpers.worker_tools import has_ended
from Testing.panel.helpers import blobs_volume
from Testing.slicer.helpers import GRIDS

# Packages that MaskSAM needs only outside Slicer, or for its extras.
OTHER_PACKAGES = ("nibabel", "pydicom", "typer", "rich", "lightning", "matplotlib", "monai")


def test_missing_packages_are_named_and_installed_with_one_button(user, monkeypatch):
    import slicer.packaging

    from MaskSAMSlicerLib import installer

    missing = ["safetensors>=0.4", "pooch>=1.7"]
    installed = []

    def install(requirements, **options):
        installed.append((list(requirements), options))
        missing.clear()

    monkeypatch.setattr(installer, "missing", lambda: list(missing))
    monkeypatch.setattr(slicer.packaging, "pip_ensure", install)
    user.choose_volume(blobs_volume())
    user.choose_model("threshold")
    user.widget.panel.check_packages()
    frame = user.ui.installFrame
    assert frame.isVisibleTo(frame.parent())
    assert "pooch>=1.7" in user.ui.installLabel.text
    assert not user.ui.segmentButton.enabled
    user.click(user.ui.installButton)
    ((requirements, options),) = installed
    assert requirements == ["safetensors>=0.4", "pooch>=1.7"]
    assert "skip_packages" not in options  # it would rewrite the metadata of other packages
    assert not frame.isVisibleTo(frame.parent())
    assert user.ui.segmentButton.enabled
    assert "installed" in user.ui.logText.plainText


def test_an_installation_ends_the_worker_which_has_imported_other_versions(
    open_panel, own_client, monkeypatch
):
    from MaskSAMSlicerLib import installer

    user = open_panel(own_client())
    user.segment(blobs_volume())
    worker = user.worker
    monkeypatch.setattr(installer, "missing", lambda: [installer.NUMPY_1])
    user.widget.panel.check_packages()
    monkeypatch.setattr(installer, "missing", list)
    user.click(user.ui.installButton)
    user.wait(lambda: has_ended(worker), "the worker's end")
    user.segment(blobs_volume())
    assert user.found == ["Anterior", "Posterior"]


def test_without_the_pytorch_extension_the_message_says_how_to_get_it(user, monkeypatch):
    from MaskSAMSlicerLib import installer

    monkeypatch.setattr(installer, "missing", lambda: [installer.TORCH])
    user.widget.panel.check_packages()
    user.click(user.ui.installButton)
    (message,) = host.messages.texts("error")
    assert "PyTorch extension" in message


class Environment:
    """Installed packages of a computer, and a stand-in for the logic of the PyTorch extension.

    Attributes:
        versions: installed versions by name.
        torch: version of PyTorch that the extension installs; None if the user declines; an
            exception if the installation fails.
        numpy: version of numpy after the extension has run; None if it stays the same.
        requirements: version requirements for PyTorch that the extension was called with.
    """

    def __init__(self, **versions: str) -> None:
        needed = {"segment-anything": "1.0", "scipy": "1.17.1", "safetensors": "0.6"}
        needed |= {"pooch": "1.8", "psutil": "7.0"}
        self.versions = {**needed, **versions}
        self.torch: str | Exception | None = None
        self.numpy: str | None = None
        self.requirements: list = []

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise metadata.PackageNotFoundError(name)
        return self.versions[name]

    def installTorch(  # the signature of the PyTorch extension
        self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None,
        torchvisionVersionRequirement=None,
    ):  # fmt: skip
        assert askConfirmation
        self.requirements.append(torchVersionRequirement)
        if isinstance(self.torch, Exception):
            raise self.torch
        if self.torch is not None:
            self.versions["torch"] = self.torch
            self.versions["numpy"] = self.numpy or self.versions["numpy"]
        return self.torch


@pytest.fixture
def environment(scene, monkeypatch):
    """Function that sets the packages of the computer, and its platform."""

    def set_environment(platform="linux", machine="x86_64", **versions) -> Environment:
        from MaskSAMSlicerLib import installer

        one = Environment(**versions)
        extension = types.ModuleType("PyTorchUtils")
        extension.PyTorchUtilsLogic = lambda: one
        monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
        monkeypatch.setattr(metadata, "version", one.version)
        monkeypatch.setattr(installer.sys, "platform", platform)
        monkeypatch.setattr(installer.platform, "machine", lambda: machine)
        return one

    return set_environment


def install() -> list[str]:
    """Install what is missing, and return the messages for the log."""
    from MaskSAMSlicerLib import installer

    log: list[str] = []
    installer.install(log.append)
    return log


def test_packages_that_are_too_old_are_missing(environment):
    from MaskSAMSlicerLib import installer

    one = environment(torch="2.13.0+cpu", numpy="2.4.6", safetensors="0.3.9", scipy="1.10.0")
    del one.versions["pooch"]
    assert installer.missing() == ["safetensors>=0.4", "pooch>=1.7"]


@pytest.mark.parametrize(
    ("platform", "machine", "torch", "numpy", "missing"),
    [
        ("darwin", "x86_64", "2.2.2", "2.4.6", ["numpy<2"]),
        ("darwin", "x86_64", "2.2.2", "1.26.4", []),
        ("darwin", "x86_64", None, "2.4.6", ["torch>=2.1"]),
        ("darwin", "arm64", "2.2.2", "2.4.6", ["torch>=2.3"]),
        ("win32", "AMD64", "2.2.2+cu121", "2.0.2", ["torch>=2.3"]),
        ("linux", "x86_64", "2.2.2", "1.26.4", []),
        ("linux", "x86_64", "2.3.0+cpu", "2.0.2", []),
        ("linux", "x86_64", "2.0.1", "2.0.2", ["torch>=2.1"]),
    ],
)
def test_versions_of_pytorch_and_numpy_that_cannot_work_together_are_missing(
    environment, platform, machine, torch, numpy, missing
):
    from MaskSAMSlicerLib import installer

    one = environment(platform, machine, numpy=numpy)
    if torch is not None:
        one.versions["torch"] = torch
    assert installer.missing() == missing
    explanation = installer.explain(missing)
    assert ("does not work with numpy" in explanation) == (
        torch is not None and missing not in ([], ["torch>=2.1"])
    )


@pytest.mark.parametrize("version", ["2.12.1+cu130", "2.1.2"])
def test_the_pytorch_extension_chooses_the_version(environment, version):
    one = environment(numpy="1.26.4")
    one.torch = version
    assert install()[-1] == "All packages that MaskSAM needs are installed."
    assert one.requirements == [None]  # a requirement would replace the extension's own


def test_on_an_intel_mac_numpy_is_replaced_and_a_restart_is_asked_for(environment, monkeypatch):
    import slicer.packaging

    one = environment("darwin", numpy="2.4.6")
    one.torch = "2.2.2"
    monkeypatch.setattr(
        slicer.packaging,
        "pip_ensure",
        lambda wanted, **_options: one.versions.update(numpy="1.26.4") if wanted else None,
    )
    log = install()
    assert one.versions["numpy"] == "1.26.4"
    assert "Installing numpy<2 ..." in log
    assert host.messages.texts("information") == []  # Slicer's installer asks for the restart


@pytest.mark.parametrize("replaced_by", ["PyTorch extension", "pip of Slicer 5.10"])
def test_a_restart_is_asked_for_after_numpy_was_replaced(environment, monkeypatch, replaced_by):
    import slicer

    one = environment("darwin", numpy="2.0.2")
    one.torch = "2.2.2"
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.delattr(slicer, "packaging")
    monkeypatch.setattr(
        slicer.util, "pip_install", lambda _text: one.versions.update(numpy="1.26.4")
    )
    if replaced_by == "PyTorch extension":
        one.numpy = "1.26.4"
    install()
    (message,) = host.messages.texts("information")
    assert message == "numpy 2.0.2 was replaced by 1.26.4: save your work and restart Slicer."


@pytest.mark.parametrize(
    ("platform", "torch", "installs", "message"),
    [
        ("linux", "2.0.1", None, r"PyTorch 2.0.1 is installed, .* needs torch>=2.1: uninstall it"),
        ("linux", "2.2.2", None, r"PyTorch 2.2.2 is installed, .* needs torch>=2.3: uninstall it"),
        ("linux", "", "2.0.1", r"PyTorch 2.0.1 is installed, .* needs torch>=2.1: uninstall it"),
        ("linux", "", OSError("no route"), r"could not be installed: no route\. Try again in the"),
        ("win32", "", OSError("too long"), r"could not be installed: too long\. .* enter <2\.13"),
        ("linux", "", None, "PyTorch was not installed"),
    ],
)
def test_a_pytorch_that_does_not_suit_is_refused_with_the_remedy(
    environment, platform, torch, installs, message
):
    one = environment(platform, numpy="2.0.2")
    if torch:
        one.versions["torch"] = torch
    one.torch = installs
    with pytest.raises(RuntimeError, match=message):
        install()


def test_the_worker_needs_no_package_that_neither_slicer_nor_the_installer_brings(
    scene, models_home, tmp_path
):
    """The worker cannot import the packages in ``OTHER_PACKAGES``."""
    from MaskSAMSlicerLib import installer
    from MaskSAMSlicerLib.worker.client import SegmentRequest, WorkerClient

    folder = block_packages(tmp_path, OTHER_PACKAGES)
    installed = {text.split(">=")[0].replace("-", "_") for text in installer.REQUIREMENTS}
    assert not installed & set(OTHER_PACKAGES)
    environment = {"MASKSAM_HOME": str(models_home), "PYTHONPATH": folder}
    client = WorkerClient(core_folder=ROOT, environment=environment, hang_seconds=LONG)
    array = generated_case(1)[0]
    try:
        job = client.segment(SegmentRequest([Volume(array, GRIDS["LPS"])], "small"))
        assert client.wait(job).labelmap.shape == array.shape
    finally:
        client.close()
