"""Windows on several threads: order of results, simultaneous work, and an early end."""

from __future__ import annotations

import threading

import pytest
import torch

from MaskSAMCore.inference.parallel import results_in_order


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_the_order_of_the_items(threads: int, count: int) -> None:
    with results_in_order(lambda item: 10 * item, range(count), threads) as results:
        assert list(results) == [10 * item for item in range(count)]


def test_the_following_items_are_processed_while_a_result_is_used() -> None:
    started = [threading.Event() for _ in range(6)]

    def process(item: int) -> int:
        started[item].set()
        return item

    with results_in_order(process, range(6), 2) as results:
        assert next(results) == 0
        assert started[1].wait(10) and started[2].wait(10)
        assert not started[4].is_set()
        assert list(results) == [1, 2, 3, 4, 5]


def test_no_item_begins_after_an_error_and_the_threads_of_operations_are_as_before() -> None:
    processed = []

    def process(item: int) -> int:
        processed.append(item)
        if item == 1:
            raise ValueError("a fault")
        return item

    before = torch.get_num_threads()
    with (
        pytest.raises(ValueError, match="a fault"),
        results_in_order(process, range(50), 2) as results,
    ):
        list(results)
    assert torch.get_num_threads() == before
    assert len(processed) <= 4


def test_a_context_that_ends_early_leaves_items_out() -> None:
    processed = []
    with results_in_order(processed.append, range(50), 2) as results:
        next(results)
    assert len(processed) <= 3
