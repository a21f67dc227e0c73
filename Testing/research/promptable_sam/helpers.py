"""A labelmap, and a SAM and hyperparameters small enough to train in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MaskSAMCore.modeling import SamConfig
from MaskSAMCore.research.promptable_sam.config import PromptableSamConfig
from MaskSAMCore.research.promptable_sam.pretrain import SETTINGS, PretrainOptions

SIZE = 16
SMALL = PromptableSamConfig(
    window=(1, SIZE, SIZE),
    sam=SamConfig(
        "small",
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        window_size=0,
        global_attn_indexes=(0,),
        prompt_dim=16,
        decoder_mlp_dim=16,
        decoder_heads=2,
        frozen=False,
    ),
)


def write_labelmap(path: Path, values: tuple[int, ...] = (0, 7, 1000)) -> Path:
    """Write an oblique, anisotropic labelmap with random blocks of some values."""
    rng = np.random.default_rng(3)
    blocks = rng.choice(values, (4, 5, 6)).repeat(5, 0).repeat(5, 1).repeat(5, 2)
    image = sitk.GetImageFromArray(blocks.astype(np.int16))
    image.SetSpacing((3.0, 2.0, 4.0))
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
    sitk.WriteImage(image, str(path))
    return path


def small_options(labelmap: Path, run: Path, **changes: object) -> PretrainOptions:
    """Return the options of a training of three steps."""
    settings = SETTINGS.replace(
        iterations=3, batch=2, warm_up=0, ema=0.5, validation_minutes=1e-6, validation_share=1.0
    )
    values: dict = {
        "labelmaps": (labelmap,),
        "run": run,
        "config": SMALL,
        "settings": settings,
        "objects": 3,
        "validation_slices": 2,
        "device": "cpu",
        "checkpoint_seconds": 1e9,
        "report_seconds": 0,
        **changes,
    }
    return PretrainOptions(**values)
