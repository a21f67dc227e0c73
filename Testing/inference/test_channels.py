"""Segmenters that are given a path or an array in place of an image."""

from pathlib import Path

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import EnsembleSegmenter, SamSegmenter
from Testing.helpers.sam_reference import small_sam
from Testing.helpers.threshold_model import threshold_segmenter

NETWORK = threshold_segmenter()
SEGMENTERS = (
    NETWORK,
    EnsembleSegmenter([NETWORK, NETWORK]),
    SamSegmenter(small_sam(), device="cpu"),
)


@pytest.mark.parametrize("segmenter", SEGMENTERS)
@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("head.nii.gz", "str"),
        (["head.nii.gz"], "str"),
        (Path("head.nii.gz"), "PosixPath|WindowsPath"),
        (np.zeros((4, 8, 8)), "ndarray"),
        ([np.zeros((4, 8, 8))], "ndarray"),
    ],
)
def test_a_path_or_an_array_in_place_of_an_image_is_refused_with_advice(segmenter, given, kind):
    with pytest.raises(MaskSAMError, match=rf"must be a Volume, not ({kind}): .*read_volume"):
        segmenter.open(given)
