"""The baseline U-Net: stages by nnU-Net's rules, and the interface of the other networks."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from MaskSAMCore.modeling import build_model
from MaskSAMCore.research.presets import UNET
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.research.unet.loss import LossSettings, training_loss
from Testing.helpers.networks import class_box_prompts


def small_unet() -> UNetConfig:
    return UNetConfig(2, features=4).adapted((5, 16, 20), (1.0, 1.0, 1.0), 2, 1)


def test_stages_of_an_isotropic_grid_are_nnunets_for_the_hippocampus() -> None:
    """For 35 x 50 x 36 voxels of 1 mm nnU-Net plans a patch of 40 x 56 x 40 and four stages."""
    config = UNET.network.adapted((35, 50, 36), (1.0, 1.0, 1.0), 2, 1)
    assert config.window == (40, 56, 40)
    assert config.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert set(config.kernels) == {(3, 3, 3)}
    assert config.stage_features == (32, 64, 128, 256)


def test_first_stages_neither_halve_nor_mix_coarse_slices() -> None:
    config = UNetConfig(1).adapted((14, 256, 224), (10.0, 1.5, 1.5), 1, 1)
    assert config.strides[1:3] == ((1, 2, 2), (1, 2, 2))
    assert config.kernels[0] == (1, 3, 3) and config.kernels[-1] == (3, 3, 3)
    assert config.window[1:] == (256, 224)


def test_it_trains_with_deep_supervision_and_boxes_clip_its_classes() -> None:
    torch.manual_seed(0)
    config = small_unet()
    model = build_model(config)
    images = torch.randn(2, 1, *config.window)
    labels = torch.randint(0, 3, (2, *config.window))
    stages = model.supervised_logits(images)
    assert tuple(stages[0].shape[2:]) == config.window
    assert len(stages) == len(config.strides) - 1
    loss, parts = training_loss(model, images, labels, LossSettings())
    loss.backward()
    assert parts["cross_entropy"] > 0 and parts["dice"] > 0
    with torch.no_grad():
        embedding = model.eval().encode(images[:1])
        free = model.decode(embedding).semantic()[0]
        prompts = class_box_prompts(1, [0.25, 0.25, 0.75, 0.75], [1, 2], config.window[0])
        held = model.decode(embedding, prompts).semantic()[0]
    torch.testing.assert_close(free.sum(0), torch.ones(config.window))
    assert float(held[1, [0, 3]].max()) == 0 and float(held[1, 1].max()) > 0
    assert torch.equal(held[2], free[2])


def test_every_weight_is_saved_once_and_loaded_back(tmp_path) -> None:
    """The decoder of ``PlainConvUNet`` contains the encoder, so that tensors have several names."""
    model = build_model(small_unet())
    names = model.kept_names()
    assert len(names) < len(model.state_dict())
    state = model.state_dict()
    save_file({name: state[name].contiguous() for name in names}, tmp_path / "w.safetensors")
    other = build_model(small_unet())
    other.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=False)
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("window", [(1, 1, 1), (3, 1, 3), (7, 7, 7)])
def test_a_window_that_is_too_small_for_two_stages_is_refused(window: tuple[int, int, int]):
    with pytest.raises(ValueError, match="too small for the stages of a U-Net"):
        UNET.network.adapted(window, (1.0, 1.0, 1.0), 2, 1)


def test_chosen_kernels_are_kept_and_need_more_than_one_voxel_in_the_last_stage():
    kernels = ((1, 3, 3),) * 5
    chosen = UNET.network.replace(kernels=kernels)
    config = chosen.adapted((14, 40, 40), (1.0, 1.0, 1.0), 2, 1, {"kernels"})
    assert config.kernels == kernels and config.strides == UNET.network.strides
    assert config.window == (16, 48, 48)
    with pytest.raises(ValueError, match="a window of 14 x 16 x 16 voxels is too small"):
        chosen.adapted((14, 16, 16), (1.0, 1.0, 1.0), 2, 1, {"kernels"})
