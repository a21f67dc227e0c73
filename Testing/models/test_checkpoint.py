"""SAM checkpoints that the user adds: read as tensors only, recorded and verified."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from MaskSAMCore import Segmenter, models
from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import sha256
from MaskSAMCore.modeling import SAM_CONFIGS
from MaskSAMCore.modeling.sam.build import build_sam
from MaskSAMCore.modeling.sam.checkpoint import checkpoint_config
from MaskSAMCore.resources import resources


def light_checkpoint(path: Path, name: str = "vit_b", **changes: object) -> Path:
    """Write a small checkpoint with a SAM's names and shapes; each tensor repeats a single 0."""
    with torch.device("meta"):
        wanted = build_sam(SAM_CONFIGS[name], (64, 64)).state_dict()
    state = {key: torch.zeros(1).expand(value.shape) for key, value in wanted.items()}
    state = {**state, "pixel_mean": torch.zeros(3, 1, 1), **changes}  # type: ignore[dict-item]
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


def files(home: Path) -> list[str]:
    return sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_size_of_a_sam_is_read_from_its_tensors(tmp_path: Path, name: str):
    assert checkpoint_config(light_checkpoint(tmp_path / "a.pth", name)) == SAM_CONFIGS[name]


def test_a_checkpoint_needs_a_sha256_or_the_users_consent(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
):
    path = light_checkpoint(tmp_path / "medsam_vit_b.pth")
    add = ["models", "add", str(path), "--name", "medsam"]
    assert main(add) == 2
    error = capfd.readouterr().err
    assert sha256(path) in error and "--sha256" in error and "--unverified" in error
    assert main([*add, "--sha256", "0" * 64]) == 2
    assert f"its SHA-256 is {sha256(path)}" in capfd.readouterr().err
    assert files(home) == []
    for proof in (["--sha256", sha256(path).upper()], ["--unverified"]):
        assert main([*add, *proof]) == 0
        entry = models.find("medsam")
        assert entry.sha256 == sha256(path) and models.installed(entry)
        assert entry.preparation == "medsam" and entry.licence == "Apache-2.0"
        assert files(home) == [
            "checkpoints/medsam/checkpoint.json",
            "checkpoints/medsam/checkpoint.pth",
        ]
        record = json.loads((entry.file.parent / "checkpoint.json").read_text(encoding="utf-8"))
        assert record["verified"] is (proof[0] == "--sha256")
    assert [e.name for e in models.catalog()].count("medsam") == 1
    capfd.readouterr()
    assert main(["models", "info", "medsam"]) == 0
    out = capfd.readouterr().out
    assert sha256(path) in out and "installed" in out and "--boxes" in out
    assert main(["models", "remove", "medsam", "--yes"]) == 0
    assert files(home) == []
    assert not models.installed(models.find("medsam"))


def test_a_checkpoint_of_the_user_needs_a_new_name(tmp_path: Path):
    path = light_checkpoint(tmp_path / "tuned.pth", "vit_l")
    entry = models.add_checkpoint(path, "livers", preparation="medsam", unverified=True)
    assert entry.needs_boxes and entry.preparation == "medsam" and entry == models.find("livers")
    assert models.open_checkpoint("livers") is not None
    for name in ("hippocampus", "sam_vit_b"):
        with pytest.raises(MaskSAMError, match=f"a model named '{name}' exists already"):
            models.add_checkpoint(path, name, unverified=True)
    other = light_checkpoint(tmp_path / "other.pth", "vit_l", pixel_mean=torch.ones(3, 1, 1))
    with pytest.raises(MaskSAMError, match="another checkpoint named 'livers' is installed"):
        models.add_checkpoint(other, "livers", unverified=True)
    assert models.find("livers") == entry
    again = models.add_checkpoint(path, "livers", preparation="sam", unverified=True)
    assert (again.sha256, again.preparation) == (entry.sha256, "sam")
    for name in ("../x", "", "a b"):
        with pytest.raises(MaskSAMError, match="cannot be a model's name"):
            models.add_checkpoint(path, name, unverified=True)
    with pytest.raises(MaskSAMError, match="unknown preparation 'sam2': choose sam or medsam"):
        models.add_checkpoint(path, "other", preparation="sam2", unverified=True)


def test_official_names_accept_only_the_official_files(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
):
    path = light_checkpoint(tmp_path / "sam_vit_b_01ec64.pth")
    for arguments in ([], ["--name", "sam_vit_b"], ["--name", "sam_vit_b", "--unverified"]):
        assert main(["models", "add", str(path), *arguments]) == 2
        assert "is not sam_vit_b: it has another SHA-256" in capfd.readouterr().err
    assert files(home) == []
    with pytest.raises(MaskSAMError, match="masksam models download sam_vit_b"):
        Segmenter.from_model("sam_vit_b")


