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
