"""Parts of segmenting by boxes: grey values, the axis of slices, overlays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MaskSAMCore import Box
from MaskSAMCore.errors import OutOfMemory
from MaskSAMCore.inference.device import DeviceChoice
from MaskSAMCore.inference.sam.box_slices import best_axis, box_slices
from MaskSAMCore.inference.sam.drawn import by_name
from MaskSAMCore.inference.sam.intensities import ct_limits, is_ct, percentile_limits, to_grey
from MaskSAMCore.inference.sam.overlay import Overlay
from MaskSAMCore.inference.sam.runner import SamRunner
from Testing.helpers.sam_reference import photograph, small_sam

# Grey values


def test_mr_is_shown_between_percentiles_of_what_is_not_background():
    array = np.zeros((20, 50, 50), np.float32)
    array[:10] = np.linspace(100, 300, 25000).reshape(10, 50, 50)
    array[0, 0, 0] = 1e6
    low, high = percentile_limits(array)
    assert low == pytest.approx(101, abs=0.5) and high == pytest.approx(299, abs=0.5)
    grey = to_grey(np.array([[0.0, 101.0, 200.0, 299.0, 1e6]]), (low, high))
    assert grey.tolist() == [[0, 0, pytest.approx(127, abs=1), pytest.approx(254, abs=1), 255]]


def test_percentiles_of_a_large_volume_are_those_of_a_sample():
    random = np.random.default_rng(0)
    array = random.normal(500, 50, (100, 256, 256)).astype(np.int16)
    whole = np.percentile(array, (0.5, 99.5))
    assert percentile_limits(array) == pytest.approx(whole, abs=2)


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume_is_black_or_white_and_never_nothing(value: int):
    array = np.full((4, 5, 6), value, np.int16)
    grey = to_grey(array[0], percentile_limits(array))
    assert grey.dtype == np.uint8 and len(np.unique(grey)) == 1


def test_ct_is_shown_in_the_window_of_what_the_box_holds():
    array = np.full((10, 20, 20), 40, np.int16)
    assert not is_ct(array)
    array[0, :8, :8] = -1000
    assert is_ct(array)
    assert ct_limits(array[2:]) == (-160, 240)
    assert ct_limits(np.full((3, 3, 3), -800)) == (-910, 590)
    assert ct_limits(np.full((3, 3, 3), 700)) == (-600, 1200)


# Slices


@pytest.mark.parametrize(
    ("size", "spacing", "axis"),
    [
        # Thick slices decide, whatever the box: along each axis.
        ((30, 30, 2), (3.0, 1.0, 1.0), 0),
        ((2, 30, 30), (1.0, 1.0, 2.0), 2),
        ((2, 30, 30), (0.8, 1.3, 0.8), 1),
        # Of two thick axes, the one that shows the box larger.
        ((30, 5, 30), (3.0, 2.9, 1.0), 1),
        # Isotropic: axial, unless the box is clearly larger on another.
        ((20, 20, 20), (1.0, 1.0, 1.0), 0),
        ((26, 20, 20), (1.0, 1.2, 1.0), 0),
        ((40, 20, 20), (1.0, 1.0, 1.4), 1),
        ((40, 40, 20), (1.0, 1.0, 1.0), 2),
        ((40, 1, 40), (1.0, 1.0, 1.0), 1),
        ((40, 40, 1), (1.0, 1.0, 1.0), 2),
        ((1, 40, 40), (1.0, 1.0, 1.0), 0),
    ],
)
def test_the_axis_of_slices(size: tuple, spacing: tuple, axis: int):
    assert best_axis(np.array(size, float), (100, 100, 100), spacing) == axis


def test_a_long_side_of_a_slice_costs_resolution():
    """SAM's input shows the longest side of a slice in 1024 pixels, and the rest at its scale."""
    size = np.array([40.0, 24.0, 24.0])
    assert best_axis(size, (512, 512, 512), (1.0, 1.0, 1.0)) == 1
    assert best_axis(size, (512, 200, 200), (1.0, 1.0, 1.0)) == 0


def test_a_few_slices_are_never_cut_into_strips():
    """Whatever their spacing says: here they are thinner than pixels."""
    assert best_axis(np.array([1.0, 40, 40]), (1, 100, 100), (0.5, 1.0, 1.0)) == 0
    assert best_axis(np.array([40.0, 40, 2]), (100, 100, 5), (1.0, 1.0, 0.2)) == 2
    assert best_axis(np.array([9.0, 9, 9]), (36, 50, 35), (1.0, 1.6, 1.0)) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_boxs_slices_rectangle_and_voxels(axis: int):
    edges = np.array([[2.6, 5.5, 7.0], [6.4, 9.0, 12.2]])
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    found = box_slices(edges, (20, 20, 20), (spacing[0], spacing[1], spacing[2]))
    assert found.axis == axis
    assert found.place == (slice(3, 6), slice(5, 9), slice(7, 12))
    assert found.slices == [range(3, 6), range(5, 9), range(7, 12)][axis]
    expected = [(7.0, 5.5, 12.2, 9.0), (7.0, 2.6, 12.2, 6.4), (5.5, 2.6, 9.0, 6.4)][axis]
    assert found.rectangle == expected


