import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.inference.box_filling import LEAST_SCORE, REACH, fill_boxes
from MaskSAMCore.inference.box_prompts import ClassPrompt, class_prompt

DEPTH, ROWS, COLUMNS = 9, 10, 12
WHOLE = (slice(0, DEPTH), slice(0, ROWS), slice(0, COLUMNS))


def box_in_space(lower=(0, 0, 0), upper=(DEPTH, ROWS, COLUMNS)) -> ClassPrompt:
    return class_prompt(1, [np.array([lower, upper], float)], DEPTH)


def boxes_on_slices(slices: range) -> ClassPrompt:
    parts = [np.array([(k, 0, 0), (k + 1, ROWS, COLUMNS)], float) for k in slices]
    return class_prompt(1, parts, DEPTH)


def scores_with_tail(tail: float) -> torch.Tensor:
    """Return scores of a class that touches all sides of the grid except the last column.

    A single line of voxels leads to that column, with ``tail`` as its score.
    """
    scores = torch.full((DEPTH, ROWS, COLUMNS), 0.01)
    scores[:, :, :9] = 0.9
    scores[4, 5, 9:] = tail
    return scores


def test_a_class_grows_towards_the_side_that_it_does_not_touch():
    scores = scores_with_tail(0.3)
    filled = fill_boxes(scores, WHOLE, box_in_space())
    assert ((filled > 0.5) & (scores <= 0.5)).nonzero().tolist()[-1] == [4, 5, COLUMNS - 1]
    assert torch.equal(filled[:, :, :-REACH], scores[:, :, :-REACH])
    assert (filled[:, :, 9:][scores[:, :, 9:] < 0.1] < 0.5).all()


def test_a_class_that_touches_all_sides_keeps_its_scores():
    scores = scores_with_tail(0.6)
    assert torch.equal(fill_boxes(scores, WHOLE, box_in_space()), scores)


def test_a_side_on_which_nothing_looks_like_the_class_is_left_alone():
    scores = scores_with_tail(0.9 * LEAST_SCORE)
    assert torch.equal(fill_boxes(scores, WHOLE, box_in_space()), scores)


def test_a_box_on_a_slice_is_filled_where_a_box_in_space_is_not():
    scores = scores_with_tail(0.9 * LEAST_SCORE)
    filled = fill_boxes(scores, WHOLE, boxes_on_slices(range(DEPTH)))
    assert filled[4, 5, COLUMNS - 1] > 0.5


def test_slices_with_their_own_boxes_do_not_depend_on_one_another():
    scores = scores_with_tail(0.3)
    filled = fill_boxes(scores, WHOLE, boxes_on_slices(range(DEPTH)))
    alone = fill_boxes(scores, WHOLE, boxes_on_slices(range(4, 5)))
    assert torch.equal(alone[4], filled[4])
    assert torch.equal(alone[:4], scores[:4])


def test_a_slice_with_its_own_box_is_filled_although_the_class_fills_the_next_one():
    scores = scores_with_tail(0.3)
    scores[5] = 0.9
    filled = fill_boxes(scores, WHOLE, boxes_on_slices(range(4, 6)))
    assert filled[4, 5, COLUMNS - 1] > 0.5


def test_scores_beyond_the_middle_of_a_narrow_box_are_not_raised():
    scores = torch.full((DEPTH, ROWS, COLUMNS), 0.3)
    scores[:, :, :2] = 0.9
    prompt = box_in_space((0, 0, 0), (DEPTH, ROWS, 6))
    region = prompt.extent(scores.shape)
    filled = fill_boxes(scores[region], region, prompt)
    assert torch.equal(filled[:, :, 2], scores[:, :, 2])
    assert (filled[:, :, 5] > 0.5).all()


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_mirrored_class_is_filled_alike(axes: tuple[int, ...]):
    scores = torch.rand(DEPTH, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1)) * 0.45
    filled = fill_boxes(scores, WHOLE, box_in_space())
    mirrored = fill_boxes(scores.flip(axes), WHOLE, box_in_space())
    torch.testing.assert_close(mirrored.flip(axes), filled)


