"""MaskSAM as a whole: its size, its proposals and its predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from MaskSAMCore.modeling import MaskSAMConfig, build_model, semantic_scores
from MaskSAMCore.modeling.masksam.channel_adapter import build_channel_adapter
from MaskSAMCore.presets import find_preset
from MaskSAMCore.presets.paper import ACDC
from Testing.helpers.networks import (
    RESIDUAL_MASKS,
    SMALL_SAM,
    class_box_prompts,
    randomize_adapters,
    small_masksam_config,
)

# Options of the published code that the presets leave out.
PUBLISHED = {"dense_decoder_position": True, "stem_norms": True, "generator_grid": "window"}


@pytest.mark.parametrize(
    ("name", "changes", "millions"),
    [
        ("acdc", PUBLISHED, 21.41),
        ("synapse", {**PUBLISHED, "mask_upscaling": "learned"}, 65.99),
        ("amos", {**PUBLISHED, "mask_upscaling": "learned"}, 66.59),
    ],
)
def test_the_published_form_trains_as_many_parameters_as_the_published_code(
    name: str, changes: dict[str, object], millions: float
) -> None:
    with torch.device("meta"):
        model = build_model(find_preset(name).network.replace(**changes))
    count = sum(p.numel() for p in model.trained_parameters().values())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def published_config(**changes: object) -> MaskSAMConfig:
    """Return a small MaskSAM of the published form, with 16-pixel tokens as for AMOS."""
    sam = SMALL_SAM.replace(patch_size=16)
    values = {"mask_upscaling": "learned", "deep_supervision": True, "mask_prompt": "binary"}
    return small_masksam_config(
        **{**PUBLISHED, **values, "sam": sam, "window": (5, 32, 48), **changes}
    )


def test_the_published_form_has_masks_on_the_windows_grid_and_trains_every_part() -> None:
    torch.manual_seed(0)
    model = build_model(published_config())
    embedding = model.encode(torch.randn(1, 1, 5, 32, 48))
    masks = embedding.proposals.masks
    assert masks.shape == (1, 4, 5, 32, 48)
    assert [m.shape[-2:] for m in embedding.proposals.coarser_masks] == [(16, 24), (8, 12)]
    prompts = model.mask_prompts(masks, embedding.proposals.boxes)
    assert prompts is not None and prompts.shape == (1, 4, 5, 8, 12)
    assert set(prompts.unique().tolist()) <= {0.0, 1.0}
    prediction = model.decode(embedding)
    assert prediction.mask_logits.shape == (1, 4, 5, 32, 48)
    total = prediction.semantic().mean() + prediction.boxes.mean()
    for proposed in (masks, *embedding.proposals.coarser_masks):
        total = total + proposed.mean()
    total.backward()
    without = {name for name, p in model.trained_parameters().items() if p.grad is None}
    assert all("no_mask" in name for name in without)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = build_model(published_config())
    randomize_adapters(model)
    images = torch.randn(1, 1, 5, 32, 48)
    gradients = {}
    for active in (False, True):
        model.set_gradient_checkpointing(active)
        model.zero_grad()
        prediction = model(images)
        (prediction.semantic().square().mean() + prediction.auxiliary_logits.mean()).backward()
        parameters = model.trained_parameters()
        gradients[active] = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    assert gradients[False].keys() == gradients[True].keys()
    for name, gradient in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], gradient, atol=1e-6, rtol=1e-3)


def test_logits_as_prompts_are_averaged_over_the_cells_of_the_prompt_grid() -> None:
    model = build_model(published_config(mask_prompt="logits"))
    masks = torch.randn(1, 4, 5, 32, 48)
    found = model.mask_prompts(masks, torch.zeros(1, 4, 5, 4))
    assert found is not None
    torch.testing.assert_close(found[0, 1, 2, 3, 4], masks[0, 1, 2, 12:16, 16:20].mean())


def test_a_class_decoded_alone_equals_all_decoded_where_the_upscaling_mixes_queries() -> None:
    torch.manual_seed(0)
    model = build_model(published_config()).eval()
    randomize_adapters(model)
    prompts = class_box_prompts(1, [0.2, 0.2, 0.7, 0.8], [1, 2, 3])
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 32, 48))
        logits = model.decode(embedding).class_logits
        alone = model.decode_class(embedding, logits, prompts, 1)
        torch.testing.assert_close(alone, model.decode(embedding, prompts).semantic()[:, 1])


@pytest.mark.parametrize(("upsampling", "widths"), [(4, (16, 32)), (1, (8,))])
def test_with_its_last_norms_the_stem_gives_sam_the_spread_it_was_trained_on(
    upsampling: int, widths: tuple[int, ...]
) -> None:
    """Meta's images have a standard deviation of about 1; a LeakyReLU halves a unit variance."""
    torch.manual_seed(0)
    spread = {}
    for norms in (False, True):
        config = published_config(
            stem_norms=norms, upsampling=upsampling, stem_channels=widths, mask_upscaling="bilinear"
        )
        slices, _ = build_channel_adapter(config)(torch.randn(1, 1, 5, 32, 48))
        assert slices.shape == (1, 5, 32 * upsampling, 48 * upsampling, 3)
        spread[norms] = float(slices.detach().square().mean().sqrt())
    assert spread[True] == pytest.approx(0.5**0.5, abs=0.05)
    assert spread[False] < 0.45


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_upscaling": "learned"}, "needs masks at a quarter of the window's resolution"),
        (
            {"stem_norms": True, "stem_pyramid": True, "stem_channels": (4, 8, 16)},
            "stem_norms is for a channel adapter without stem_pyramid",
        ),
        ({**RESIDUAL_MASKS, "generator_grid": "window"}, "residual_masks needs generator_grid"),
        ({**RESIDUAL_MASKS, "separate_masks": True}, "separate_masks needs residual_masks and"),
        ({"separate_masks": True, "mask_prompt": "box"}, "separate_masks needs residual_masks and"),
    ],
)
def test_forms_that_do_not_fit_each_other_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_masksam_config(**changes)


