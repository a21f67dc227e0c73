"""Placement of a refiner: its anchors, its reach and its window."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from MaskSAMCore.training.refinement import (
    MeasuredCase,
    Placement,
    choose_anchors,
    choose_givers,
    choose_subdivision,
    component_extents,
    distances,
    is_small,
    reach_in_voxels,
)

SPACING = (2.0, 1.0, 1.0)
SHAPE = (6, 60, 40)


def case(corrected: dict[int, tuple[slice, ...]], found: dict[int, tuple[slice, ...]]):
    """Return a case with blocks of corrected classes and of classes that the base finds."""
    maps = []
    for blocks in (corrected, found):
        labels = np.zeros(SHAPE, np.uint8)
        for value, block in blocks.items():
            labels[block] = value
        maps.append(labels)
    return MeasuredCase(*maps)


def block(rows: slice, columns: slice = slice(10, 20)) -> tuple[slice, ...]:
    return slice(1, 5), rows, columns


def placement(*cases: MeasuredCase, classes: int = 2) -> Placement:
    sums = Placement(classes, 3, SPACING, (100, 100))
    for one in cases:
        sums.add(one)
    return sums


def test_a_new_class_is_nearest_to_the_class_that_it_overlaps_most():
    one = case({1: block(slice(10, 20))}, {2: block(slice(12, 22)), 3: block(slice(0, 11))})
    sums = placement(one)
    assert sums.nearest(1) == 2 and sums.ranked([1]) == [2, 3]
    assert sums.nearest(2) == 0


def test_one_anchor_is_enough_for_new_classes_that_are_near_it():
    one = case(
        {1: block(slice(10, 20)), 2: block(slice(20, 25))},
        {2: block(slice(12, 25)), 3: block(slice(0, 11))},
    )
    assert choose_anchors(placement(one), [], [1, 2], [one]) == (2,)
    # A corrected class of the base is always an anchor, here beside the new class's anchor.
    assert choose_anchors(placement(one), [1], [1], []) == (1, 2)


def test_new_voxels_far_from_the_first_anchor_bring_another():
    one = case(
        {1: block(slice(0, 50))}, {2: block(slice(0, 25)), 3: block(slice(44, 60), slice(10, 12))}
    )
    assert choose_anchors(placement(one), [], [1], [one]) == (2, 3)


def test_without_any_overlap_all_classes_are_anchors():
    one = case({1: block(slice(0, 5))}, {2: block(slice(30, 35))})
    assert choose_anchors(placement(one), [], [1], [one]) == (1, 2, 3)


def test_distances_are_in_mm_and_infinite_without_an_anchor():
    one = case(
        {1: (slice(0, 1), slice(5, 6), slice(5, 6))}, {3: (slice(2, 3),) + (slice(5, 6),) * 2}
    )
    assert distances(one, [3], SPACING, [1]) == [4.0]
    assert distances(one, [2], SPACING, [1]) == [math.inf]
    assert distances(one, [3], SPACING, [2]) == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [([], (4, 8, 8)), ([1.0], (4, 8, 8)), ([16.0, math.inf], (10, 20, 20)), ([99.0], (20, 40, 40))],
)
def test_the_reach_has_a_margin_and_limits(found: list[float], expected: tuple[int, int, int]):
    assert reach_in_voxels(found, SPACING) == expected


def test_windows_show_the_classes_with_a_margin_and_the_whole_of_small_images():
    one = case({1: block(slice(0, 50))}, {})
    sums = placement(one)
    assert sums.extent() == (66.0, 48.0)
    assert is_small((60, 40), (100, 100)) and not is_small((100, 51), (100, 100))
    assert component_extents(np.zeros(SHAPE, bool), SPACING) == []


def test_classes_that_lose_voxels_are_those_with_a_share_of_the_corrected_ones():
    one = case(
        {1: block(slice(0, 50))}, {2: block(slice(0, 25)), 3: block(slice(49, 60), slice(19, 20))}
    )
    assert choose_givers([one]) == (0, 2)
    assert choose_givers([]) == (0,)


@pytest.mark.parametrize(
    ("spacing", "decided", "largest", "expected"),
    [
        ((1.0, 0.5, 0.5), [9000], (10, 200, 200), (2, 2, 2)),
        ((0.4, 0.3, 0.5), [9000], (10, 200, 200), (2, 2, 2)),
        # Images with thick slices, and images as coarse as the plan.
        ((4.0, 0.5, 0.6), [9000], (10, 200, 200), (1, 2, 2)),
        ((2.2, 0.9, 1.1), [9000], (10, 200, 200), (1, 1, 1)),
        # Windows of smaller voxels could not show the whole structure.
        ((1.0, 0.5, 0.5), [9000], (10, 130, 200), (1, 1, 1)),
        # There would be too many windows.
        ((1.0, 0.5, 0.5), [90_000], (10, 200, 200), (1, 1, 1)),
        # Small images are decided as a whole, with few windows.
        ((1.0, 0.5, 0.5), [], (10, 200, 200), (2, 2, 2)),
    ],
)
def test_small_structures_are_seen_as_finely_as_the_images_show_them(
    spacing: tuple[float, float, float],
    decided: list[int],
    largest: tuple[int, int, int],
    expected: tuple[int, int, int],
):
    one = case({1: block(slice(0, 50))}, {})
    fine = dataclasses.replace(one, spacing=spacing)
    assert choose_subdivision([fine], placement(one), decided, largest) == expected
    assert choose_subdivision([one], placement(one), decided, largest) == (1, 1, 1)
