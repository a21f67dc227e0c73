"""Training of a SAM from labelmaps: its run folder, and resuming."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling.sam.package import segment_anything
from MaskSAMCore.research.promptable_sam.pretrain import pretrain
from MaskSAMCore.research.promptable_sam.run import PretrainRecord, open_sam
from MaskSAMCore.training.run_folder import LAST, TrainingRecord
from Testing.helpers.short_run import checkpoint
from Testing.research.promptable_sam.helpers import SIZE, SMALL, small_options, write_labelmap


@pytest.fixture(scope="module")
def labelmap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelmap(tmp_path_factory.mktemp("maps") / "map.nii.gz")


@pytest.fixture(scope="module")
def trained(labelmap: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("sam") / "run"
    lines: list[str] = []
    best = pretrain(small_options(labelmap, run), lines.append)
    assert 0 < best < 1
    text = "\n".join(lines)
    assert "ellipses in the true boxes of the validation slices have Dice" in text
    assert "iteration 2, loss" in text and "left" in text
    assert f"best validation Dice {best:.4f}" in text
    return run


def test_a_run_has_weights_curves_and_a_record(trained: Path, labelmap: Path):
    names = {path.name for path in trained.iterdir()}
    assert {"run.json", "best.safetensors", "last.safetensors", "curves.png"} <= names
    record = PretrainRecord.load(trained)
    assert record.config == SMALL and record.objects == 3
    assert record.labelmaps == (str(labelmap),)


def test_the_weights_load_into_segment_anythings_own_model(trained: Path):
    """The model is built as segment-anything's builder does, with the sizes of the small SAM."""
    modeling = segment_anything("modeling")
    sam, grid = SMALL.sam, SIZE // SMALL.sam.patch_size
    model = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=SIZE,
            patch_size=sam.patch_size,
            embed_dim=sam.embed_dim,
            depth=sam.depth,
            num_heads=sam.num_heads,
            out_chans=sam.prompt_dim,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sam.window_size,
            global_attn_indexes=sam.global_attn_indexes,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=sam.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(SIZE, SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=2,
                embedding_dim=sam.prompt_dim,
                mlp_dim=sam.decoder_mlp_dim,
                num_heads=sam.decoder_heads,
            ),
            transformer_dim=sam.prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=sam.prompt_dim,
        ),
    ).eval()
    model.load_state_dict(load_file(trained / LAST))
    ours = open_sam(trained, last=True)
    image = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(image), model.image_encoder(image))


def test_a_resumed_training_goes_on_from_the_same_weights(trained: Path, tmp_path: Path):
    """The resumed training uses the labelmaps named in the run. The budget is spent, so that it
    takes a single step with a learning rate of 0."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = checkpoint(run)
    pretrain(small_options(Path(), run, labelmaps=(), resume=True), lambda _: None)
    after = checkpoint(run)
    assert after["global_step"] == before["global_step"] + 1 == 4
    assert after["masksam"]["restarts"] == 1
    for name, value in before["state_dict"].items():
        assert torch.equal(after["state_dict"][name], value), name


def test_a_training_that_is_stopped_says_how_to_continue(labelmap: Path, tmp_path: Path):
    lines: list[str] = []
    pretrain(small_options(labelmap, tmp_path / "run", stop_after=0.0), lines.append)
    assert lines[-1] == "stopped at iteration 1: continue with --resume"
    pretrain(small_options(labelmap, tmp_path / "run", resume=True), lines.append)
    assert lines[-1].startswith("best validation Dice")
    assert checkpoint(tmp_path / "run")["global_step"] == 3


def test_a_budget_given_on_resuming_replaces_that_of_the_run(trained: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    options = small_options(Path(), run, labelmaps=(), resume=True, iterations=6)
    pretrain(options, lambda _: None)
    assert checkpoint(run)["global_step"] == PretrainRecord.load(run).settings.iterations == 6
    # This time budget is already spent, so that the training ends after one step.
    pretrain(dataclasses.replace(options, iterations=None, max_minutes=1e-6), lambda _: None)
    assert checkpoint(run)["global_step"] == 7
    assert PretrainRecord.load(run).max_minutes == 1e-6


def test_a_run_is_neither_replaced_nor_mixed_with_others(
    trained: Path, labelmap: Path, tmp_path: Path
):
    with pytest.raises(MaskSAMError, match="already holds a training: add --resume"):
        pretrain(small_options(labelmap, trained))
    other = write_labelmap(tmp_path / "other.nii.gz")
    with pytest.raises(MaskSAMError, match="was trained on other labelmaps"):
        pretrain(small_options(other, trained, resume=True))
    with pytest.raises(MaskSAMError, match=r"holds no training of a SAM: it has no run\.json"):
        pretrain(small_options(labelmap, tmp_path, resume=True))


@pytest.mark.parametrize(
    ("more", "settings", "option"),
    [
        ({"objects": 4}, {}, "--objects"),
        ({}, {"learning_rate": 0.5}, "--learning-rate"),
        ({}, {"batch": 5}, "--batch"),
    ],
)
def test_a_resumed_run_keeps_its_hyperparameters(
    more: dict[str, Any], settings: dict[str, Any], option: str, trained: Path, tmp_path: Path
):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    options = small_options(Path(), run, labelmaps=(), resume=True, **more)
    with pytest.raises(MaskSAMError, match=f"was begun with another {option}: leave it out"):
        pretrain(options, lambda _: None, settings)
    record = PretrainRecord.load(run)
    same = {name: getattr(record.settings, name) for name in settings}
    options = dataclasses.replace(options, objects=record.objects)
    pretrain(options, lambda _: None, same)
    assert checkpoint(run)["global_step"] == 4


def test_a_run_without_weights_or_with_damaged_ones_is_refused(trained: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "best.safetensors").write_bytes(b"noise")
    with pytest.raises(MaskSAMError, match=r"best\.safetensors cannot be read"):
        open_sam(run)
    (run / "best.safetensors").unlink()
    with pytest.raises(MaskSAMError, match="train until the first validation"):
        open_sam(run)


def test_a_run_is_only_continued_by_the_command_that_began_it(trained: Path, tmp_path: Path):
    with pytest.raises(MaskSAMError, match="continue it with masksam pretrain -o "):
        TrainingRecord.load(trained)
    values = {"classes": ["One"], "folder": "data", "config": {}}
    (tmp_path / "run.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="continue it with masksam train data -o "):
        PretrainRecord.load(tmp_path)


def test_labelmaps_that_were_moved_are_given_again(trained: Path, labelmap: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    record = PretrainRecord.load(run)
    dataclasses.replace(record, labelmaps=(str(tmp_path / "before" / labelmap.name),)).save(run)
    again = small_options(Path(), run, labelmaps=(), resume=True)
    with pytest.raises(MaskSAMError, match=r"1 labelmap.* no longer where they were, such as"):
        pretrain(again, lambda _: None)
    pretrain(dataclasses.replace(again, labelmaps=(labelmap,)), lambda _: None)
    assert PretrainRecord.load(run).labelmaps == (str(labelmap),)
