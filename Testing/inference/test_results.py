"""Largest components of a labelmap."""

import numpy as np

from MaskSAMCore.inference.results import keep_largest_components


def test_only_the_largest_component_of_the_given_labels_is_kept():
    labelmap = np.zeros((6, 6, 12), dtype=np.uint16)
    labelmap[0:2, 0:2, 0:2] = 300
    labelmap[2, 2, 2] = 300  # this voxel touches by a corner, so it belongs to the component
    labelmap[4, 4, 5:7] = 300
    labelmap[0, 5, 9] = 7
    labelmap[5, 0, 9] = 7
    expected = labelmap.copy()
    expected[4, 4, 5:7] = 0
    keep_largest_components(labelmap, [300, 12])
    np.testing.assert_array_equal(labelmap, expected)


def test_labels_of_one_component_are_left_as_they_are():
    labelmap = np.ones((2, 3, 4), dtype=np.uint8)
    keep_largest_components(labelmap, [])
    keep_largest_components(labelmap, [1, 2])
    assert labelmap.all()


def test_the_component_with_most_voxels_of_before_is_kept_if_there_is_one():
    labelmap = np.zeros((3, 4, 12), dtype=np.uint8)
    labelmap[:, :, 8:] = 5
    labelmap[0, :2, 0:3] = 5
    labelmap[2, 2:, 0:6] = 5
    before = np.zeros_like(labelmap)
    before[0, 0, 0:3] = 5
    before[2, 2, 0] = 5
    before[:, :, 9] = 4
    expected = np.zeros_like(labelmap)
    expected[0, :2, 0:3] = 5
    found = labelmap.copy()
    keep_largest_components(found, [5], before)
    np.testing.assert_array_equal(found, expected)
    keep_largest_components(labelmap, [5], np.where(before == 5, 3, before))
    expected[:] = 0
    expected[:, :, 8:] = 5
    np.testing.assert_array_equal(labelmap, expected)
