"""Times of MaskSAM's models and of other networks on the same volumes, measured in one run.

    python -m Testing.benchmarks.peers --dataset DATASET --case hippocampus_007

The peers have random weights, because time does not depend on them:

- nnU-Net's 3D network for the hippocampus (its planned form, 5.6 M parameters), one pass over its
  patch of 40 x 56 x 40, which holds a whole case, and eight mirrored passes;
- a 3D U-Net of SynthSeg's published width and depth (5 levels of 24, 48, ... features, 33 classes),
  one pass over a head of 1 mm, cut to multiples of 16 voxels;
- segment-anything's ViT-B image encoder on a slice of 1024 pixels.

MaskSAM's times are those of whole runs with a loaded model: preprocessing, all windows, and labels
on the volume's own grid. Times are medians of wall times, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from MaskSAMCore import Segmenter, read_volume
from MaskSAMCore.allocation import keep_freed_memory
from MaskSAMCore.inference.device import cpu_has_bfloat16
from MaskSAMCore.modeling.sam.package import segment_anything

_FEATURES = 24
_LEVELS = 5
_CLASSES = 33


class SynthSegShape(nn.Module):
    """3D U-Net of SynthSeg's width and depth."""

    def __init__(self) -> None:
        super().__init__()
        widths = [_FEATURES * 2**level for level in range(_LEVELS)]
        self.down = nn.ModuleList(
            _two_convolutions(1 if level == 0 else widths[level - 1], width)
            for level, width in enumerate(widths)
        )
        self.up = nn.ModuleList(
            _two_convolutions(widths[level] + widths[level + 1], widths[level])
            for level in reversed(range(_LEVELS - 1))
        )
        self.last = nn.Conv3d(_FEATURES, _CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return class probabilities (B, 33, D, H, W) of images (B, 1, D, H, W)."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool3d(x, 2))
            skips.append(x)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, nn.functional.interpolate(x, scale_factor=2)], 1))
        return self.last(x).softmax(1)


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.ELU(inplace=True),
        nn.Conv3d(outputs, outputs, 3, padding=1),
        nn.ELU(inplace=True),
        nn.BatchNorm3d(outputs),
    )


def nnunet() -> nn.Module:
    """Return nnU-Net's network for the hippocampus, as its planner configures it."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        input_channels=1,
        n_stages=4,
        features_per_stage=[32, 64, 128, 256],
        conv_op=nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 4,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[2] * 4,
        num_classes=3,
        n_conv_per_stage_decoder=[2] * 3,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def sam_encoder() -> nn.Module:
    """Return the image encoder of segment-anything's ViT-B."""
    model: nn.Module = segment_anything("build_sam").sam_model_registry["vit_b"]().image_encoder
    return model


def measure(name: str, call: Callable[[], object], repetitions: int) -> None:
    """Call a function a few times and print a row of the table."""
    call()
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    low, high = min(seconds), max(seconds)
    print(f"| {name} | {statistics.median(seconds):.2f} s ({low:.2f} to {high:.2f}) |", flush=True)


@torch.inference_mode()
def passes(network: nn.Module, image: Tensor, mirrored: bool = False) -> None:
    """Run a network over an image, in float32 as nnU-Net and SynthSeg do on a CPU."""
    axes = [[], [2], [3], [4], [2, 3], [2, 4], [3, 4], [2, 3, 4]] if mirrored else [[]]
    for flips in axes:
        network(image.flip(flips) if flips else image)


def main() -> None:
    """Measure MaskSAM's models and the peers, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--case", default="hippocampus_007")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--network", action="append", help="name of a row, or a part of it")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    units = "with" if cpu_has_bfloat16() else "without"
    print(f"{torch.get_num_threads()} threads, {units} bfloat16 units\n")
    print("| network | time |\n|---|---|")
    for build in (hippocampus_rows, head_rows, slice_rows):
        for name, call in build(options.dataset, options.case):
            if not options.network or any(part in name for part in options.network):
                measure(name, call, options.repetitions)


Rows = Iterator[tuple[str, Callable[[], object]]]


def hippocampus_rows(dataset: Path, case: str) -> Rows:
    """Yield the networks for a hippocampus case, with functions that run them."""
    volume = read_volume(dataset / "imagesTr" / f"{case}_0000.nii.gz")
    segmenter = Segmenter.from_model("hippocampus", device="cpu")
    yield "MaskSAM hippocampus, a case", lambda: segmenter.segment(volume)
    network, patch = nnunet().eval(), torch.randn(1, 1, 40, 56, 40)
    count = sum(p.numel() for p in network.parameters()) / 1e6
    yield f"nnU-Net ({count:.1f} M), a case, one pass", lambda: passes(network, patch)
    yield f"nnU-Net ({count:.1f} M), a case, 8 mirrored", lambda: passes(network, patch, True)


def head_rows(dataset: Path, case: str) -> Rows:
    """Yield the networks for a whole head, with functions that run them."""
    from nilearn.datasets.struct import MNI152_FILE_PATH

    head = read_volume(MNI152_FILE_PATH)
    segmenter = Segmenter.from_model("brain", device="cpu")
    yield "MaskSAM brain, a head of 1 mm", lambda: segmenter.segment(head)
    shape = [size // 16 * 16 for size in head.shape]
    unet, image = SynthSegShape().eval(), torch.randn(1, 1, *shape)
    size = " x ".join(map(str, shape))
    yield f"SynthSeg's shape, {size}, one pass", lambda: passes(unet, image)


def slice_rows(dataset: Path, case: str) -> Rows:
    """Yield SAM's encoder for a slice, with a function that runs it."""
    encoder, image = sam_encoder().eval(), torch.randn(1, 3, 1024, 1024)
    yield "SAM ViT-B encoder, a slice", lambda: passes(encoder, image)


if __name__ == "__main__":
    main()
