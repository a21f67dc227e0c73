"""Boxes between a volume and the grid of a model."""

import numpy as np
import pytest

from MaskSAMCore.geometry import Box
from MaskSAMCore.inference.model_grid import ModelGrid
from Testing.helpers.threshold_model import GEOMETRIES, volume_of


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=list(GEOMETRIES))
def test_a_box_mapped_to_the_grid_and_back_is_the_same(geometry):
    volume = volume_of(np.zeros((9, 14, 20), np.float32), GEOMETRIES[geometry])
    grid = ModelGrid.of(volume, Box("", (2, 1, 3), (19, 12, 8)), "RSA").resampled_to((7, 30, 5))
    box = Box("one", (4.25, 3.5, 3.75), (15.0, 11.25, 7.5))
    back = grid.from_plan(grid.to_plan(box), "one")
    assert back.class_name == "one"
    assert np.allclose([back.lower, back.upper], [box.lower, box.upper])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=list(GEOMETRIES))
def test_a_box_found_in_part_of_the_reoriented_labelmap_bounds_the_same_voxels(geometry):
    volume = volume_of(np.zeros((9, 14, 20), np.float32), GEOMETRIES[geometry])
    grid = ModelGrid.of(volume, Box("", (2, 1, 3), (19, 12, 8)), "LIP")
    labelmap = np.zeros(volume.shape, dtype=np.uint8)
    view = grid.to_plan_axes(labelmap)
    part = tuple(slice(1, n) for n in view.shape)
    view[part][1:3, 0:2, 1:4] = 1
    found = grid.box_of_part(Box("one", (1, 0, 1), (4, 2, 3)), part, view.shape)
    assert labelmap[found.slices()].all() and labelmap.sum() == labelmap[found.slices()].size
