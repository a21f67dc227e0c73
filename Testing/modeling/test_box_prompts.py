"""Boxes of a person in the network: what they replace, what they bound, what has to be decoded."""

from __future__ import annotations

import pytest
import torch

from MaskSAMCore.modeling import BoxPrompts, build_model
from MaskSAMCore.modeling.boxes import clip_boxes
from MaskSAMCore.modeling.masksam.box_prompts import apply_box_prompts
from MaskSAMCore.modeling.masksam.prompt_generator import Proposals
from Testing.helpers.networks import randomize_adapters, small_masksam_config


def proposed() -> tuple[torch.Tensor, Proposals]:
    """Query 0 shows class 1 on slice 0, and no query does on slice 1."""
    logits = torch.zeros(1, 2, 2, 4)
    logits[0, 0, 0, 1] = 9
    logits[0, 1, 0, 0] = 9
    logits[0, :, 1, 0] = 9
    boxes = torch.tensor([0.2, 0.2, 0.6, 0.6]).expand(1, 2, 2, 4).clone()
    return logits, Proposals(torch.ones(1, 2, 2, 8, 8), boxes, torch.zeros(1, 2, 2, 3))


def prompt(box: list[float], exact: bool | None) -> BoxPrompts:
    boxes = torch.tensor(box).expand(1, 3, 2, 4)
    given = torch.tensor([[False, True, False]])
    known = None if exact is None else torch.full((1, 3, 2), exact)
    return BoxPrompts(boxes, given, torch.ones(1, 3, 2, dtype=torch.bool), known)


@pytest.mark.parametrize("exact", [True, None])
def test_a_box_of_a_slice_replaces_the_class_s_own(exact):
    changed = apply_box_prompts(*proposed(), prompt([0.4, 0.1, 0.9, 0.5], exact))
    torch.testing.assert_close(changed.boxes[0, 0, 0], torch.tensor([0.4, 0.1, 0.9, 0.5]))


def test_a_box_in_space_clips_the_class_s_own_and_stands_in_where_there_is_none():
    box = [0.4, 0.1, 0.9, 0.5]
    changed = apply_box_prompts(*proposed(), prompt(box, False))
    torch.testing.assert_close(changed.boxes[0, 0, 0], torch.tensor([0.4, 0.2, 0.6, 0.5]))
    query = int((changed.class_index[0, :, 1] == 1).nonzero()[0, 0])
    torch.testing.assert_close(changed.boxes[0, query, 1], torch.tensor(box))
    # The mask prompt is cut to the person's box, and that alone bounds the result.
    torch.testing.assert_close(changed.bounds[0, 0, 0], torch.tensor(box))
    rows, columns = (changed.masks[0, 0, 0] > 0).nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (1, 3)
    assert (int(columns.min()), int(columns.max())) == (3, 6)


def test_a_box_beside_the_class_s_own_takes_its_place():
    own, beside = torch.tensor([[0.1, 0.1, 0.3, 0.3]]), torch.tensor([[0.5, 0.5, 0.8, 0.9]])
    torch.testing.assert_close(clip_boxes(own, beside), beside)


@pytest.mark.parametrize("label", [1, 2])
@pytest.mark.parametrize("exact", [True, False])
def test_decoding_one_class_gives_the_scores_of_decoding_all(label, exact):
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    randomize_adapters(model)
    boxes = torch.zeros(2, 3, 5, 4)
    present = torch.zeros(2, 3, 5, dtype=torch.bool)
    given = torch.zeros(2, 3, dtype=torch.bool)
    for batch in range(2):
        for k in range(1, 4 + batch):
            boxes[batch, label, k] = torch.tensor([0.1 * k, 0.2, 0.9, 0.6 + 0.05 * k])
            present[batch, label, k] = True
        given[batch, label] = True
    known = torch.full_like(present, exact)
    prompts = BoxPrompts(boxes, given, present, known)
    with torch.no_grad():
        embedding = model.encode(torch.randn(2, 1, 5, 16, 20))
        whole = model.decode(embedding, prompts).semantic()[:, label]
        class_logits = model.decode(embedding).class_logits
        alone = model.decode_class(embedding, class_logits, prompts, label)
    assert float(whole.max()) > 0.01
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-4)