def test_an_official_checkpoint_is_a_model_once_it_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The shipped catalog is used, with the SHA-256 of the test's checkpoint in place of Meta's."""
    path = light_checkpoint(tmp_path / "sam_vit_b_01ec64.pth")
    values = json.loads((resources() / "Models/catalog.json").read_text(encoding="utf-8"))
    values["entries"][0]["sha256"] = sha256(path)
    (tmp_path / "Models").mkdir()
    (tmp_path / "Models/catalog.json").write_text(json.dumps(values), encoding="utf-8")
    module = sys.modules["MaskSAMCore.models.catalog"]
    monkeypatch.setattr(module, "resources", lambda: tmp_path)
    assert main(["models", "add", str(path)]) == 0
    segmenter = Segmenter.from_model("sam_vit_b", device="cpu")
    assert segmenter.needs_boxes and segmenter.name == "sam_vit_b" and segmenter.labels == ()
    assert segmenter.channels == 1 and str(segmenter.device) == "cpu (as requested)"
    kept = models.find("sam_vit_b").file
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(MaskSAMError, match="damaged or was replaced"):
        Segmenter.from_model("sam_vit_b")


def test_all_weights_that_do_not_fit_are_named(tmp_path: Path, home: Path):
    changes = {
        "image_encoder.neck.0.weight": None,
        "image_encoder.extra": torch.zeros(1),
        "mask_decoder.iou_token.weight": torch.zeros(1, 7),
    }
    path = light_checkpoint(tmp_path / "a.pth", **changes)
    with pytest.raises(MaskSAMError, match="does not fit SAM vit_b") as report:
        models.add_checkpoint(path, "mine", unverified=True)
    text = str(report.value)
    assert "missing image_encoder.neck.0.weight" in text
    assert "unexpected image_encoder.extra" in text
    assert "mask_decoder.iou_token.weight has shape (1, 7), not (1, 256)" in text
    assert "\n" not in text
    narrow = light_checkpoint(
        tmp_path / "b.pth", **{"image_encoder.pos_embed": torch.zeros(1, 64, 64, 160)}
    )
    with pytest.raises(MaskSAMError, match=r"no SAM of an official size .* 160 wide"):
        models.add_checkpoint(narrow, "mine", unverified=True)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(MaskSAMError, match="it has no image encoder"):
        models.add_checkpoint(path, "mine", unverified=True)
    assert files(home) == []


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, home: Path):
    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harmed",))

    path = light_checkpoint(tmp_path / "a.pth", optimizer=Harmful())
    with pytest.raises(MaskSAMError, match="not a readable SAM checkpoint"):
        models.add_checkpoint(path, "mine", unverified=True)
    assert not (tmp_path / "harmed").exists() and files(home) == []


def test_an_unusable_file_or_command_is_refused_with_advice(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
):
    path = light_checkpoint(tmp_path / "mine.pth")
    assert main(["models", "add", str(path)]) == 2
    assert f"masksam models add {path} --name NAME" in capfd.readouterr().err
    (tmp_path / "noise.pth").write_bytes(b"noise")
    assert main(["models", "add", str(tmp_path / "noise.pth"), "--name", "x", "--unverified"]) == 2
    assert "is not a readable SAM checkpoint" in capfd.readouterr().err
    assert main(["models", "add", str(tmp_path / "none"), "--name", "x", "--unverified"]) == 2
    assert "does not exist" in capfd.readouterr().err
    assert main(["models", "download", "medsam"]) == 2
    assert "get its file from https://github.com/bowang-lab/MedSAM" in capfd.readouterr().err
    with pytest.raises(MaskSAMError, match=r"masksam models add .* --name medsam"):
        models.add_file(models.find("medsam"), path)
    assert files(home) == []


def test_a_checkpoint_with_a_damaged_record_is_not_listed(tmp_path: Path, home: Path):
    path = light_checkpoint(tmp_path / "a.pth")
    models.add_checkpoint(path, "mine", unverified=True)
    record = home / "checkpoints" / "mine" / "checkpoint.json"
    good = json.loads(record.read_text(encoding="utf-8"))
    for bad in ({**good, "name": "sam_vit_b"}, {**good, "preparation": "x"}, {"name": "mine"}, []):
        record.write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(MaskSAMError, match="no model named 'mine'"):
            models.find("mine")
        assert models.find("sam_vit_b").url


_PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html>Google Drive - Virus scan warning</html>"
_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 375042383\n"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".zip"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(_PAGE, "is a web page"), (_POINTER, "is a pointer of Git LFS"), (b"", "is an empty file")],
)
def test_a_failed_download_is_recognised(
    content: bytes,
    message: str,
    suffix: str,
    tmp_path: Path,
    home: Path,
    capfd: pytest.CaptureFixture[str],
):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    official = tmp_path / "sam_vit_b_01ec64.pth"
    official.write_bytes(content)
    for arguments in ([path], [path, "--name", "medsam", "--unverified"], [official]):
        assert main(["models", "add", *map(str, arguments)]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert not home.exists()


def test_an_error_of_pytorch_is_not_shown(tmp_path: Path, home: Path):
    whole = light_checkpoint(tmp_path / "a.pth")
    (tmp_path / "half.pth").write_bytes(whole.read_bytes()[:1000])
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name, reason in (
        ("half", "it may be damaged"),
        ("module", "it holds Python objects, not only tensors"),
        ("old", "it holds Python objects, not only tensors"),
    ):
        with pytest.raises(MaskSAMError) as report:
            models.add_checkpoint(tmp_path / f"{name}.pth", "mine", unverified=True)
        path = tmp_path / f"{name}.pth"
        assert str(report.value) == f"{path} is not a readable SAM checkpoint: {reason}"
