"""User boxes in MaskSAM: the queries that they prompt, and their bounds on the masks."""

from __future__ import annotations

import pytest
import torch

from MaskSAMCore.modeling import BoxPrompts, MaskPrediction, build_model
from MaskSAMCore.modeling.masksam.box_prompts import apply_box_prompts
from MaskSAMCore.modeling.masksam.prompt_generator import Proposals
from Testing.helpers.networks import (
    class_box_prompts,
    randomize_adapters,
    small_masksam_config,
)


def example_proposals() -> tuple[torch.Tensor, Proposals]:
    """Return class logits and proposals in which query 0 shows class 1 on slice 0 alone."""
    logits = torch.zeros(1, 2, 2, 4)
    logits[0, 0, 0, 1] = 9
    logits[0, 1, 0, 0] = 9
    logits[0, :, 1, 0] = 9
    boxes = torch.tensor([0.2, 0.2, 0.6, 0.6]).expand(1, 2, 2, 4).clone()
    return logits, Proposals(torch.ones(1, 2, 2, 8, 8), boxes, torch.zeros(1, 2, 2, 3))


def box_of_class_1(box: list[float], exact: bool | None) -> BoxPrompts:
    """Return box prompts with the same box of class 1 on both slices."""
    boxes = torch.tensor(box).expand(1, 3, 2, 4)
    given = torch.tensor([[False, True, False]])
    known = None if exact is None else torch.full((1, 3, 2), exact)
    return BoxPrompts(boxes, given, torch.ones(1, 3, 2, dtype=torch.bool), known)


@pytest.mark.parametrize("exact", [True, None])
def test_an_exact_box_replaces_the_querys_box(exact: bool | None) -> None:
    changed = apply_box_prompts(*example_proposals(), box_of_class_1([0.4, 0.1, 0.9, 0.5], exact))
    torch.testing.assert_close(changed.boxes[0, 0, 0], torch.tensor([0.4, 0.1, 0.9, 0.5]))


def test_a_bounding_box_clips_the_box_of_a_query_that_shows_the_class() -> None:
    box = [0.4, 0.1, 0.9, 0.5]
    changed = apply_box_prompts(*example_proposals(), box_of_class_1(box, False))
    torch.testing.assert_close(changed.boxes[0, 0, 0], torch.tensor([0.4, 0.2, 0.6, 0.5]))
    query = int((changed.class_index[0, :, 1] == 1).nonzero()[0, 0])
    torch.testing.assert_close(changed.boxes[0, query, 1], torch.tensor(box))
    # The user's box cuts the mask prompt and bounds the result.
    torch.testing.assert_close(changed.bounds[0, 0, 0], torch.tensor(box))
    rows, columns = (changed.masks[0, 0, 0] > 0).nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (1, 3)
    assert (int(columns.min()), int(columns.max())) == (3, 6)


def test_a_decoder_that_knows_the_kinds_of_boxes_receives_a_bounding_box_itself() -> None:
    box = [0.4, 0.1, 0.9, 0.5]
    changed = apply_box_prompts(*example_proposals(), box_of_class_1(box, False), clip=False)
    torch.testing.assert_close(changed.boxes[0, 0, 0], torch.tensor(box))


@pytest.mark.parametrize(
    "form", [{}, {"mask_prompt": "box", "box_kinds": True, "generator_maps": True}]
)
@pytest.mark.parametrize("class_index", [1, 2])
@pytest.mark.parametrize("exact", [True, False])
def test_decoding_one_class_gives_the_scores_of_decoding_all(
    class_index: int, exact: bool, form: dict[str, object]
) -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(**form)).eval()
    randomize_adapters(model)
    boxes = torch.zeros(2, 3, 5, 4)
    present = torch.zeros(2, 3, 5, dtype=torch.bool)
    given = torch.zeros(2, 3, dtype=torch.bool)
    for batch in range(2):
        for k in range(1, 4 + batch):
            boxes[batch, class_index, k] = torch.tensor([0.1 * k, 0.2, 0.9, 0.6 + 0.05 * k])
            present[batch, class_index, k] = True
        given[batch, class_index] = True
    known = torch.full_like(present, exact)
    prompts = BoxPrompts(boxes, given, present, known)
    with torch.no_grad():
        embedding = model.encode(torch.randn(2, 1, 5, 16, 20))
        whole = model.decode(embedding, prompts).semantic()[:, class_index]
        class_logits = model.decode(embedding).class_logits
        alone = model.decode_class(embedding, class_logits, prompts, class_index)
    assert float(whole.max()) > 0.01
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-4)


def predict_with_box(box: list[float] | None) -> MaskPrediction:
    """Return the prediction with a box of class 1 on slices 1 and 2, or without a box."""
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    randomize_adapters(model)
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        prompts = None if box is None else class_box_prompts(1, box, [1, 2])
        return model.decode(embedding, prompts)


def test_a_box_bounds_its_class_in_plane_and_in_depth() -> None:
    scores = predict_with_box([0.25, 0.25, 0.75, 0.75]).semantic()[0, 1]
    assert float(scores[[0, 3, 4]].max()) < 1e-6
    assert float(scores[1:3, 4:12, 5:15].max()) > 0.01
    outside = scores.clone()
    outside[1:3, 4:12, 5:15] = 0
    assert float(outside.max()) < 1e-6


def test_a_box_becomes_the_prompt_of_one_query_on_each_of_its_slices() -> None:
    automatic, prompted = predict_with_box(None), predict_with_box([0.25, 0.25, 0.75, 0.75])
    changed = (automatic.boxes != prompted.boxes).any(-1)[0]
    assert changed.sum(0).tolist() == [0, 1, 1, 0, 0]
    query = int(changed[:, 1].nonzero()[0, 0])
    assert prompted.boxes[0, query, 1].tolist() == [0.25, 0.25, 0.75, 0.75]
    assert int(prompted.class_logits[0, query, 1].argmax()) == 1
    # The box also prompts the decoder: the logits inside it differ from those without a box.
    inside = (prompted.mask_logits - automatic.mask_logits)[0, query, 1, 4:12, 5:15]
    assert float(inside.abs().max()) > 1e-4
