"""Attention in cubes of a volume."""

from __future__ import annotations

import pytest
import torch

from MaskSAMCore.modeling.sam.build import build_sam
from MaskSAMCore.research.sam_baselines.volume_encoder import (
    attend_in_cubes,
    cut_cubes,
    join_cubes,
    resized_table,
)
from Testing.helpers.networks import SMALL_SAM

CUBE = 3


def an_attention() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_sam(SMALL_SAM, (4, 5)).image_encoder.blocks[0].attn  # type: ignore[no-any-return]


def tables() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = SMALL_SAM.embed_dim // SMALL_SAM.num_heads
    return tuple(torch.randn(2 * CUBE - 1, width) for _ in range(3))  # type: ignore[return-value]


def attended_naively(
    attention: torch.nn.Module, x: torch.Tensor, positions: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Return the attention of tokens (T, h, w, D) with the bias written out pair by pair."""
    sizes, heads = x.shape[:3], SMALL_SAM.num_heads
    places = torch.cartesian_prod(*map(torch.arange, sizes))
    q, k, v = attention.qkv(x.flatten(0, 2)).reshape(len(places), 3, heads, -1).unbind(1)
    logits = torch.einsum("qnc,knc->nqk", q, k) * attention.scale
    for axis, table in enumerate(positions):
        distance = places[:, None, axis] - places[None, :, axis] + CUBE - 1
        logits = logits + torch.einsum("qnc,qkc->nqk", q, table[distance])
    out = torch.einsum("nqk,knc->qnc", logits.softmax(-1), v).flatten(1)
    return attention.proj(out).reshape(x.shape)


def test_attention_in_a_cube_has_relative_positions_along_three_axes() -> None:
    attention, positions = an_attention(), tables()
    x = torch.randn(2, CUBE, CUBE, CUBE, SMALL_SAM.embed_dim)
    with torch.no_grad():
        found = attend_in_cubes(attention, x, positions, CUBE, 0)
        expected = torch.stack([attended_naively(attention, one, positions) for one in x])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shift", [0, 1])
def test_tokens_see_their_own_cube_and_never_across_the_border(shift: int) -> None:
    attention, positions = an_attention(), tables()
    x = torch.randn(1, 2 * CUBE, CUBE, 5, SMALL_SAM.embed_dim)
    changed = x.clone()
    changed[:, 0] = torch.randn_like(changed[:, 0])
    with torch.no_grad():
        first, other = (
            attend_in_cubes(attention, one, positions, CUBE, shift) for one in (x, changed)
        )
    moved = (first - other).abs().amax((0, 2, 3, 4))
    # Cubes shifted by one token begin at slice 1, and slice 0 forms a part of its own.
    reached = [0, 1, 2] if shift == 0 else [0]
    assert (moved > 1e-5).nonzero()[:, 0].tolist() == reached
    assert first.shape == x.shape


def test_cubes_are_joined_as_they_were_cut() -> None:
    x = torch.randn(2, 6, 3, 9, 4)
    cubes = cut_cubes(x, CUBE)
    assert cubes.shape == (2 * 2 * 1 * 3, 27, 4)
    assert torch.equal(join_cubes(cubes, CUBE, x.shape[1:4]), x)


def test_tables_of_positions_are_interpolated() -> None:
    table = torch.linspace(-1, 1, 9)[:, None]
    assert torch.equal(resized_table(table, 5), table)
    assert resized_table(table, 2).shape == (3, 1)
    assert float(resized_table(table, 2)[1]) == pytest.approx(0, abs=1e-6)
