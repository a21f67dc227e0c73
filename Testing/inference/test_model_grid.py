"""Conversion of boxes between a volume and the grid of a model."""

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


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=list(GEOMETRIES))
@pytest.mark.parametrize("orientation", ["SPL", "LIP", "ARS"])
def test_the_voxel_size_of_a_grid_is_that_of_the_region_over_its_voxels(geometry, orientation):
    stretched = GEOMETRIES[geometry] @ np.diag([0.5, 1.0, 3.0, 1.0])
    volume = volume_of(np.zeros((9, 14, 20), np.float32), stretched)
    grid = ModelGrid.of(volume, Box("", (2, 1, 3), (18, 13, 9)), orientation)
    extents = [(9 - 3) * 3.0, (13 - 1) * 1.0, (18 - 2) * 0.5]
    slices = [9 - 3, 13 - 1, 18 - 2][grid.axes[0]]
    finer = grid.resampled_to((2 * slices, 10, 40))
    expected = np.array([extents[axis] for axis in grid.axes]) / finer.shape
    np.testing.assert_allclose(finer.spacing_of(volume), expected)
    assert finer.slice_thickness == 2


def test_a_region_is_the_whole_voxels_that_an_roi_touches():
    volume = volume_of(np.zeros((9, 14, 20), np.float32))
    grid = ModelGrid.of(volume, Box("", (2.5, 1, 3.2), (18, 12.1, 8.9)), "SPL")
    assert (grid.region.lower, grid.region.upper) == ((2, 1, 3), (18, 13, 9))
    np.testing.assert_allclose(grid.to_plan(grid.region), [(0, 0, 0), grid.shape])


def test_a_box_is_clipped_to_the_region():
    volume = volume_of(np.zeros((9, 14, 20), np.float32))
    grid = ModelGrid.of(volume, Box("", (2, 1, 3), (18, 12, 8)), "SPL")
    inside = grid.clipped(Box("one", (0, 2.5, -4), (19, 30, 6.5)))
    assert inside == Box("one", (2, 2.5, 3), (18, 12, 6.5))


def test_a_place_that_there_is_not_on_the_grid_is_none_in_the_volume():
    volume = volume_of(np.zeros((9, 14, 20), np.float32), GEOMETRIES["oblique"])
    grid = ModelGrid.of(volume, None, "SPL")
    assert grid.place_from_plan(np.full(3, np.nan)) is None
    assert grid.place_from_plan(np.array([4.5, 7.0, 10.0])) == pytest.approx((10.0, 7.0, 4.5))