def test_a_region_that_does_not_begin_at_the_origin_is_filled_alike():
    lower, upper = (2, 3, 4), (8, 9, 11)
    region = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    scores = torch.zeros(DEPTH, ROWS, COLUMNS)
    scores[region] = torch.rand(6, 6, 7, generator=torch.Generator().manual_seed(2)) * 0.45
    prompt = box_in_space(lower, upper)
    whole = fill_boxes(scores, WHOLE, prompt)
    assert torch.equal(fill_boxes(scores[region], region, prompt), whole[region])
    assert (whole[region].amax((0, 1)) > 0.5).all()


def body(rows: slice, columns: slice, slices: slice = slice(1, 8)) -> torch.Tensor:
    """Return scores of a body with a low, uniform score around it."""
    scores = torch.full((DEPTH, ROWS, COLUMNS), 1e-4)
    scores[slices, rows, columns] = 0.9
    return scores


def found(scores: torch.Tensor, prompt: ClassPrompt) -> list[tuple[int, int]]:
    """Return the first and the last voxel of the class along each axis."""
    region = prompt.extent(scores.shape)
    inside = torch.zeros_like(scores)
    inside[region] = scores[region]
    voxels = (fill_boxes(inside[region], region, prompt) > 0.5).nonzero()
    first = [part.start for part in region]
    return [
        (int(low) + start, int(high) + start)
        for low, high, start in zip(voxels.amin(0), voxels.amax(0), first, strict=True)
    ]


@pytest.mark.parametrize(("axis", "upper"), [(a, u) for a in range(3) for u in (False, True)])
def test_a_side_that_was_dragged_away_is_reached(axis: int, upper: bool):
    scores = body(slice(3, 7), slice(3, 9), slice(3, 7))
    low, high = [3, 3, 3], [7, 7, 9]
    (high if upper else low)[axis] += 2 if upper else -2
    ends = [(a, b - 1) for a, b in zip(low, high, strict=True)]
    assert found(scores, box_in_space(low, high)) == ends


def test_a_box_that_is_too_large_on_most_sides_is_not_filled():
    scores = body(slice(3, 7), slice(3, 9), slice(3, 7))
    assert found(scores, box_in_space((1, 1, 1), (9, 9, 11))) == [(3, 6), (3, 6), (3, 8)]


@pytest.mark.parametrize(
    ("upper", "ends"), [((8, 8, 9), (7, 7, 8)), ((8, 8, 10), (6, 6, 8))], ids=["two", "three"]
)
def test_two_dragged_sides_are_reached_and_three_are_not(upper, ends):
    scores = body(slice(3, 7), slice(3, 9), slice(3, 7))
    assert [last for _, last in found(scores, box_in_space((3, 3, 3), upper))] == list(ends)


def test_a_class_that_is_unsure_at_the_other_sides_reaches_a_dragged_one():
    scores = body(slice(3, 7), slice(3, 9), slice(3, 7))
    scores[scores > 0.5] = 0.6
    assert found(scores, box_in_space((3, 3, 3), (7, 7, 10))) == [(3, 6), (3, 6), (3, 9)]


def test_a_side_without_evidence_is_left_alone_where_the_class_stops_short_of_most_others():
    scores = body(slice(3, 7), slice(3, 9), slice(3, 7))
    box = (2, 2, 3), (7, 7, 11)
    assert found(scores, box_in_space(*box))[2] == (3, 8)
    scores[2, 4, 4] = scores[4, 2, 4] = 0.3
    assert found(scores, box_in_space(*box)) == [(2, 6), (2, 6), (3, 8)]


def test_a_thin_class_is_stretched_to_a_near_side_only():
    scores = body(slice(3, 7), slice(3, 5), slice(3, 7))
    assert found(scores, box_in_space((3, 3, 3), (7, 7, 6)))[2] == (3, 5)
    assert found(scores, box_in_space((3, 3, 3), (7, 7, 7)))[2] == (3, 4)


