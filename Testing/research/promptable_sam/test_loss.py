"""Prompts and loss of a SAM in training."""

from __future__ import annotations

import torch

from MaskSAMCore.modeling.sam.predictor import PlainSam, filled_box_logits
from MaskSAMCore.research.promptable_sam.loss import LossSettings, mask_iou, training_loss
from MaskSAMCore.research.promptable_sam.network import PromptableSam, Prompts
from MaskSAMCore.research.promptable_sam.slices import SyntheticSlices
from Testing.research.promptable_sam.helpers import SIZE, SMALL


def fixed_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two slices with four objects each."""
    slices = SyntheticSlices([], SIZE, 4, seed=1)
    images, masks = zip(*(slices.prepare(number) for number in range(2)), strict=True)
    return torch.stack(images), torch.stack(masks)


def test_a_few_steps_reduce_the_loss_on_a_fixed_batch():
    """Check the loss of masks from boxes and points, and of the predicted IoU."""
    torch.manual_seed(0)
    model = PromptableSam(SMALL)
    settings = LossSettings(box_share=0.5, rounds=2, further=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    images, masks = fixed_batch()
    found = []
    for _ in range(25):
        rng = torch.Generator().manual_seed(3)
        loss, parts = training_loss(model, images, masks, settings, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(parts)
    for name in ("masks", "first_round", "iou"):
        assert found[-1][name] < 0.95 * found[0][name]


def test_every_parameter_is_trained():
    """Boxes, positive and negative points, previous masks, and a single point use all of SAM."""
    torch.manual_seed(0)
    model = PromptableSam(SMALL)
    images, masks = fixed_batch()
    rng = torch.Generator().manual_seed(0)
    for box_share in (1.0, 0.0):
        settings = LossSettings(box_share=box_share, rounds=4, further=1.0)
        training_loss(model, images, masks, settings, rng)[0].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_the_iou_is_that_of_the_masks():
    target = torch.zeros(1, 4, 4)
    target[0, :2] = 1
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 0, 1:3] = 1
    torch.testing.assert_close(mask_iou(logits, target), torch.tensor([[1 / 3, 0.0]]))


def test_filled_boxes_cover_their_cells_in_part():
    logits = filled_box_logits(torch.tensor([[4.0, 0.0, 10.0, 16.0]]), 16, 4)
    torch.testing.assert_close(logits[0, 0], torch.tensor([[-4.0, 4.0, 0.0, -4.0]]).expand(4, 4))


def test_training_and_inference_give_a_box_the_same_mask():
    torch.manual_seed(0)
    trained = PromptableSam(SMALL).eval()
    plain = PlainSam(SMALL.sam, SIZE, fills_boxes=True).eval()
    plain.sam.load_state_dict(trained.state_dict())
    image, boxes = torch.randn(1, 3, SIZE, SIZE), torch.tensor([[3.0, 5.5, 20.0, 17.0]])
    with torch.no_grad():
        embedding = trained.encode(image)
        torch.testing.assert_close(plain.encode(image), embedding)
        cells = trained.prompt_encoder.mask_input_size[0]
        prompts = Prompts(boxes=boxes, masks=filled_box_logits(boxes, SIZE, cells))
        expected = trained.predict(embedding, prompts)[0][:, 0]
        torch.testing.assert_close(plain.decode(embedding, boxes), expected)
