"""Catalog of models, and the user's folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from MaskSAMCore import models
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.models.catalog import read_catalog
from MaskSAMCore.resources import resources


def test_the_shipped_catalog_lists_the_official_backbones():
    entries = {e.name: e for e in read_catalog(resources() / "Models" / "catalog.json")}
    assert set(entries) == {"sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam"}
    assert entries["sam_vit_b"].size == 375_042_383
    assert entries["sam_vit_h"].sha256.startswith("a7bf3b02f3eb")
    assert all(e.kind == "backbone" and e.licence == "Apache-2.0" for e in entries.values())
    assert all(e.needs_boxes for e in entries.values())
    # No SHA-256 of MedSAM is published, so the user downloads MedSAM from the authors' page.
    assert entries["medsam"].page and not entries["medsam"].url and not entries["medsam"].sha256
    assert [e.preparation for e in entries.values()] == ["sam", "sam", "sam", "medsam"]


@pytest.mark.parametrize(
    "change", [{"url": "ftp://x/y"}, {"sha256": "short"}, {"kind": "other"}, {"name": None}]
)
def test_an_unusable_catalog_is_refused(tmp_path: Path, change: dict):
    good = {
        "name": "a",
        "title": "A",
        "kind": "model",
        "licence": "MIT",
        "size": 1,
        "url": "https://example.org/a.zip",
        "sha256": "0" * 64,
    }
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps({"entries": [good]}))
    assert read_catalog(path)[0].name == "a"
    entry = {k: v for k, v in {**good, **change}.items() if v is not None}
    path.write_text(json.dumps({"entries": [entry]}))
    with pytest.raises(MaskSAMError, match="not a usable catalog"):
        read_catalog(path)


def test_the_users_folder_is_masksam_home_or_the_systems_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert models.user_folder() == tmp_path / "home"
    monkeypatch.delenv("MASKSAM_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "ö data"))
    assert models.user_folder().name == "MaskSAM"


@pytest.mark.parametrize("variable", ["MASKSAM_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"])
def test_the_users_folder_is_never_the_current_one_because_a_variable_is_empty(
    variable: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MASKSAM_HOME")
    monkeypatch.setenv(variable, "")
    assert models.user_folder().is_absolute()


def test_the_users_folder_may_be_given_from_the_home_folder_on(monkeypatch: pytest.MonkeyPatch):
    # In the environment files of containers and services, no shell expands "~".
    monkeypatch.setenv("MASKSAM_HOME", "~/models")
    assert models.user_folder() == Path.home() / "models"


def test_an_unknown_home_folder_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASKSAM_HOME", "~nobody-of-this-name/models")
    with pytest.raises(MaskSAMError, match="set MASKSAM_HOME to the path of a folder"):
        models.user_folder()


def test_the_catalog_is_read_without_heavy_imports():
    code = (
        "import sys; from MaskSAMCore.models import catalog, describe;"
        "entry = next(e for e in catalog() if e.name == 'hippocampus');"
        "names = [label['name'] for label in describe(entry)['labels']];"
        "print(names, sorted({'torch', 'SimpleITK', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['Anterior', 'Posterior'] []"
