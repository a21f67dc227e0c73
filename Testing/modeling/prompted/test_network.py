"""MaskSAM without the prompt generator: boxes of classes in, masks of classes out."""

from __future__ import annotations

import torch

from MaskSAMCore.modeling import build_model, read_config
from MaskSAMCore.presets.paper import ACDC
from Testing.helpers.networks import class_box_prompts, randomize_adapters
from Testing.modeling.prompted.helpers import small_prompted_config


def test_it_is_masksam_without_the_generator() -> None:
    values = ACDC.network.replace(dense_decoder_position=True).to_dict()
    config = read_config({**values, "network": "prompted", "queries": 4})
    with torch.device("meta"):
        whole, model = build_model(read_config(values)), build_model(config)
    generator = {name for name in whole.state_dict() if name.startswith("generator.")}
    assert set(model.state_dict()) == set(whole.state_dict()) - generator
    assert config.adapted((4, 128, 128), (10.0, 1.5, 1.5), 7, 1).queries == 8


def test_a_box_changes_the_scores_of_its_class_only_and_only_near_its_slices() -> None:
    torch.manual_seed(0)
    model = build_model(small_prompted_config()).eval()
    randomize_adapters(model)
    images = torch.randn(1, 1, 5, 16, 20)
    prompts = class_box_prompts(1, [0.2, 0.2, 0.7, 0.8], [1, 2])
    with torch.no_grad():
        embedding = model.encode(images)
        automatic = model.decode(embedding).semantic()
        scores = model.decode(embedding, prompts).semantic()
        alone = model.decode_class(embedding, None, prompts, 1)
        moved = model.decode(embedding, class_box_prompts(1, [0.1, 0.2, 0.7, 0.8], [1, 2]))
    torch.testing.assert_close(alone, scores[:, 1])
    added = (scores - automatic).abs().amax((0, 1, 3, 4))
    assert (added > 0).tolist() == [False, True, True, False, False]
    assert float((moved.semantic() - scores).abs().max()) > 1e-4


def test_slices_and_classes_without_a_box_have_only_the_backgrounds_mask() -> None:
    torch.manual_seed(0)
    model = build_model(small_prompted_config()).eval()
    with torch.no_grad():
        scores = model(torch.randn(2, 1, 5, 16, 20)).semantic()
    assert scores.shape == (2, 3, 5, 16, 20)
    # One mask times class probabilities, which with "no object" sum to one.
    assert float(scores.sum(1).max()) < 1