def test_adapters_and_decoder_have_the_parameters_of_the_paper() -> None:
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
    # Without mask prompts the mask encoder is unused, with them the "no mask" embedding.
    unused = "mask_downscaling" if form == "boxes" else "no_mask"
    assert all(unused in name for name in without)


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
    """With SAM's "no mask" embedding as the prompt, shifting the auxiliary masks has no effect."""
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
    masks, boxes = embedding.proposals.masks, embedding.proposals.boxes
    prompt = model.mask_prompts(masks, boxes)
    assert prompt is not None and not prompt.requires_grad
    assert float(prompt.min()) < 0 or float(prompt.max()) > 1
    binary = build_model(small_masksam_config(mask_prompt="binary")).mask_prompts(masks, boxes)
    assert binary is not None and set(binary.unique().tolist()) <= {0.0, 1.0}


def test_a_filled_box_as_mask_prompt_tells_nothing_of_the_auxiliary_mask() -> None:
    model = build_model(small_masksam_config(mask_prompt="box"))
    masks = torch.randn(1, 1, 1, 16, 20)
    box = torch.tensor([0.25, 0.5, 0.75, 1.0]).view(1, 1, 1, 4)
    prompt = model.mask_prompts(masks, box)
    assert prompt is not None and torch.equal(prompt, model.mask_prompts(-masks, box))
    wanted = torch.zeros(16, 20, dtype=torch.bool)
    wanted[8:, 5:15] = True
    assert torch.equal(prompt[0, 0, 0] > 0, wanted)


def test_a_decoder_without_learned_kinds_of_boxes_treats_all_alike() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(box_kinds=True)).eval()
    randomize_adapters(model)
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        boxes, masks = embedding.proposals.boxes, embedding.proposals.masks
        loose = torch.ones(boxes.shape[:3], dtype=torch.bool)
        known = model.run_decoder(embedding, boxes, masks)
        same = model.run_decoder(embedding, boxes, masks, loose=loose)
        assert torch.equal(known.mask_logits, same.mask_logits)
        torch.nn.init.normal_(model.decoder.box_kinds)
        known = model.run_decoder(embedding, boxes, masks)
        other = model.run_decoder(embedding, boxes, masks, loose=loose)
    assert float((other.mask_logits - known.mask_logits).abs().max()) > 1e-3


