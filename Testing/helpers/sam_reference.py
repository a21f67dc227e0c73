"""The predictor of segment-anything as a reference, and small SAMs with random weights."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import nn

from MaskSAMCore.modeling import SamConfig
from MaskSAMCore.modeling.sam.package import segment_anything
from MaskSAMCore.modeling.sam.predictor import PlainSam

SMALL = SamConfig(
    "small", 16, 32, 4, 2, window_size=3, global_attn_indexes=(1, 3), prompt_dim=32, decoder_heads=2
)


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Set weights such that positions change the embedding and mask logits have both signs."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.3)
    hyper = module.get_submodule("mask_decoder.output_hypernetworks_mlps.0")
    for parameter in hyper.parameters():
        parameter.data.mul_(4)


def small_sam(size: int = 64, seed: int = 0) -> PlainSam:
    """Return a SAM of ``size`` pixels that runs in milliseconds."""
    torch.manual_seed(seed)
    model = PlainSam(SMALL, size)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


def predictor(sam: Any, size: int) -> Any:
    """Return segment-anything's ``SamPredictor`` with the encoders and the decoder of a SAM."""
    whole = segment_anything("modeling").Sam(
        sam.image_encoder, sam.prompt_encoder, sam.mask_decoder
    )
    whole.image_encoder.img_size = size
    return _module("predictor").SamPredictor(whole.eval())


def _module(name: str) -> Any:
    """Import a module of segment-anything that needs torchvision.

    Where torchvision is missing or broken, the two functions that the predictor uses are replaced
    by Pillow's.
    """
    try:
        import torchvision.transforms.functional  # noqa: F401
    except Exception:
        names = ("transforms", "transforms.functional", "ops", "ops.boxes")
        added: dict[str, Any] = {f"torchvision.{key}": ModuleType(key) for key in names}
        functional, boxes = (
            added["torchvision.transforms.functional"],
            added["torchvision.ops.boxes"],
        )
        functional.to_pil_image = Image.fromarray
        functional.resize = lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR)
        boxes.batched_nms = boxes.box_area = None  # imported by a module that is not used
        with patch.dict(sys.modules, {"torchvision": ModuleType("torchvision"), **added}):
            return segment_anything(name)
    return segment_anything(name)


def synthetic_slice(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Return a grey slice, uint8 (rows, columns), with a bright ellipse."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    body = ((y - rows * 0.4) / (rows * 0.3)) ** 2 + ((x - columns * 0.6) / (columns * 0.2)) ** 2 < 1
    image = 60 + 110 * body + 40 * np.sin(x / 7) + random.normal(0, 8, (rows, columns))
    return np.clip(image, 0, 255).astype(np.uint8)