# Names and overlays


def test_names_that_differ_in_case_or_spaces_are_one():
    boxes = [
        Box(name, (n, 0, 0), (n + 1, 1, 1)) for n, name in enumerate(["b", "A ", " a", "Ö", "B"])
    ]
    for order in (boxes, boxes[::-1]):
        found = by_name(order)
        assert [(name, len(parts)) for name, parts in found.items()] == [
            ("A", 2),
            ("B", 2),
            ("Ö", 1),
        ]


def test_an_overlay_holds_the_highest_logit_in_any_order():
    masks = {
        1: (slice(1, 3), slice(0, 2), slice(0, 3)),
        2: (slice(2, 4), slice(1, 3), slice(1, 3)),
        3: (slice(2, 3), slice(1, 2), slice(0, 3)),
    }
    random = np.random.default_rng(0)
    logits = {
        value: random.normal(0, 2, [p.stop - p.start for p in place]).astype(np.float16)
        for value, place in masks.items()
    }
    region = (slice(1, 4), slice(0, 3), slice(0, 3))
    results = []
    for order in ((1, 2, 3), (3, 1, 2), (2, 3, 1)):
        labelmap = np.zeros((5, 4, 3), np.uint8)
        overlay = Overlay(labelmap, region)
        for value in order:
            overlay.add(value, masks[value], logits[value])
        results.append((labelmap, overlay.scores(3)))
    full = np.zeros((4, 5, 4, 3))
    for value, place in masks.items():
        full[(value, *place)] = np.maximum(logits[value], 0)
    labelmap, scores = results[0]
    assert np.array_equal(labelmap, full.argmax(0)) and labelmap.any()
    for value in (1, 2, 3):
        own = labelmap == value
        mean = (1 / (1 + np.exp(-full[value][own]))).mean() if own.any() else 0
        assert scores[value - 1] == pytest.approx(mean)
    for other, again in results[1:]:
        assert np.array_equal(other, labelmap) and np.array_equal(again, scores)


def test_of_equal_logits_the_lowest_label_keeps_the_voxel_in_any_order():
    place = (slice(0, 1), slice(0, 1), slice(0, 6))
    first = np.array([[[-1, -1, 0.5, 0.5, 8, 8]]], np.float16)
    # Neighbours in float16 are equal, because processors round equal boxes differently.
    second = np.array([[[-2, 0.5, 0.5005, 0.6, 8.008, 8.1]]], np.float16)
    for order in ((1, 2), (2, 1)):
        labelmap = np.zeros((1, 1, 6), np.uint8)
        overlay = Overlay(labelmap, place)
        for value in order:
            overlay.add(value, place, first if value == 1 else second)
        assert labelmap[0, 0].tolist() == [0, 2, 1, 2, 1, 2]


# Memory


def test_a_slice_is_encoded_on_the_cpu_when_the_memory_of_another_device_runs_out():
    model, grey, used = small_sam(), photograph(48, 64), []
    encode = model.encode

    def encode_on_the_cpu_only(image: torch.Tensor, each_block: object) -> torch.Tensor:
        used.append(image.device.type)
        if image.device.type != "cpu":
            raise torch.cuda.OutOfMemoryError("out of memory")
        return encode(image)

    model.encode = encode_on_the_cpu_only  # type: ignore[method-assign,assignment]
    model.to = lambda device: used.append(f"to {device}")  # type: ignore[method-assign,assignment]
    # The device of tensors without data takes the place of a GPU, which not every machine has.
    runner = SamRunner(model, "sam", DeviceChoice(torch.device("meta"), "a small one"))
    embedding = runner.encode(grey, lambda: None)
    assert used == ["to meta", "meta", "to cpu", "cpu"] and embedding.shape == (1, 32, 4, 4)
    assert runner.memory.notes == ["meta ran out of memory: continuing on the CPU"]
    assert str(runner.memory.choice) == "cpu (meta ran out of memory)"


def test_a_slice_that_does_not_fit_into_the_cpus_memory_is_an_error():
    model = small_sam()

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    model.encode = fail  # type: ignore[method-assign,assignment]
    runner = SamRunner(model, "sam", DeviceChoice(torch.device("cpu"), "as asked"))
    with pytest.raises(OutOfMemory, match="too small for one slice"):
        runner.encode(photograph(48, 64), lambda: None)
