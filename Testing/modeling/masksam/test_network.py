"""The whole network: proposals, prompts, decoding, and its size."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from MaskSAMCore.modeling import (
    MaskPrediction,
    MaskSAMConfig,
    build_model,
    read_config,
    semantic_scores,
)
from MaskSAMCore.modeling.boxes import mask_boxes
from MaskSAMCore.modeling.layers import Upsample, strided_convolution, transposed_convolution
from MaskSAMCore.modeling.masksam.prompt_generator import fraction_boxes
from MaskSAMCore.presets import all_presets, find_preset
from MaskSAMCore.presets.paper import ACDC
from MaskSAMCore.presets.small import TINY
from Testing.helpers.networks import (
    RESIDUAL_MASKS,
    class_box_prompts,
    randomize_adapters,
    small_masksam_config,
)


@pytest.mark.parametrize(
    ("name", "millions"), [("acdc", 21.41), ("synapse", 65.99), ("amos", 66.59)]
)
def test_trained_parameters_are_those_of_the_paper(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(find_preset(name).network.replace(dense_decoder_position=True))
    count = sum(p.numel() for p in model.trained_parameters().values())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_adapters_and_decoder_have_the_published_counts() -> None:
    with torch.device("meta"):
        model = build_model(ACDC.network.replace(dense_decoder_position=True))
    assert sum(p.numel() for p in model.encoder.parameters()) == 24 * 301_632 + 4 * 768
    position = model.decoder.depth_position
    assert position is not None and position.numel() == 4 * 256 * 64 * 64
    adapters = sum(
        p.numel()
        for name, p in model.decoder.named_parameters()
        if "after" in name or "beside" in name
    )
    assert adapters == 7 * (33_088 + 8 * 16 + 5 * 4) + 2 * 35_008


@pytest.mark.parametrize("name", sorted(all_presets()))
def test_a_configuration_survives_json(name: str) -> None:
    config = find_preset(name).network
    assert read_config(json.loads(json.dumps(config.to_dict()))) == config


def test_bad_configurations_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="multiple of the token size"):
        TINY.network.replace(window=(8, 41, 56))
    values = TINY.network.to_dict()
    with pytest.raises(ValueError, match=r"unknown MaskSAMConfig field\(s\): width"):
        MaskSAMConfig.from_dict({**values, "width": 3})


@pytest.mark.parametrize("form", ["masks", "boxes", "both", "average"])
@pytest.mark.parametrize("pyramid", [False, True])
def test_every_form_of_the_generator_predicts_and_trains(form: str, pyramid: bool) -> None:
    changes = {"stem_pyramid": True, "stem_channels": (4, 8, 16)} if pyramid else {}
    model = build_model(small_masksam_config(prompts=form, in_channels=2, **changes))
    prediction = model(torch.randn(1, 2, 5, 16, 20))
    assert prediction.class_logits.shape == (1, 4, 5, 4)
    assert prediction.mask_logits.shape == (1, 4, 5, 16, 20)
    assert prediction.semantic().shape == (1, 3, 5, 16, 20)
    assert bool((prediction.boxes >= 0).all() and (prediction.boxes <= 1).all())
    total = prediction.semantic().mean() + prediction.auxiliary_logits.mean()
    (total + prediction.boxes.mean()).backward()
    without = {name for name, p in model.trained_parameters().items() if p.grad is None}
    expected = set()
    if form == "boxes":  # no mask prompt is encoded
        expected = {n for n in without if "mask_downscaling" in n}
    elif form == "masks":  # boxes come from the masks wherever there is one
        expected = {n for n in without if "no_mask" in n}
    else:
        expected = {n for n in without if "no_mask" in n}
    assert without == expected


def test_a_batch_equals_its_items() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    randomize_adapters(model)
    images = torch.randn(3, 1, 5, 16, 20)
    with torch.no_grad():
        together = model(images).mask_logits
        alone = torch.cat([model(image[None]).mask_logits for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_window_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expected windows of shape"):
        build_model(small_masksam_config())(torch.randn(1, 1, 4, 16, 20))


def test_final_masks_contain_no_auxiliary_logits() -> None:
    """Shifting every auxiliary mask changes the prompts, never the masks by that shift: with the
    mask prompt replaced by SAM's "no mask" the decoder's output does not know the auxiliary mask
    at all."""
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    randomize_adapters(model)
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        boxes, masks = embedding.proposals.boxes, embedding.proposals.masks
        without = torch.ones(boxes.shape[:3], dtype=torch.bool)
        one = model.run_decoder(embedding, boxes, masks, without)
        embedding.proposals.masks = masks + 5
        other = model.run_decoder(embedding, boxes, masks + 5, without)
    assert torch.equal(one.mask_logits, other.mask_logits)
    torch.testing.assert_close(other.auxiliary_logits, one.auxiliary_logits + 5)


def test_the_decoder_receives_logits_and_no_gradient_flows_through_its_mask_prompts() -> None:
    model = build_model(small_masksam_config())
    embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
    prompt = model.mask_prompts(embedding.proposals.masks)
    assert prompt is not None and not prompt.requires_grad
    assert float(prompt.min()) < 0 or float(prompt.max()) > 1
    binary = build_model(small_masksam_config(mask_prompt="binary")).mask_prompts(prompt)
    assert binary is not None and set(binary.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("prototypes", [0, 5])
def test_masks_added_to_the_prompts_begin_as_the_generators(prototypes: int) -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(**RESIDUAL_MASKS, prototypes=prototypes)).eval()
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        proposals = embedding.proposals
        known = model.auxiliary_masks(proposals)
        torch.testing.assert_close(model.decode(embedding).mask_logits, known)
        assert float((known - model.to_window(proposals.masks)).abs().max()) > 0.01
        without = torch.zeros(proposals.boxes.shape[:3], dtype=torch.bool)
        without[0, 1, 2] = True
        found = model.run_decoder(embedding, proposals.boxes, proposals.masks, without)
    changed = (found.mask_logits - known).abs().amax((3, 4)) > 1e-4
    assert torch.equal(changed, without)


def test_masks_added_to_the_prompts_train_the_generator() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(**RESIDUAL_MASKS, prototypes=5))
    model(torch.randn(1, 1, 5, 16, 20)).mask_logits[:, 0].sum().backward()
    head = model.generator.mask_head.weight.grad
    assert head is not None and float(head.abs().max()) > 0
    vectors = model.generator.vector_head
    assert vectors is not None and float(vectors[-1].weight.grad.abs().max()) > 0
    assert float(model.generator.prototypes.scale.grad.abs().max()) > 0


@pytest.mark.parametrize("changes", [{"detail_channels": 0}, {"prompts": "boxes"}])
def test_masks_cannot_be_added_to_what_is_not_there(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="residual_masks needs"):
        small_masksam_config(**{**RESIDUAL_MASKS, **changes})


def test_a_decoder_of_another_generator_is_silenced() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(**RESIDUAL_MASKS)).eval()
    hypernetwork = model.sam.mask_decoder.output_hypernetworks_mlps[0]
    with torch.no_grad():
        for last in (hypernetwork.layers[-1], model.decoder.detail[-1]):
            last.weight.normal_()
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        known = model.auxiliary_masks(embedding.proposals)
        assert float((model.decode(embedding).mask_logits - known).abs().max()) > 0.1
        model.reset_decoder()
        torch.testing.assert_close(model.decode(embedding).mask_logits, known)


def test_prototypes_need_the_generators_vectors() -> None:
    with pytest.raises(ValueError, match="prototypes needs residual_masks"):
        small_masksam_config(prototypes=5)


def test_a_changed_slice_reaches_the_other_slices_prompts() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    randomize_adapters(model)
    images = torch.randn(1, 1, 5, 16, 20)
    changed = images.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        moved = (model(images).mask_logits - model(changed).mask_logits).abs().amax((0, 1, 3, 4))
    assert bool((moved > 0).all())


def test_mask_boxes_are_voxel_edges() -> None:
    masks = torch.zeros(3, 10, 20, dtype=torch.bool)
    masks[0, 2:5, 4:10] = True
    masks[1, 9, 19] = True
    boxes, present = mask_boxes(masks)
    torch.testing.assert_close(boxes[0], torch.tensor([0.2, 0.2, 0.5, 0.5]))
    torch.testing.assert_close(boxes[1], torch.tensor([0.95, 0.9, 1.0, 1.0]))
    assert present.tolist() == [True, True, False]
    assert boxes[2].tolist() == [0, 0, 0, 0]


def test_an_empty_mask_leaves_the_learned_box_alone() -> None:
    """The public code halved the box towards the origin."""
    model = build_model(small_masksam_config(prompts="average"))
    learned = torch.tensor([0.2, 0.4, 0.6, 0.8]).expand(1, 4, 5, 4)
    masks = torch.full((1, 4, 5, 16, 20), -1.0)
    masks[0, 0, 0, 4:8, 5:10] = 1.0
    boxes = model.generator.box_prompts(masks, learned)
    torch.testing.assert_close(boxes[0, 1, 3], learned[0, 0, 0])
    torch.testing.assert_close(boxes[0, 0, 0], torch.tensor([0.225, 0.325, 0.55, 0.65]))


def test_boxes_are_never_inside_out() -> None:
    boxes = fraction_boxes(torch.randn(1000, 4) * 10)
    assert bool((boxes[:, 2:] >= boxes[:, :2]).all())
    assert float(boxes.min()) >= 0 and float(boxes.max()) <= 1


def test_fast_layers_equal_sams_convolutions() -> None:
    x = torch.randn(2, 3, 6, 8, 5)
    flat = x.flatten(0, 1).permute(0, 3, 1, 2)
    up = nn.ConvTranspose2d(5, 7, 2, 2)
    expected = up(flat).permute(0, 2, 3, 1).unflatten(0, (2, 3))
    torch.testing.assert_close(transposed_convolution(up, x), expected, atol=1e-5, rtol=1e-5)
    down = nn.Conv2d(5, 7, 2, 2)
    expected = down(flat).permute(0, 2, 3, 1).unflatten(0, (2, 3))
    torch.testing.assert_close(strided_convolution(down, x), expected, atol=1e-5, rtol=1e-5)
    assert Upsample(5, 7)(x).shape == (2, 3, 12, 16, 7)


def test_semantic_scores_are_classes_times_masks() -> None:
    classes = torch.tensor([[[[0.0, 50.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 50.0]]]])
    masks = torch.full((1, 2, 1, 2, 2), 50.0)
    masks[0, 0, 0, 0] = -50.0
    scores = semantic_scores(classes, masks)
    torch.testing.assert_close(scores[0, 1, 0], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert float(scores[0, [0, 2]].max()) < 1e-6


def decoded(box: list[float] | None) -> MaskPrediction:
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    randomize_adapters(model)
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        prompts = None if box is None else class_box_prompts(1, box, [1, 2])
        return model.decode(embedding, prompts)


def test_a_box_of_a_person_bounds_its_class_in_plane_and_in_depth() -> None:
    scores = decoded([0.25, 0.25, 0.75, 0.75]).semantic()[0, 1]
    assert float(scores[[0, 3, 4]].max()) < 1e-6
    assert float(scores[1:3, 4:12, 5:15].max()) > 0.01
    outside = scores.clone()
    outside[1:3, 4:12, 5:15] = 0
    assert float(outside.max()) < 1e-6


def test_a_box_of_a_person_becomes_the_prompt_of_one_query_a_slice() -> None:
    automatic, prompted = decoded(None), decoded([0.25, 0.25, 0.75, 0.75])
    changed = (automatic.boxes != prompted.boxes).any(-1)[0]
    assert changed.sum(0).tolist() == [0, 1, 1, 0, 0]
    query = int(changed[:, 1].nonzero()[0, 0])
    assert prompted.boxes[0, query, 1].tolist() == [0.25, 0.25, 0.75, 0.75]
    assert int(prompted.class_logits[0, query, 1].argmax()) == 1
    # The decoder itself listens: inside the box its logits differ from the automatic ones.
    inside = (prompted.mask_logits - automatic.mask_logits)[0, query, 1, 4:12, 5:15]
    assert float(inside.abs().max()) > 1e-4
