"""Published Dice scores on the papers' datasets, organ by organ, with their sources.

Organs are named as in the datasets that ``masksam convert`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from MaskSAMCore.research.conversion.amos22 import ORGANS as AMOS_ORGANS

_PAPER = "Xie et al., MaskSAM, ICCV 2025"
_SYNAPSE = (
    "aorta",
    "gallbladder",
    "left kidney",
    "right kidney",
    "liver",
    "pancreas",
    "spleen",
    "stomach",
)
_ACDC = ("RV", "MYO", "LV")


@dataclass(frozen=True)
class PublishedDice:
    """Dice scores of a method on a dataset.

    Attributes:
        method: name of the method.
        mean: published mean, 0 to 1.
        source: paper and table.
        organs: published Dice of each organ, 0 to 1; empty where only the mean is known.
    """

    method: str
    mean: float
    source: str
    organs: Mapping[str, float]


def _row(
    method: str, table: str, organs: tuple[str, ...], percent: str, mean: float
) -> PublishedDice:
    """Return a method's row of a table in the paper; ``percent`` and ``mean`` are in percent."""
    figures = [float(figure) / 100 for figure in percent.split()]
    scores = dict(zip(organs, figures, strict=True))
    return PublishedDice(method, mean / 100, f"{_PAPER}, {table}", scores)


PUBLISHED: Mapping[str, tuple[PublishedDice, ...]] = {
    "acdc": (
        _row("MaskSAM", "Table 3", _ACDC, "92.30 91.37 96.49", 93.39),
        _row("nnFormer", "Table 3", _ACDC, "90.94 89.58 95.65", 92.06),
        # As published, although the LV does not fit the mean, which would need 95.36.
        _row("nnU-Net", "Table 3", _ACDC, "90.24 89.24 92.36", 91.61),
    ),
    "amos22": (
        _row(
            "MaskSAM",
            "Table 1",
            AMOS_ORGANS,
            "96.3 97.3 96.9 87.2 87.6 98.2 94.0 96.2 92.2 88.8 79.4 81.3 85.1 92.0 85.4",
            90.5,
        ),
        _row(
            "SwinUNETR",
            "Table 1",
            AMOS_ORGANS,
            "95.9 96.0 94.9 89.4 82.7 97.9 89.9 94.4 89.9 82.8 79.1 74.5 81.7 87.5 84.1",
            88.0,
        ),
        _row(
            "nnU-Net",
            "Table 1",
            AMOS_ORGANS,
            "96.5 95.9 95.1 88.9 82.0 98.0 89.0 94.8 90.1 82.1 78.5 73.9 80.6 86.9 83.9",
            87.8,
        ),
    ),
    "synapse": (
        _row(
            "MaskSAM", "Table 2", _SYNAPSE, "91.75 72.20 87.32 88.15 97.21 79.62 92.47 89.11", 87.23
        ),
        _row(
            "nnFormer",
            "Table 2",
            _SYNAPSE,
            "92.40 70.17 86.57 86.25 96.84 83.35 90.51 86.83",
            86.57,
        ),
        _row(
            "nnU-Net", "Table 2", _SYNAPSE, "92.39 71.71 86.07 91.46 95.84 82.92 90.31 79.01", 86.21
        ),
    ),
    "btcv": (
        PublishedDice("MA-SAM", 0.872, "Chen et al., MA-SAM, Medical Image Analysis 2024", {}),
    ),
}
