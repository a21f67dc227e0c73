"""Overlay of masks that overlap."""

import numpy as np
import pytest

from MaskSAMCore.inference.sam.overlay import Overlay


def test_the_highest_logit_wins_in_any_order():
    masks = {
        1: (slice(1, 3), slice(0, 2), slice(0, 3)),
        2: (slice(2, 4), slice(1, 3), slice(1, 3)),
        3: (slice(2, 3), slice(1, 2), slice(0, 3)),
    }
    rng = np.random.default_rng(0)
    logits = {
        value: rng.normal(0, 2, [p.stop - p.start for p in place]).astype(np.float16)
        for value, place in masks.items()
    }
    region = (slice(1, 4), slice(0, 3), slice(0, 3))
    results = []
    for order in ((1, 2, 3), (3, 1, 2), (2, 3, 1)):
        labelmap = np.zeros((5, 4, 3), np.uint8)
        overlay = Overlay(labelmap, region)
        for value in order:
            overlay.add(value, masks[value], logits[value])
        results.append((labelmap, overlay.confidences(3)))
    full = np.zeros((4, 5, 4, 3))
    for value, place in masks.items():
        full[(value, *place)] = np.maximum(logits[value], 0)
    labelmap, confidences = results[0]
    assert np.array_equal(labelmap, full.argmax(0)) and labelmap.any()
    for value in (1, 2, 3):
        own = labelmap == value
        mean = (1 / (1 + np.exp(-full[value][own]))).mean() if own.any() else 0
        assert confidences[value - 1] == pytest.approx(mean)
    for other, again in results[1:]:
        assert np.array_equal(other, labelmap) and np.array_equal(again, confidences)


def test_where_logits_are_equal_the_lowest_label_keeps_the_voxel_in_any_order():
    place = (slice(0, 1), slice(0, 1), slice(0, 6))
    first = np.array([[[-1, -1, 0.5, 0.5, 8, 8]]], np.float16)
    # Adjacent float16 values count as equal, because processors round equal boxes differently.
    second = np.array([[[-2, 0.5, 0.5005, 0.6, 8.008, 8.1]]], np.float16)
    for order in ((1, 2), (2, 1)):
        labelmap = np.zeros((1, 1, 6), np.uint8)
        overlay = Overlay(labelmap, place)
        for value in order:
            overlay.add(value, place, first if value == 1 else second)
        assert labelmap[0, 0].tolist() == [0, 2, 1, 2, 1, 2]
