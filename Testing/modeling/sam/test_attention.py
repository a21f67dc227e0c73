"""Attention through scaled_dot_product_attention, compared with that of segment-anything."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from MaskSAMCore.modeling.sam.attention import attend
from MaskSAMCore.modeling.sam.package import segment_anything


@pytest.mark.parametrize("size", [(14, 14), (5, 5), (10, 14), (1, 3)])
def test_attention_equals_that_of_segment_anything(size: tuple[int, int]) -> None:
    """Square grids occur in windowed blocks, other grids in blocks with global attention."""
    encoding = segment_anything("modeling.image_encoder")
    torch.manual_seed(0)
    attention = encoding.Attention(48, 4, use_rel_pos=True, input_size=size)
    nn.init.normal_(attention.rel_pos_h)
    nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(3, *size, 48)
    expected = attention(x)
    torch.testing.assert_close(attend(attention, x), expected, atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(attend(attention, x), expected, atol=1e-4, rtol=0)
