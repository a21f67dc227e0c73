"""Missing Python packages: detection, and installation from the panel."""

from __future__ import annotations

from importlib import metadata

from Testing import host
from Testing.panel.helpers import blobs_volume


def test_missing_packages_are_named_and_installed_with_one_button(user, monkeypatch):
    import slicer.packaging

    from MaskSAMSlicerLib import installer

    missing = ["safetensors>=0.4", "pooch>=1.7"]
    installed = []

    def install(requirements, **options):
        installed.append((list(requirements), options["skip_packages"]))
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
    assert installed == [
        (["safetensors>=0.4", "pooch>=1.7"], ["SimpleITK", "numpy", "pydicom", "requests"]),
    ]
    assert not frame.isVisibleTo(frame.parent())
    assert user.ui.segmentButton.enabled
    assert "installed" in user.ui.logText.plainText


def test_without_the_pytorch_extension_the_message_says_how_to_get_it(user, monkeypatch):
    from MaskSAMSlicerLib import installer

    monkeypatch.setattr(installer, "missing", lambda: [installer.TORCH])
    user.widget.panel.check_packages()
    user.click(user.ui.installButton)
    (message,) = host.messages.texts("error")
    assert "PyTorch extension" in message


def test_packages_that_are_too_old_are_missing(application, monkeypatch):
    from MaskSAMSlicerLib import installer

    versions = {"torch": "2.13.0+cpu", "safetensors": "0.3.9", "scipy": "1.10.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    missing = installer.missing()
    assert "safetensors>=0.4" in missing
    assert "pooch>=1.7" in missing
    assert "scipy>=1.10" not in missing
    assert installer.TORCH not in missing
