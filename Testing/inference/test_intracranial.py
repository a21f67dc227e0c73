"""Classes whose volumes add up to the intracranial volume, if the image shows the whole head."""

from __future__ import annotations

import numpy as np
import pytest

from MaskSAMCore.geometry import Box
from MaskSAMCore.inference import EnsembleSegmenter, MaskSegmenter
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    LABELS,
    ThresholdModel,
    plan_for,
    two_blobs,
    volume_of,
)

BOTH = ("Anterior", "Posterior")
CUT = "The image cuts the head"


def segmenter(*intracranial: str, **plan: object) -> MaskSegmenter:
    model = ThresholdModel()
    return MaskSegmenter(
        model, plan_for(**plan), LABELS, device="cpu", intracranial=intracranial or BOTH
    )


def is_cut(result) -> bool:
    """Return whether a result says that the image cuts the head."""
    return any(note.startswith(CUT) for note in result.notes)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_whole_head_has_all_classes_that_the_model_states(name: str):
    result = segmenter().segment(volume_of(two_blobs(), GEOMETRIES[name]))
    assert result.intracranial == BOTH
    assert not is_cut(result)


def test_an_roi_has_no_intracranial_volume():
    for one in (segmenter(), EnsembleSegmenter([segmenter(), segmenter(orientation="LIP")])):
        result = one.segment(volume_of(two_blobs()), roi=Box("", (5, 4, 3), (14, 12, 8)))
        assert result.intracranial == ()
        assert not is_cut(result), "the user has chosen the part"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["oblique", "left-handed"])
def test_an_image_that_cuts_the_head_gets_a_note_instead(axis: int, last: bool, name: str):
    # A section of 6 x 5 voxels of 11 x 10 mm on any face of the image is 33 cm2.
    sizes = np.array([6.0, 5.0])
    sides = np.insert(np.array([11.0, 10.0]), axis, 1.0)  # along K, J, I
    values = np.zeros((9, 9, 9), np.float32)
    inside = [slice(1, 1 + int(size)) for size in sizes]
    inside.insert(axis, slice(5, 9) if last else slice(0, 4))
    values[tuple(inside)] = 2
    values[4, 4, 4] = 1
    matrix = GEOMETRIES[name] @ np.diag([*sides[::-1], 1.0])
    spacing = tuple(float(side) for side in sides)
    coarse = {"orientation": "SPL", "spacing": spacing}
    result = segmenter(**coarse).segment(volume_of(values, matrix))
    assert is_cut(result)
    assert result.intracranial == ()
    # A class that lies outside the skull may reach the edge.
    result = segmenter("Anterior", **coarse).segment(volume_of(values, matrix))
    assert result.intracranial == ("Anterior",)
    # In voxels that are smaller by a tenth, the same section is too small to count as cut.
    smaller = GEOMETRIES[name] @ np.diag([*(0.9 * sides[::-1]), 1.0])
    coarse["spacing"] = tuple(0.9 * side for side in spacing)
    result = segmenter(**coarse).segment(volume_of(values, smaller))
    assert result.intracranial == BOTH


def test_a_changed_box_keeps_the_intracranial_volume():
    with segmenter().open(volume_of(two_blobs())) as session:
        session.segment()
        result = session.segment([Box("Anterior", (4, 4, 2), (9, 8, 5))])
    assert result.intracranial == BOTH


def test_networks_that_do_not_agree_have_no_intracranial_volume():
    both, one = segmenter(), segmenter("Anterior")
    assert EnsembleSegmenter([both, segmenter()]).intracranial == BOTH
    ensemble = EnsembleSegmenter([both, one])
    assert ensemble.intracranial == ()
    assert ensemble.segment(volume_of(two_blobs())).intracranial == ()
    agreed = EnsembleSegmenter([one, segmenter("Anterior")])
    assert agreed.segment(volume_of(two_blobs())).intracranial == ("Anterior",)
