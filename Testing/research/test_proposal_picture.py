"""Picture of the prompts that MaskSAM proposes to itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, crop
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.research.proposal_picture import slice_proposals, write_proposals
from Testing.helpers.generated import generated_case, write_image
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import threshold_segmenter, two_blobs, volume_of


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> MaskSegmenter:
    return MaskSegmenter.from_model(small_bundle(tmp_path_factory.mktemp("m") / "small"), "cpu")


@pytest.fixture
def volume(tmp_path: Path):
    write_image(generated_case(1)[0], tmp_path / "a.nii.gz")
    return read_volume(tmp_path / "a.nii.gz")


def test_queries_that_win_have_a_class_of_the_result(segmenter: MaskSegmenter, volume):
    found = slice_proposals(segmenter, [volume])
    queries, window = segmenter.model.config.queries, segmenter.model.config.window
    assert found.masks.shape == (queries, *window[1:])
    assert found.boxes.shape == (queries, 4)
    assert found.winners.any()
    decided = found.labels > 0
    assert decided.any()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert (found.confidences > 0).all() and (found.confidences <= 1).all()


def test_proposals_of_an_roi_are_those_of_the_cropped_image(segmenter: MaskSegmenter, volume):
    roi = Box("ROI", (2, 3, 1), (14, 15, 7))
    found = slice_proposals(segmenter, [volume], roi)
    cropped = slice_proposals(segmenter, [crop(volume, roi)])
    np.testing.assert_array_equal(found.image, cropped.image)
    np.testing.assert_allclose(found.boxes, cropped.boxes, atol=1e-3)
    assert not np.array_equal(found.image, slice_proposals(segmenter, [volume]).image)


def test_a_picture_has_a_tile_for_each_query(segmenter: MaskSegmenter, volume, tmp_path: Path):
    target = tmp_path / "proposals.png"
    write_proposals(segmenter, [volume], target)
    with Image.open(target) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 1150
    # The boxes and masks are drawn in the colours of their classes.
    assert (pixels.max(-1).astype(int) - pixels.min(-1) > 60).any()


def test_a_model_without_proposals_is_refused(tmp_path: Path):
    target = tmp_path / "proposals.png"
    with pytest.raises(MaskSAMError, match="proposes none"):
        write_proposals(threshold_segmenter(), [volume_of(two_blobs())], target)
    assert not target.exists()
