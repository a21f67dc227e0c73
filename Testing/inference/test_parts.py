import numpy as np
import torch

from MaskSAMCore.inference.embedding_cache import item, map_tensors, size_in_bytes
from MaskSAMCore.inference.postprocessing import keep_largest_components
from MaskSAMCore.modeling import BoxPrompts
from MaskSAMCore.modeling.masksam.network import Embedding
from MaskSAMCore.modeling.masksam.prompt_generator import Proposals


def some_embedding(batch):
    features = [torch.rand(batch, 3), torch.rand(batch, 2)]
    proposals = Proposals(torch.rand(batch, 1), torch.rand(batch, 4), torch.rand(batch, 5))
    return Embedding(features, proposals)


def test_one_window_of_a_batch_is_a_copy_of_any_structure():
    whole = some_embedding(3)
    one = item(whole, 1)
    assert isinstance(one, Embedding)
    torch.testing.assert_close(one.features[1], whole.features[1][1:2])
    torch.testing.assert_close(one.proposals.boxes, whole.proposals.boxes[1:2])
    whole.proposals.boxes.zero_()
    assert one.proposals.boxes.any()
    assert size_in_bytes(one) == 4 * (3 + 2 + 1 + 4 + 5)


def test_named_tuples_mappings_and_other_values_keep_their_form():
    prompts = BoxPrompts(torch.ones(1, 2), torch.ones(1), torch.ones(1))
    doubled = map_tensors({"a": prompts, "b": (None, "text", 3)}, lambda t: 2 * t)
    assert isinstance(doubled["a"], BoxPrompts)
    assert doubled["a"].boxes.sum() == 4
    assert doubled["b"] == (None, "text", 3)


def test_the_largest_component_alone_is_kept_for_the_labels_asked_for():
    labelmap = np.zeros((6, 6, 12), dtype=np.uint16)
    labelmap[0:2, 0:2, 0:2] = 300
    labelmap[2, 2, 2] = 300  # touches by a corner: the same component
    labelmap[4, 4, 5:7] = 300
    labelmap[0, 5, 9] = 7
    labelmap[5, 0, 9] = 7
    expected = labelmap.copy()
    expected[4, 4, 5:7] = 0
    keep_largest_components(labelmap, [300, 12])
    np.testing.assert_array_equal(labelmap, expected)


def test_nothing_to_clean_changes_nothing():
    labelmap = np.ones((2, 3, 4), dtype=np.uint8)
    keep_largest_components(labelmap, [])
    keep_largest_components(labelmap, [1, 2])
    assert labelmap.all()