def test_a_side_that_is_far_away_is_not_reached():
    scores = body(slice(3, 7), slice(2, 5), slice(3, 7))
    assert found(scores, box_in_space((3, 3, 2), (7, 7, 12)))[2] == (2, 4)


def test_a_box_on_a_slice_is_filled_without_any_evidence():
    scores = body(slice(3, 7), slice(4, 8))
    part = class_prompt(1, [np.array([(4, 2, 2), (5, 9, 10)], float)], DEPTH)
    assert found(scores, part) == [(4, 4), (2, 8), (2, 9)]


def test_only_the_tip_of_a_class_is_stretched():
    scores = body(slice(3, 7), slice(3, 6), slice(3, 7))
    scores[4:6, 4:6, 6:9] = 0.9
    prompt = box_in_space((3, 3, 3), (7, 7, 11))
    region = prompt.extent(scores.shape)
    filled = fill_boxes(scores[region], region, prompt) > 0.5
    assert filled[1:3, 1:3].all() and filled.sum() == 4 * 4 * 3 + 4 * 5


def test_a_rounded_tip_is_stretched_with_the_lines_around_its_end():
    scores = body(slice(3, 7), slice(3, 6), slice(3, 7))
    scores[3:7, 4:6, 6:8] = scores[4:6, 4:6, 8] = 0.9
    prompt = box_in_space((3, 3, 3), (7, 7, 11))
    region = prompt.extent(scores.shape)
    found = fill_boxes(scores[region], region, prompt) > 0.5
    # The tip is two voxels short of the side, and the lines around it end one voxel earlier.
    assert found.sum(2)[:, 1:3].tolist() == [[6, 6], [8, 8], [8, 8], [6, 6]]
    assert (found.sum(2)[:, [0, 3]] == 3).all()


@settings(max_examples=40, deadline=None)
@given(
    edges=st.lists(
        st.tuples(*(st.tuples(st.floats(0, n), st.floats(0, n)) for n in (DEPTH, ROWS, COLUMNS))),
        min_size=1,
        max_size=3,
    ),
    scale=st.floats(0.001, 1),
    seed=st.integers(0, 9),
)
def test_no_score_is_lowered_and_none_appears_where_there_was_none(edges, scale: float, seed: int):
    boxes = [np.sort(np.array(one, float).T, axis=0) for one in edges]
    prompt = class_prompt(1, boxes, DEPTH)
    region = prompt.extent((DEPTH, ROWS, COLUMNS))
    shape = [part.stop - part.start for part in region]
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * scale
    scores[scores < 0.2 * scale] = 0
    filled = fill_boxes(scores, region, prompt)
    assert (filled >= scores).all()
    assert (filled <= 1).all()
    assert torch.equal(filled == 0, scores == 0)


@pytest.mark.parametrize("sure", [0.2, 0.95, 1.0])
def test_a_dragged_side_is_reached_across_a_class_that_is_sure_of_its_voxels(sure: float):
    scores = body(slice(3, 7), slice(3, 9), slice(3, 7))
    prompt = box_in_space((3, 3, 3), (7, 7, 11))
    region = prompt.extent(scores.shape)
    others = torch.full_like(scores, sure)
    others[3:7, 3:7, 3:9] = 0.1
    filled = fill_boxes(scores[region], region, prompt, others[region])
    assert (filled > others[region]).all()
    assert (filled[:, :, :6] == scores[region][:, :, :6]).all()


def test_a_class_that_loses_the_voxels_at_a_side_is_stretched_over_them():
    scores = torch.full((DEPTH, ROWS, COLUMNS), 0.9)
    scores[:, :, 10:] = 0.6
    others = torch.full_like(scores, 0.2)
    others[:, :, 10:] = 0.8
    filled = fill_boxes(scores, WHOLE, box_in_space(), others)
    assert (filled > others).all()
    assert torch.equal(filled[:, :, :10], scores[:, :, :10])
