"""Official checkpoints are loaded as they are or interpolated, and refused if they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from MaskSAMCore.modeling import SAM_CONFIGS, SamConfig, build_model, load_sam_checkpoint
from MaskSAMCore.modeling.sam.build import build_sam
from MaskSAMCore.modeling.sam.package import segment_anything
from MaskSAMCore.presets.paper import ACDC

SMALL = SamConfig(
    "small",
    16,
    32,
    4,
    2,
    window_size=3,
    global_attn_indexes=(0, 1, 2, 3),
    prompt_dim=32,
    decoder_heads=2,
)


def write_checkpoint(path: Path, grid: tuple[int, int] = (4, 4), **changes: object) -> dict:
    """Write a checkpoint of the small SAM with some tensors replaced, or left out if None."""
    state = {**build_sam(SMALL, grid).state_dict(), **changes}
    state["pixel_mean"] = torch.zeros(3, 1, 1)
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    return state


def test_a_checkpoint_of_the_same_grid_is_loaded_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    state = write_checkpoint(path)
    sam = build_sam(SMALL, (4, 4))
    load_sam_checkpoint(sam, path)
    assert all(torch.equal(value, state[name]) for name, value in sam.state_dict().items())


def test_every_missing_unexpected_and_misshapen_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    changes = {
        "image_encoder.neck.0.weight": None,
        "image_encoder.extra": torch.zeros(1),
        "mask_decoder.iou_token.weight": torch.zeros(1, 7),
    }
    write_checkpoint(path, **changes)
    sam = build_sam(SMALL, (4, 4))
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit this SAM") as report:
        load_sam_checkpoint(sam, path)
    for key in changes:
        assert key in str(report.value)
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())


def test_all_positions_are_interpolated_to_another_grid(tmp_path: Path) -> None:
    """Positions that are linear over the grid stay linear over a smaller one."""
    path = tmp_path / "sam.pth"
    rows = torch.linspace(0, 1, 8)[None, :, None, None].expand(1, 8, 8, 32)
    relative = torch.linspace(-1, 1, 15)[:, None].expand(15, 16)
    changes: dict[str, object] = {"image_encoder.pos_embed": rows}
    for block in range(4):
        changes[f"image_encoder.blocks.{block}.attn.rel_pos_h"] = relative
    write_checkpoint(path, grid=(8, 8), **changes)
    sam = build_sam(SMALL, (4, 6))
    load_sam_checkpoint(sam, path)
    position = sam.image_encoder.pos_embed
    assert position.shape == (1, 4, 6, 32)
    along = position[0, :, 2, 0]
    assert along[0] < 0.2 and along[-1] > 0.8 and bool((along.diff() > 0.1).all())
    table = sam.image_encoder.blocks[0].attn.rel_pos_h
    assert table.shape == (7, 16)
    assert table[0, 0] < -0.8 and table[-1, 0] > 0.8 and abs(table[3, 0]) < 1e-6
    assert sam.image_encoder.blocks[0].attn.rel_pos_w.shape == (11, 16)


def test_an_official_file_fits_a_smaller_grid_in_global_and_in_windowed_blocks(
    tmp_path: Path,
) -> None:
    """The checkpoint is that of segment-anything's own SAM: 64 x 64 tokens, windows of 14."""
    torch.manual_seed(0)
    path = tmp_path / "sam.pth"
    official = segment_anything("build_sam")._build_sam(32, 4, 2, [1, 3])
    state = official.state_dict()
    along = torch.linspace(-1, 1, 127)
    for index in range(4):
        for axis in "hw":
            table = state[f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"]
            assert table.shape == ((127, 16) if index in (1, 3) else (27, 16))
            table.copy_(along[:, None].expand(127, 16) if index in (1, 3) else torch.randn(27, 16))
    torch.save(state, path)
    config = SamConfig("small", 16, 32, 4, 2, window_size=14, global_attn_indexes=(1, 3))
    sam = build_sam(config, (4, 6))
    load_sam_checkpoint(sam, path)
    for index in range(4):
        for axis, size in (("h", 4), ("w", 6)):
            key = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
            table = sam.state_dict()[key]
            if index in (1, 3):
                # The table covers the same extent in fewer steps; distance 0 stays in the middle.
                positions = (torch.arange(2 * size - 1) + 0.5) * 127 / (2 * size - 1) - 0.5
                expected = (-1 + positions / 63)[:, None].expand(-1, 16)
                torch.testing.assert_close(table, expected, atol=1e-5, rtol=0)
            else:
                assert torch.equal(table, state[key])
    loaded = sam.state_dict()
    for key in state:
        if "rel_pos" not in key and "pos_embed" not in key:
            assert torch.equal(loaded[key], state[key]), key


def test_medsams_training_files_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "medsam.pth"
    state = build_sam(SMALL, (4, 4)).state_dict()
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    sam = build_sam(SMALL, (4, 4))
    load_sam_checkpoint(sam, path)
    assert all(torch.equal(value, state[name]) for name, value in sam.state_dict().items())


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "evil.pth"
    torch.save({"model": Payload()}, path)
    with pytest.raises(ValueError, match="not a readable SAM checkpoint"):
        load_sam_checkpoint(build_sam(SMALL, (4, 4)), path)
    assert not (tmp_path / "executed").exists()


def test_a_file_that_is_not_a_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "noise.pth"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"noise\.pth is not a readable SAM checkpoint"):
        load_sam_checkpoint(build_sam(SMALL, (4, 4)), path)


def test_a_full_size_official_checkpoint_loads_into_the_acdc_preset(tmp_path: Path) -> None:
    """Meta's file is not available everywhere; the test's file has the same keys and shapes."""
    path = tmp_path / "sam_vit_b.pth"
    with torch.device("meta"):
        official = segment_anything("build_sam").build_sam_vit_b()
        model = build_model(ACDC.network.replace(window=(4, 128, 128)))
    state = {name: torch.zeros(value.shape) for name, value in official.state_dict().items()}
    weight = state["image_encoder.blocks.0.mlp.lin1.weight"].normal_()
    torch.save(state, path)
    load_sam_checkpoint(model.sam, path)
    path.unlink()
    assert model.config.sam == SAM_CONFIGS["vit_b"]
    assert torch.equal(model.sam.image_encoder.blocks[0].mlp.lin1.weight, weight)
    assert model.sam.image_encoder.pos_embed.shape == (1, 32, 32, 768)
