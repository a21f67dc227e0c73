"""Slices of a volume that cross a box."""

import numpy as np
import pytest

from MaskSAMCore.inference.sam.box_slices import best_axis, box_slices


@pytest.mark.parametrize(
    ("size", "spacing", "axis"),
    [
        # The axis of thick slices is chosen, whatever the shape of the box.
        ((30, 30, 2), (3.0, 1.0, 1.0), 0),
        ((2, 30, 30), (1.0, 1.0, 2.0), 2),
        ((2, 30, 30), (0.8, 1.3, 0.8), 1),
        # Two axes have thick slices: the one that shows the box larger is chosen.
        ((30, 5, 30), (3.0, 2.9, 1.0), 1),
        # Isotropic voxels: axial, unless the box is clearly larger on another axis.
        ((20, 20, 20), (1.0, 1.0, 1.0), 0),
        ((26, 20, 20), (1.0, 1.2, 1.0), 0),
        ((40, 20, 20), (1.0, 1.0, 1.4), 1),
        ((40, 40, 20), (1.0, 1.0, 1.0), 2),
        ((40, 1, 40), (1.0, 1.0, 1.0), 1),
        ((40, 40, 1), (1.0, 1.0, 1.0), 2),
        ((1, 40, 40), (1.0, 1.0, 1.0), 0),
    ],
)
def test_the_best_axis_is_across_thick_slices_or_shows_the_box_largest(
    size: tuple, spacing: tuple, axis: int
):
    assert best_axis(np.array(size, float), (100, 100, 100), spacing) == axis


@pytest.mark.parametrize("error", [-1e-5, -1e-15, 1e-15, 1e-5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.5), (1.5, 1.0, 1.0), (3.0, 2.0, 1.0)])
def test_the_best_axis_does_not_depend_on_the_rounding_of_a_header(spacing: tuple, error: float):
    for size in ((20.0, 20.0, 20.0), (40.0, 20.0, 20.0), (20.0, 40.0, 20.0), (20.0, 20.0, 40.0)):
        axes = {
            best_axis(np.array(size), (100, 100, 100), tuple(rounded))
            for rounded in (spacing, *(np.array(spacing) + error * np.eye(3)))
        }
        assert len(axes) == 1


def test_a_long_slice_shows_a_box_in_fewer_pixels():
    """SAM's input shows the longest side of a slice in 1024 pixels, and scales the box alike."""
    size = np.array([40.0, 24.0, 24.0])
    assert best_axis(size, (512, 512, 512), (1.0, 1.0, 1.0)) == 1
    assert best_axis(size, (512, 200, 200), (1.0, 1.0, 1.0)) == 0


def test_volumes_of_few_slices_are_not_sliced_into_strips():
    """The spacing does not matter: here the slices are thinner than pixels."""
    assert best_axis(np.array([1.0, 40, 40]), (1, 100, 100), (0.5, 1.0, 1.0)) == 0
    assert best_axis(np.array([40.0, 40, 2]), (100, 100, 5), (1.0, 1.0, 0.2)) == 2
    assert best_axis(np.array([9.0, 9, 9]), (36, 50, 35), (1.0, 1.6, 1.0)) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_has_slices_a_rectangle_on_each_and_the_voxels_inside(axis: int):
    edges = np.array([[2.6, 5.5, 7.0], [6.4, 9.0, 12.2]])
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    found = box_slices(edges, (20, 20, 20), (spacing[0], spacing[1], spacing[2]))
    assert found.axis == axis
    assert found.place == (slice(3, 6), slice(5, 9), slice(7, 12))
    assert found.slices == [range(3, 6), range(5, 9), range(7, 12)][axis]
    expected = [(7.0, 5.5, 12.2, 9.0), (7.0, 2.6, 12.2, 6.4), (5.5, 2.6, 9.0, 6.4)][axis]
    assert found.rectangle == expected