@pytest.mark.parametrize("pyramid", [{}, {"stem_pyramid": True, "stem_channels": (4, 8, 16)}])
def test_untrained_maps_of_the_generator_have_no_effect_on_the_decoder(
    pyramid: dict[str, object],
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 5, 16, 20)
    model = build_model(small_masksam_config(generator_maps=True, **pyramid)).eval()
    plain = build_model(small_masksam_config(**pyramid)).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        embedding = model.encode(images)
        known = model.decode(embedding).mask_logits
        torch.testing.assert_close(known, plain(images).mask_logits)
        torch.nn.init.normal_(model.decoder.from_fine.weight)
        changed = model.decode(embedding).mask_logits
        assert float((changed - known).abs().max()) > 1e-3
        twice = model.decode(embedding.repeated(2)).mask_logits
    torch.testing.assert_close(twice, torch.cat([changed, changed]))


@pytest.mark.parametrize("prototypes", [0, 5])
def test_an_untrained_residual_decoder_returns_the_mask_prompts(prototypes: int) -> None:
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


def test_a_residual_decoder_trains_the_prompt_generator() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(**RESIDUAL_MASKS, prototypes=5))
    model(torch.randn(1, 1, 5, 16, 20)).mask_logits[:, 0].sum().backward()
    head = model.generator.mask_head.weight.grad
    assert head is not None and float(head.abs().max()) > 0
    vectors = model.generator.vector_head
    assert vectors is not None and float(vectors[-1].weight.grad.abs().max()) > 0
    assert float(model.generator.prototypes.scale.grad.abs().max()) > 0


def test_separate_masks_do_not_contain_those_of_the_prompt_generator() -> None:
    """With other mask embeddings, only the generator's masks change."""
    torch.manual_seed(0)
    options = {**RESIDUAL_MASKS, "prototypes": 5, "mask_prompt": "box", "separate_masks": True}
    model = build_model(small_masksam_config(**options)).eval()
    added = build_model(small_masksam_config(**{**options, "separate_masks": False})).eval()
    added.load_state_dict(model.state_dict())
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        vectors = embedding.proposals.mask_embeddings
        other = replace(embedding.proposals, mask_embeddings=vectors + 1)
        changed = replace(embedding, proposals=other)
        assert model.silent_prompts(embedding.proposals) is None
        masks, kept = (model.decode(each).mask_logits for each in (embedding, changed))
        assert torch.equal(masks, kept)
        sums, moved = (added.decode(each).mask_logits for each in (embedding, changed))
        difference = model.auxiliary_masks(other) - model.auxiliary_masks(embedding.proposals)
    torch.testing.assert_close(moved - sums, difference, atol=1e-4, rtol=1e-4)
    assert float(difference.abs().max()) > 0.1


def test_a_reset_decoder_returns_the_mask_prompts() -> None:
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


def test_a_changed_slice_changes_the_masks_of_all_slices() -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config()).eval()
    randomize_adapters(model)
    images = torch.randn(1, 1, 5, 16, 20)
    changed = images.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        moved = (model(images).mask_logits - model(changed).mask_logits).abs().amax((0, 1, 3, 4))
    assert bool((moved > 0).all())


def test_semantic_scores_are_class_probabilities_times_masks() -> None:
    classes = torch.tensor([[[[0.0, 50.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 50.0]]]])
    masks = torch.full((1, 2, 1, 2, 2), 50.0)
    masks[0, 0, 0, 0] = -50.0
    scores = semantic_scores(classes, masks)
    torch.testing.assert_close(scores[0, 1, 0], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert float(scores[0, [0, 2]].max()) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, RESIDUAL_MASKS, {**RESIDUAL_MASKS, "prototypes": 5}])
def test_scores_computed_slice_by_slice_equal_those_of_whole_masks(options: dict) -> None:
    torch.manual_seed(0)
    model = build_model(small_masksam_config(**options)).eval()
    randomize_adapters(model)
    prediction = model(torch.randn(2, 1, 5, 16, 20))
    expected = semantic_scores(prediction.class_logits, prediction.mask_logits)
    torch.testing.assert_close(prediction.semantic(), expected, atol=1e-5, rtol=1e-4)
    changed = prediction.with_mask_logits(prediction.mask_logits + 1)
    expected = semantic_scores(prediction.class_logits, prediction.mask_logits + 1)
    torch.testing.assert_close(changed.semantic(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(changed.mask_logits, prediction.mask_logits + 1)
