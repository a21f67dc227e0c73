"""A full-size checkpoint, 375 MB, from the user's file to the labelmap.

Meta's files are not available on every machine, so the checkpoint has their tensor names and shapes
but random weights. One slice is encoded once; everything else works on its embedding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from MaskSAMCore import Box, Segmenter, Volume
from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import reorient
from MaskSAMCore.inference.sam.preprocessing import PREPARATIONS, percentile_limits, to_grey
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from MaskSAMCore.io.files import sha256
from MaskSAMCore.modeling.sam.checkpoint import checkpoint_config
from MaskSAMCore.modeling.sam.package import segment_anything
from MaskSAMCore.modeling.sam.predictor import PlainSam
from MaskSAMCore.models import find, open_checkpoint, verify
from Testing.helpers.sam_reference import predictor, randomize, synthetic_slice

# Sagittal slices 3 mm apart, oblique and left-handed; I runs up, J forward.
AXES = np.array([[0.05, -0.1, -3.0], [0.1, 1.0, -0.2], [1.0, -0.1, 0.1]])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKSAM_HOME", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """Return segment-anything's own vit_b and a file of its weights in MedSAM's training format."""
    torch.manual_seed(0)
    sam = segment_anything("build_sam").build_sam_vit_b()
    randomize(sam)
    path = tmp_path_factory.mktemp("checkpoint") / "weights.pth"
    torch.save({"model": sam.state_dict(), "optimizer": {"lr": 1e-4}, "epoch": 3}, path)
    yield sam.requires_grad_(False), path
    path.unlink()


@pytest.fixture(scope="module")
def added(home: Path, official: tuple[Any, Path]) -> str:
    """Return the name of the model that ``masksam models add`` made from the file."""
    arguments = ["models", "add", str(official[1]), "--name", "brought", "--sha256"]
    assert main([*arguments, sha256(official[1])]) == 0
    return "brought"


def test_an_added_file_is_kept_with_its_sha256(home: Path, official: tuple[Any, Path], added: str):
    folder = home / "checkpoints" / added
    record = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(official[1]) == sha256(folder / "checkpoint.pth")
    assert record["architecture"] == "vit_b" and record["preparation"] == "sam"
    assert record["verified"] is True
    assert find(added).needs_boxes and "has the recorded SHA-256" in verify(added)


def test_a_box_in_an_oblique_volume_gets_the_predictors_own_mask(
    official: tuple[Any, Path], added: str
):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = AXES, (30, -20, 5)
    array = (
        np.stack([synthetic_slice(48, 64, seed) for seed in range(3)]).astype(np.int16) * 5 - 100
    )
    volume = Volume(array, matrix)
    segmenter = Segmenter.from_model(added, device="cpu")
    assert isinstance(segmenter, SamSegmenter) and segmenter.needs_boxes
    model = segmenter.model
    embeddings: list[torch.Tensor] = []

    def encode(*arguments: Any) -> torch.Tensor:
        embeddings.append(PlainSam.encode(model, *arguments).float())
        return embeddings[-1]

    model.encode = encode  # type: ignore[method-assign]
    with segmenter.open(volume) as session:
        first = session.segment([Box("Körper", (14.0, 8.25, 1.0), (58.0, 40.0, 2.0))])
        moved = session.segment([Box("Körper", (20.0, 12.0, 1.0), (60.0, 44.0, 2.0))])
    assert len(embeddings) == 1, "a moved box must cost a decode only"
    upright = reorient(volume, "IPL")
    limits = percentile_limits(upright.array)
    grey = to_grey(upright.array[:, :, 1], limits)
    seen: list[torch.Tensor] = []

    class KnownEmbedding(nn.Module):
        """Image encoder that returns the known embedding and keeps the predictor's input."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return embeddings[0]

    official[0].image_encoder, encoder = KnownEmbedding(), official[0].image_encoder
    try:
        reference = predictor(official[0], 1024)
        reference.set_image(np.repeat(grey[..., None], 3, -1))
    finally:
        official[0].image_encoder = encoder
    how = PREPARATIONS["sam"]
    torch.testing.assert_close(how.image(grey, 1024), seen[0], atol=1e-6, rtol=0)
    for result, (i0, i1, j0, j1) in ((first, (14, 58, 8.25, 40)), (moved, (20, 60, 12, 44))):
        # I runs up and J forward: rows run against I, columns against J.
        box = np.array([48 - j1, 64 - i1, 48 - j0, 64 - i0], dtype=float)
        logits, _, low = reference.predict(box=box, multimask_output=False, return_logits=True)
        with torch.inference_mode():
            masks = model.decode(embeddings[0], how.boxes(box[None], grey.shape, 1024))
            found = how.logits(masks, grey.shape, 1024)
        assert low.std() > 1e-2
        np.testing.assert_allclose(masks[0].numpy(), low[0], atol=1e-4)
        np.testing.assert_allclose(found[0].numpy(), logits[0], atol=1e-4)
        expected = logits[0] > 0
        inside = np.zeros_like(expected)
        inside[64 - i1 : 64 - i0, 48 - j1 : 48 - int(j0)] = True
        labels = reorient(Volume(result.labelmap, matrix), "IPL").array
        assert np.array_equal(labels[:, :, 1], expected & inside)
        assert 0.02 < (expected & inside).sum() / inside.sum() < 0.98
        assert not labels[:, :, [0, 2]].any()


def test_the_encoder_equals_that_of_segment_anything(home: Path, added: str):
    """At 256 pixels segment-anything's encoder takes a second instead of half a minute."""
    checkpoint = open_checkpoint(added)
    assert checkpoint is not None
    config = checkpoint_config(checkpoint.file)
    model = PlainSam.from_checkpoint(checkpoint.file, config, 256)
    image = PREPARATIONS["sam"].image(synthetic_slice(48, 64), 256)
    with torch.inference_mode():
        expected = model.sam.image_encoder(image)
        torch.testing.assert_close(model.encode(image), expected, atol=1e-4, rtol=0)


def test_a_changed_file_is_not_loaded(home: Path, official: tuple[Any, Path]):
    arguments = ["models", "add", str(official[1]), "--name", "medsam", "--unverified"]
    assert main(arguments) == 0
    entry = find("medsam")
    assert entry.preparation == "medsam" and entry.page and "MedSAM" in entry.title
    with entry.file.open("r+b") as stream:
        stream.seek(200_000_000)
        stream.write(b"x")
    with pytest.raises(MaskSAMError, match="damaged or was replaced"):
        Segmenter.from_model("medsam")
    assert main(["models", "verify", "medsam"]) == 2
    assert main(["models", "remove", "medsam", "--yes"]) == 0
    assert not entry.file.exists()
    with pytest.raises(MaskSAMError, match=r"get its file from .*bowang-lab/MedSAM"):
        Segmenter.from_model("medsam")
