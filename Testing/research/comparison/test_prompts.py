"""Box prompts from the reference."""

from __future__ import annotations

import numpy as np
import pytest

from MaskSAMCore.research.comparison.prompts import reference_boxes, slice_axis
from Testing.helpers.threshold_model import GEOMETRIES, volume_of


@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
def test_boxes_of_the_reference_enclose_its_classes_tightly(geometry: str):
    label = np.zeros((6, 7, 8), np.uint8)
    label[1:4, 2, 3:6] = 10
    label[2, 4:6, 1:3] = 10
    reference = volume_of(label, GEOMETRIES[geometry])
    (box,) = reference_boxes(reference, ["A", "B"], [10, 20], "box", 0)
    assert (box.class_name, box.lower, box.upper) == ("A", (1, 2, 1), (6, 6, 4))
    for axis in range(3):
        boxes = reference_boxes(reference, ["A", "B"], [10, 20], "boxes", axis)
        covered = np.zeros(label.shape, bool)
        for box in boxes:
            inside = box.slices()
            assert inside[axis].stop - inside[axis].start == 1
            part = label[inside] == 10
            for edge in range(3):
                first, last = part.take(0, edge), part.take(-1, edge)
                assert first.any() and last.any()
            covered[inside] = True
        assert covered[label == 10].all()
        used = (label == 10).any(tuple(a for a in range(3) if a != axis))
        assert len(boxes) == used.sum()


def test_slices_are_across_the_plans_depth_or_the_coarsest_axis():
    reference = volume_of(np.zeros((4, 5, 6)), np.diag([-1.0, -3.0, 1.0, 1.0]))
    assert slice_axis(reference, "RSA") == 2
    assert slice_axis(reference, None) == 1
    assert slice_axis(volume_of(np.zeros((4, 5, 6))), None) == 0
