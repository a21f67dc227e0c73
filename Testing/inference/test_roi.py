"""Segmentation of the part of a volume inside an ROI."""

import numpy as np
import pytest

from MaskSAMCore.data import ChannelNormalization
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, RasBox, box_on_grid
from MaskSAMCore.inference import MaskSegmenter
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    LABELS,
    ThresholdModel,
    one_class,
    plan_for,
    threshold_segmenter,
    two_blobs,
    volume_of,
)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_only_the_roi_is_labelled(name):
    truth = two_blobs()
    roi = Box("", (5, 4, 3), (14, 12, 8))
    segmenter = threshold_segmenter(orientation="LIP")
    result = segmenter.segment(volume_of(truth, GEOMETRIES[name]), roi=roi)
    expected = np.zeros_like(truth)
    expected[3:8, 4:12, 5:14] = truth[3:8, 4:12, 5:14]
    np.testing.assert_array_equal(result.labelmap, expected)


def test_an_roi_is_rounded_outward_to_whole_voxels_except_for_rounding_errors():
    truth = one_class(1, (8, 9, 10))
    roi = Box("", (1.9999985, 2.4, 3.0000015), (5.0000015, 6.2, 5.9999985))
    result = threshold_segmenter().segment(volume_of(truth), roi=roi)
    expected = np.zeros_like(truth)
    expected[3:6, 2:7, 2:5] = 1
    np.testing.assert_array_equal(result.labelmap, expected)


def test_an_roi_partly_outside_is_clipped():
    truth = one_class(1, (8, 9, 10))
    result = threshold_segmenter().segment(volume_of(truth), roi=Box("", (-4, 5, 6), (3, 50, 7.5)))
    expected = np.zeros_like(truth)
    expected[6:8, 5:, :3] = 1
    np.testing.assert_array_equal(result.labelmap, expected)


def test_an_roi_in_ras_space_on_an_oblique_volume_contains_all_its_corners():
    volume = volume_of(one_class(1, (8, 9, 10)), GEOMETRIES["oblique"])
    centre = (volume.ijk_to_ras @ [5, 4, 3, 1])[:3]
    ras_box = RasBox("", tuple(centre), np.eye(3), (3.0, 3.0, 3.0))
    found = threshold_segmenter().segment(volume, roi=box_on_grid(ras_box, volume)).labelmap
    k, j, i = np.indices(volume.shape)
    inside = np.einsum("xy,ykji->xkji", volume.ijk_to_ras[:3, :3], np.stack([i, j, k]))
    inside = np.abs(inside + (volume.ijk_to_ras[:3, 3] - centre)[:, None, None, None]).max(0) <= 1.5
    assert inside.any()
    assert (found[inside] == 1).all()
    assert found.sum() < 6**3


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (Box("", (3, 3, 3), (3, 5, 5)), "ROI is empty"),
        (Box("", (3, 3, 3), (2, 5, 5)), "ROI is empty"),
        (Box("", (3, np.nan, 3), (5, 5, 5)), "ROI has corners that are not numbers"),
        (Box("", (3, 3), (5, 5)), "ROI has corners that are not numbers"),  # type: ignore[arg-type]
        (Box("", (30, 3, 3), (35, 5, 5)), "ROI lies outside the volume"),
        (Box("", (-9, 3, 3), (-1, 5, 5)), "ROI lies outside the volume"),
    ],
)
def test_an_roi_without_voxels_is_refused(roi, message):
    with pytest.raises(MaskSAMError, match=message):
        threshold_segmenter().segment(volume_of(two_blobs()), roi=roi)


def test_an_roi_or_box_in_space_is_refused_with_how_to_place_it_on_the_volume():
    box = RasBox("Anterior", (0.0, 0.0, 0.0), np.eye(3), (3.0, 3.0, 3.0))
    message = r"must be a Box on the grid .*, not RasBox: .* box_on_grid\(box, volume\)"
    for option in ({"roi": box}, {"boxes": [box]}):
        with pytest.raises(MaskSAMError, match=message):
            threshold_segmenter().segment(volume_of(two_blobs()), **option)


def test_intensities_are_normalised_within_the_roi_only():
    inside = np.random.default_rng(0).normal(100, 20, (6, 8, 8)).astype(np.float32)
    model = ThresholdModel(window=(6, 8, 8))
    seen = []
    model.encode = lambda images, encode=model.encode: (seen.append(images), encode(images))[1]
    plan = plan_for(window=(6, 8, 8))
    plan = type(plan)(**{**vars(plan), "normalization": (ChannelNormalization("zscore"),)})
    around = np.full((12, 14, 16), 5000, dtype=np.float32)
    around[3:9, 4:12, 5:13] = inside
    MaskSegmenter(model, plan, LABELS, device="cpu").segment(
        volume_of(around), roi=Box("", (5, 4, 3), (13, 12, 9))
    )
    assert abs(float(seen[0].mean())) < 1e-3
    assert abs(float(seen[0].std()) - 1) < 1e-2


def test_voxels_outside_the_roi_need_not_be_numbers():
    truth = two_blobs()
    truth[-1] = np.nan
    result = threshold_segmenter().segment(volume_of(truth), roi=Box("", (0, 0, 0), (23, 17, 10)))
    np.testing.assert_array_equal(result.labelmap[:10], truth[:10])
