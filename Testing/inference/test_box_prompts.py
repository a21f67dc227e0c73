"""Box prompts of windows, made from boxes of a volume."""

import numpy as np
import pytest
import torch

from MaskSAMCore.inference.box_prompts import class_prompt, crossed_slices, window_prompt
from MaskSAMCore.inference.sliding_window import plan_windows


@pytest.mark.parametrize(
    ("lower", "upper", "slices"),
    [
        (2, 5, range(2, 5)),
        (2 + 1e-6, 5 + 1e-6, range(2, 5)),
        (2.4, 4.6, range(2, 5)),
        (2.6, 4.4, range(3, 4)),
        (2.5, 4.5, range(2, 4)),
        (3.6, 3.9, range(3, 4)),
        (3.7, 4.2, range(3, 4)),
        (9.8, 10, range(9, 10)),
        (-3, 20, range(10)),
        (-0.4, -0.1, range(1)),
        (10.1, 10.3, range(9, 10)),
    ],
)
def test_a_box_crosses_the_slices_whose_centres_it_contains_and_at_least_one(lower, upper, slices):
    assert list(range(10))[crossed_slices(lower, upper, 10)] == list(slices)


def box(lower, upper):
    return np.array([lower, upper], dtype=float)


def test_the_prompt_of_a_window_is_the_part_of_the_box_inside():
    prompt = class_prompt(2, [box((2, 3, 4), (6, 10, 11))], depth=8)
    windows = {w.start: w for w in plan_windows((8, 12, 12), (4, 8, 8))}
    found = window_prompt(prompt, windows[4, 4, 4], num_classes=3)
    assert found.given.tolist() == [[False, False, True, False]]
    assert found.present[0, 2].tolist() == [True, True, False, False]
    expected = torch.tensor(
        [0, 0, 7 / 8, 6 / 8]
    )  # x from 4 to 11 and y from 3 to 10, less 4, over 8
    torch.testing.assert_close(found.boxes[0, 2, 0], expected)
    assert not found.present[0, [0, 1, 3]].any()


def test_a_window_that_the_box_does_not_reach_has_no_prompt():
    prompt = class_prompt(1, [box((2, 0, 0), (4, 4, 4))], depth=8)
    for window in plan_windows((8, 12, 12), (4, 8, 8)):
        reached = window.start[0] < 4 and window.start[1] == 0 and window.start[2] == 0
        assert (window_prompt(prompt, window, num_classes=1) is not None) == reached


def test_the_box_moves_with_the_image_in_a_padded_window():
    prompt = class_prompt(1, [box((0, 1, 2), (2, 3, 4))], depth=2)
    (window,) = plan_windows((2, 4, 6), (4, 8, 8))
    found = window_prompt(prompt, window, num_classes=1)
    assert found.present[0, 1].tolist() == [False, True, True, False]
    expected = torch.tensor([(2 + 1) / 8, (1 + 2) / 8, (4 + 1) / 8, (3 + 2) / 8])
    torch.testing.assert_close(found.boxes[0, 1, 1], expected)


def test_the_prompt_of_a_mirrored_window_is_mirrored():
    prompt = class_prompt(1, [box((0, 1, 2), (1, 3, 5))], depth=4)
    (window,) = plan_windows((4, 8, 8), (4, 8, 8))
    plain = window_prompt(prompt, window, 1)
    mirrored = window_prompt(prompt, window, 1, flips=(0, 1, 2))
    assert mirrored.present[0, 1].tolist() == [False, False, False, True]
    x1, y1, x2, y2 = plain.boxes[0, 1, 0].tolist()
    expected = torch.tensor([1 - x2, 1 - y2, 1 - x1, 1 - y1])
    torch.testing.assert_close(mirrored.boxes[0, 1, 3], expected)


def test_boxes_of_single_slices_are_exact_and_thicker_ones_are_not():
    thin, thick = box((1, 0, 0), (2, 4, 4)), box((4, 0, 0), (6.5, 4, 4))
    prompt = class_prompt(1, [thin, thick], depth=8)
    assert prompt.present.tolist() == [False, True, False, False, True, True, False, False]
    assert prompt.exact[prompt.present].tolist() == [True, False, False]
    # The slices of the input are twice as thick as those of the plan.
    doubled = class_prompt(1, [box((2, 0, 0), (4, 4, 4))], depth=8, slice_thickness=2.0)
    assert doubled.exact.all()
    (window,) = plan_windows((8, 8, 8), (8, 8, 8))
    found = window_prompt(prompt, window, 1, flips=(0,))
    assert found.exact[0, 1].flip(0)[found.present[0, 1].flip(0)].tolist() == [True, False, False]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_prompt_is_mirrored_along_each_axis_by_itself(axis: int):
    lower, upper = np.array([(1, 1, 2), (2, 3, 7)], float)
    size = np.array([4, 8, 8])
    (window,) = plan_windows(size, size)
    found = window_prompt(class_prompt(1, [box(lower, upper)], 4), window, 1, flips=(axis,))
    lower[axis], upper[axis] = size[axis] - upper[axis], size[axis] - lower[axis]
    expected = window_prompt(class_prompt(1, [box(lower, upper)], 4), window, 1)
    torch.testing.assert_close(found.boxes, expected.boxes)
    assert torch.equal(found.present, expected.present)


@pytest.mark.parametrize(
    ("thickness", "slice_thickness", "exact"),
    [
        # Three boxes are no thicker than a slice of either grid, except for rounding.
        (1 + 1e-5, 1.0, True),
        (1.0, 0.5, True),
        (2.0, 2.0, True),
        (1.25, 1.0, False),
        (2.25, 2.0, False),
    ],
)
def test_a_box_is_that_of_a_slice_up_to_the_thickness_of_one(thickness, slice_thickness, exact):
    prompt = class_prompt(1, [box((2, 0, 0), (2 + thickness, 4, 4))], 8, slice_thickness)
    assert (prompt.exact[prompt.present] == exact).all()


def test_a_slice_of_a_box_in_space_is_not_exact_in_any_order_of_boxes():
    thin, thick = box((3, 0, 0), (4, 4, 4)), box((2, 1, 1), (6, 6, 7))
    for order in ([thin, thick], [thick, thin]):
        prompt = class_prompt(1, order, 8)
        assert not prompt.exact[prompt.present].any()
        assert prompt.edges[3].tolist() == [0, 0, 7, 6]


def test_the_extent_of_boxes_is_the_region_that_contains_them():
    prompt = class_prompt(1, [box((1, -2, 3.5), (2, 4, 30)), box((4, 2.2, 5), (6, 4.5, 7))], 8)
    assert prompt.extent((8, 10, 12)) == (slice(1, 6), slice(0, 5), slice(3, 12))
    rounded = class_prompt(1, [box((1, 2 - 1e-5, 3 - 1e-5), (2, 4 + 1e-5, 5 + 1e-5))], 8)
    assert rounded.extent((8, 10, 12)) == (slice(1, 2), slice(2, 4), slice(3, 5))
    nothing = class_prompt(1, [], 8)
    assert nothing.extent((8, 10, 12)) == (slice(0, 0),) * 3
