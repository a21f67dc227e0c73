"""The paper's channel adapter, with and without upsampling, up to the predicted masks."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from MaskSAMCore.modeling import build_model
from Testing.helpers.networks import SMALL_SAM, small_masksam_config

UPSAMPLING = [
    # With tokens of 16 pixels, 4 times the token grid is the window's grid.
    pytest.param(16, 4, (8, 12), (4, 5), id="masks on the window's grid"),
    pytest.param(4, 4, (8, 12), (16, 20), id="masks finer than the window"),
    pytest.param(4, 4, (8,), (16, 20), id="one width"),
    pytest.param(8, 1, (8,), (2, 2), id="masks coarser than the window"),
]


@pytest.mark.parametrize(("patch", "upsampling", "widths", "grid"), UPSAMPLING)
def test_the_papers_channel_adapter_gives_masks_on_the_windows_grid(
    patch: int, upsampling: int, widths: tuple[int, ...], grid: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    sam = dataclasses.replace(SMALL_SAM, patch_size=patch)
    window = (5, 16, 20) if upsampling == 4 else (5, 16, 16)
    model = build_model(
        small_masksam_config(
            sam=sam, upsampling=upsampling, stem_channels=widths, in_channels=2, window=window
        )
    )
    _, rows, columns = window
    images = torch.randn(1, 2, *window)
    slices, maps = model.stem(images)
    assert slices.shape == (1, 5, upsampling * rows, upsampling * columns, 3)
    assert maps == []
    embedding = model.encode(images)
    assert embedding.features.neck.shape == (1, 5, *grid, 32)
    assert embedding.proposals.masks.shape == (1, 4, 5, 4 * grid[0], 4 * grid[1])
    prediction = model.decode(embedding)
    assert prediction.mask_logits.shape == (1, 4, *window)
    assert model.to_window(prediction.auxiliary_logits).shape == (1, 4, *window)
    prediction.semantic().mean().backward()
    assert all(p.grad is not None for p in model.stem.parameters())


def ramps(rows: int, columns: int) -> torch.Tensor:
    """Return two masks (2, H, W): row and column of each pixel's centre, 0 to 1."""
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    return torch.stack([y[:, None].expand(rows, columns), x.expand(rows, columns)])


@pytest.mark.parametrize("grid", [(64, 80), (16, 20), (8, 10)])
def test_masks_of_any_grid_keep_their_position_in_the_window(grid: tuple[int, int]) -> None:
    masks = ramps(*grid).half()[None, :, None].expand(1, 2, 5, *grid)
    found = build_model(small_masksam_config()).to_window(masks)
    assert found.dtype == torch.float32
    expected = ramps(16, 20)[None, :, None].expand(1, 2, 5, 16, 20)
    # A coarser grid does not determine the outermost half pixel.
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(found[inner], expected[inner], atol=2e-3, rtol=0)


def test_upsampling_keeps_every_voxel_in_its_position() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(upsampling=4, stem_channels=(8, 12)))
    images = torch.randn(1, 1, 5, 16, 20)
    changed = images.clone()
    changed[0, 0, 2, 11, 4] += 10
    with torch.no_grad():
        moved = (model.stem(images)[0] - model.stem(changed)[0]).abs().amax(-1)[0]
    # One 3 x 3 x 3 convolution works on the voxel grid, two on a grid 4 times finer in-plane.
    near = torch.zeros_like(moved, dtype=torch.bool)
    near[:, 4 * 10 - 2 : 4 * 13 + 2, 4 * 3 - 2 : 4 * 6 + 2] = True
    assert float(moved[near].max()) > 5 * float(moved[~near].max())
