"""Boxes that a network predicts, in 3D and slice by slice, against the voxels of its classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from MaskSAMCore.inference.proposals import likely_boxes
from MaskSAMCore.modeling import WindowPrediction
from MaskSAMCore.modeling.boxes import mask_boxes
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    Embedding,
    ThresholdModel,
    threshold_segmenter,
    two_blobs,
    volume_of,
)


@dataclass
class BoxedPrediction(WindowPrediction):
    scores: Tensor
    class_logits: Tensor
    boxes: Tensor

    def semantic(self) -> Tensor:
        return self.scores


class BoxingModel(ThresholdModel):
    """Network that predicts the bounding box of each class in a window, the last class first."""

    def decode(self, embedding: Embedding, prompts=None):
        scores = super().decode(embedding, prompts).scores
        masks = (scores[:, 1:] > 0.5).flip(1)
        flat = masks.transpose(1, 2).flatten(0, 1)
        boxes, present = mask_boxes(flat)
        batch, classes, slices = masks.shape[:3]
        boxes = boxes.unflatten(0, (batch, slices)).transpose(1, 2)
        present = present.unflatten(0, (batch, slices)).transpose(1, 2)
        logits = torch.full((batch, classes, slices, classes + 2), -4.0)
        for query in range(classes):
            logits[:, query, :, classes - query] = torch.where(present[:, query], 8.0, -8.0)
            logits[:, query, :, -1] = torch.where(present[:, query], -8.0, 8.0)
        return BoxedPrediction(scores, logits, boxes)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=list(GEOMETRIES))
@pytest.mark.parametrize("tta", ["none", "mirror"])
def test_the_box_of_a_class_bounds_its_voxels(geometry, tta):
    array = two_blobs((11, 17, 23))
    # Windows cover whole slices, so that none shows a part of a box.
    segmenter = threshold_segmenter(BoxingModel(window=(4, 24, 24)))
    result = segmenter.segment(volume_of(array, GEOMETRIES[geometry]), tta=tta)
    assert [instance.name for instance in result.instances] == ["Anterior", "Posterior"]
    for instance in result.instances:
        proposal = instance.proposal
        assert proposal is not None
        assert proposal.box.class_name == instance.name
        assert np.allclose(proposal.box.lower, instance.box.lower, atol=1e-4)
        assert np.allclose(proposal.box.upper, instance.box.upper, atol=1e-4)
        assert proposal.confidence > 0.95


def test_each_slice_has_a_box_of_its_own():
    array = np.zeros((6, 20, 20), np.float32)
    array[1, 2:6, 3:9] = 1
    array[2, 4:10, 5:12] = 1
    segmenter = threshold_segmenter(BoxingModel(window=(4, 24, 24)), orientation="SPL")
    result = segmenter.segment(volume_of(array))
    (found,) = result.instances
    assert found.proposal is not None
    slices = {(box.lower[2], box.upper[2]): box for box in found.proposal.slices}
    assert set(slices) == {(1.0, 2.0), (2.0, 3.0)}
    assert np.allclose(slices[1.0, 2.0].lower[:2], (3, 2), atol=1e-4)
    assert np.allclose(slices[1.0, 2.0].upper[:2], (9, 6), atol=1e-4)
    assert np.allclose(slices[2.0, 3.0].lower[:2], (5, 4), atol=1e-4)
    assert np.allclose(slices[2.0, 3.0].upper[:2], (12, 10), atol=1e-4)
    assert np.allclose(found.proposal.box.lower, (3, 2, 1), atol=1e-4)
    assert np.allclose(found.proposal.box.upper, (12, 10, 3), atol=1e-4)


def test_a_network_without_queries_has_no_proposals():
    result = threshold_segmenter().segment(volume_of(two_blobs()))
    assert [instance.proposal for instance in result.instances] == [None, None]


def test_the_box_of_a_class_is_that_of_its_most_probable_query():
    logits = torch.zeros(1, 3, 2, 4)
    logits[0, 2, 0, 1] = 9  # query 2 shows class 1 on the first slice
    logits[0, 0, 1, 1] = 9  # query 0 shows class 1 on the second slice
    boxes = torch.rand(1, 3, 2, 4)
    likely = likely_boxes(logits, boxes)
    assert likely.shape == (1, 2, 2, 5)
    assert torch.equal(likely[0, 0, 0, :4], boxes[0, 2, 0])
    assert torch.equal(likely[0, 0, 1, :4], boxes[0, 0, 1])
    assert likely[0, 0, :, 4].min() > 0.99
