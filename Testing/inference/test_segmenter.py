"""Segmenters loaded by the name of a model."""

import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference import MaskSegmenter, SamSegmenter, Segmenter


@pytest.mark.parametrize("kind", [Segmenter, MaskSegmenter])
def test_a_model_that_does_not_exist_is_an_error(kind):
    with pytest.raises(MaskSAMError, match="no-such-model"):
        kind.from_model("no-such-model")


def test_a_model_with_classes_is_not_a_sam_checkpoint():
    with pytest.raises(MaskSAMError, match="'hippocampus' is not a checkpoint of a SAM"):
        SamSegmenter.from_model("hippocampus")


def test_a_bundle_of_the_catalog_is_loaded_with_its_labels_and_plan():
    segmenter = Segmenter.from_model("hippocampus", device="cpu")
    assert segmenter.name == "hippocampus" and not segmenter.needs_boxes
    assert [label.name for label in segmenter.labels] == ["Anterior", "Posterior"]
    assert segmenter.plan is not None and segmenter.channels == len(segmenter.plan.channels) == 1
    assert str(segmenter.device.device) == "cpu"
