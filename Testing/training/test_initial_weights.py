"""Weights that a training starts from, also those of a network for other classes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import build_model
from MaskSAMCore.modeling.masksam.inheritance import inherit_weights
from MaskSAMCore.modeling.masksam.network import DECODER_PARTS
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.initial_weights import class_origins, load_initial_weights
from MaskSAMCore.training.run_folder import BEST, TrainingRecord, load_weights, save_weights
from Testing.helpers.networks import (
    FROZEN_SMALL_SAM,
    RESIDUAL_MASKS,
    small_masam_config,
    small_masksam_config,
)
from Testing.helpers.short_run import SHORT, SMALL
from Testing.helpers.small_bundle import small_bundle

NAMES = ("One", "Two")


def test_a_folder_without_weights_is_no_start_of_a_training(tmp_path: Path):
    with pytest.raises(MaskSAMError, match="holds no weights to start from"):
        load_initial_weights(build_model(small_masksam_config()), tmp_path, NAMES)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    save_weights(build_model(small_masksam_config()), tmp_path / "best.safetensors", {})
    wider = build_model(small_masksam_config(head_channels=24))
    with pytest.raises(MaskSAMError, match=r"weights of another network: generator\.box_head"):
        load_initial_weights(wider, tmp_path, NAMES)


def test_a_part_without_effect_may_be_missing_from_initial_weights(tmp_path: Path):
    source = build_model(small_masksam_config())
    save_weights(source, tmp_path / "best.safetensors", {})
    told = build_model(small_masksam_config(box_kinds=True))
    load_initial_weights(told, tmp_path, NAMES)
    assert torch.equal(told.decoder.class_token, source.decoder.class_token)
    assert not told.decoder.box_kinds.any()


def test_a_damaged_file_of_weights_is_refused(tmp_path: Path):
    (tmp_path / "weights.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(MaskSAMError, match=r"weights\.safetensors cannot be read"):
        load_initial_weights(build_model(small_masksam_config()), tmp_path, NAMES)


def test_a_class_starts_as_that_of_its_name_and_others_in_order():
    former = ["Liver", "left kidney", "Spleen"]
    assert class_origins(["spleen", "Tumour", "Vein"], former) == [3, 1, 2]
    assert class_origins(["A", "B", "C", "D"], former) == [1, 2, 3, 1]
    assert class_origins(["Spleen", "Liver", "Left Kidney", "Cyst"], former) == [3, 1, 2, 1]


def test_a_training_for_other_classes_and_smaller_windows_starts_from_a_run(
    trained: Path, dataset: Path, tmp_path: Path
):
    """One class has another name, and a query more than the classes comes from one that is left."""
    record = TrainingRecord.load(trained)
    source = load_weights(record, trained / BEST)
    renamed = shutil.copytree(trained, tmp_path / "renamed")
    replace(record, classes=("Grey", "bright")).save(renamed)
    lines: list[str] = []
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0, weights=renamed)
    # With a learning rate of 0 the initial weights do not change.
    still = {**SHORT, "learning_rate": 0.0, "iterations": 1}
    fit(options, lines.append, {**SMALL, "window": (8, 24, 32), "queries": 3}, still)
    assert "renamed has other classes: Dark as its Grey" in lines
    found = load_weights(TrainingRecord.load(tmp_path / "run"), tmp_path / "run" / BEST)
    before, after = source.state_dict(), found.state_dict()
    assert_close(
        after["decoder.class_head.weight"], before["decoder.class_head.weight"][[0, 2, 1, 3]]
    )
    assert_close(
        after["generator.mask_head.weight"], before["generator.mask_head.weight"][[0, 2, 1]]
    )
    position = "sam.image_encoder.pos_embed"
    assert_close(after[position], before[position][:, 0:6])
    for name, value in before.items():
        if value.shape == after[name].shape and not name.startswith("decoder.class_head"):
            assert_close(after[name], value)


@torch.inference_mode()
def test_queries_beyond_the_classes_start_as_those_that_are_left():
    torch.manual_seed(2)
    source = build_model(small_masksam_config(queries=6))
    model = build_model(small_masksam_config(queries=5, num_classes=1))
    inherit_weights(model, source, [2], [0, 1, 2])
    rows = source.generator.mask_head.weight[[0, 2, 1, 3, 4]]
    assert torch.equal(model.generator.mask_head.weight, rows)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_classes": 1, "head_channels": 24}, "it has other parts or other widths"),
        ({"window": (5, 24, 20)}, "its windows have 5 slices of at most 16 x 20 voxels"),
        ({"window": (4, 16, 20)}, "its windows have 5 slices of at most 16 x 20 voxels"),
        ({"queries": 9}, "9 queries cannot come from its 4: choose from 3 to 4"),
        ({"num_classes": 1, "queries": 1}, "1 queries cannot come from its 4: choose from 2 to 4"),
    ],
)
def test_a_network_starts_only_from_one_of_the_same_parts(
    changes: dict[str, object], problem: str, tmp_path: Path
):
    folder = small_bundle(tmp_path / "small")
    model = build_model(small_masksam_config(**changes))
    with pytest.raises(MaskSAMError, match=rf"weights of another network: .*\({problem}\)"):
        load_initial_weights(model, folder, NAMES[: model.config.num_classes])


def test_a_position_embedding_of_the_whole_decoder_fits_its_own_window_alone():
    source = build_model(small_masksam_config(dense_decoder_position=True))
    smaller = small_masksam_config(dense_decoder_position=True, window=(5, 12, 16))
    with pytest.raises(ValueError, match=r"depth_position is for windows of 16 x 20 voxels"):
        inherit_weights(build_model(smaller), source, [1, 2], [0, 1, 2])


def test_a_network_of_another_kind_starts_from_none_for_other_classes(tmp_path: Path):
    folder = small_bundle(tmp_path / "small")
    with pytest.raises(MaskSAMError, match="only MaskSAM's networks can start from one for other"):
        load_initial_weights(build_model(small_masam_config()), folder, NAMES)


def test_a_network_with_a_frozen_sam_starts_only_from_one_for_the_same_classes(tmp_path: Path):
    folder = small_bundle(tmp_path / "small")
    model = build_model(small_masksam_config(sam=FROZEN_SMALL_SAM, num_classes=1))
    with pytest.raises(MaskSAMError, match="a network with a frozen SAM starts only from one for"):
        load_initial_weights(model, folder, NAMES)


def test_classes_in_another_order_start_as_those_of_their_names(tmp_path: Path):
    folder = small_bundle(tmp_path / "small", class_names=("Bright", "Dark"))
    former = load_file(folder / "weights.safetensors")["decoder.class_head.weight"].float()
    model = build_model(small_masksam_config())
    origins = load_initial_weights(model, folder, ("dark", "Bright"))
    assert origins == {"dark": "Dark", "Bright": "Bright"}
    assert torch.equal(model.decoder.class_head.weight, former[[0, 2, 1, 3]])
    assert load_initial_weights(model, folder, ("Bright", "Dark")) == {}
    assert torch.equal(model.decoder.class_head.weight, former)


def test_a_zip_of_a_model_is_a_start_like_its_folder(tmp_path: Path):
    folder = small_bundle(tmp_path / "small")
    archive = Path(shutil.make_archive(str(folder), "zip", folder))
    model, other = (build_model(small_masksam_config()) for _ in range(2))
    load_initial_weights(model, folder, ("Bright", "Dark"))
    load_initial_weights(other, archive, ("Bright", "Dark"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    wider = build_model(small_masksam_config(head_channels=24))
    with pytest.raises(MaskSAMError, match=r"small\.zip holds the weights of another network"):
        load_initial_weights(wider, archive, NAMES)


def test_weights_that_fit_are_loaded_in_order_where_classes_cannot_be_exchanged(tmp_path: Path):
    """A part without effect that the former network lacks excludes an exchange of its classes."""
    folder = small_bundle(tmp_path / "small", class_names=("Bright", "Dark"))
    former = load_file(folder / "weights.safetensors")["decoder.class_head.weight"].float()
    model = build_model(small_masksam_config(box_kinds=True))
    assert load_initial_weights(model, folder, ("Dark", "Grey")) == {}
    assert torch.equal(model.decoder.class_head.weight, former)


def test_a_decoder_whose_masks_mean_something_else_keeps_its_own_weights():
    torch.manual_seed(3)
    options = {**RESIDUAL_MASKS, "mask_prompt": "box"}
    source = build_model(small_masksam_config(**options))
    model = build_model(small_masksam_config(**options, separate_masks=True))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    inherit_weights(model, source, [1, 2], [0, 1, 2])
    former, now = source.state_dict(), model.state_dict()
    kept = {name for name in now if name.startswith(DECODER_PARTS)}
    assert kept and all(torch.equal(now[name], own[name]) for name in kept)
    assert all(torch.equal(now[name], former[name]) for name in now.keys() - kept)
