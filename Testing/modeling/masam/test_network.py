"""MA-SAM: its size, its frozen parts, its 3D adapters and its boxes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from MaskSAMCore.modeling import (
    SAM_CONFIGS,
    MASam,
    build_model,
)
from MaskSAMCore.modeling.masam.image_encoder import DepthAdapter, convolution_over_depth
from MaskSAMCore.modeling.masam.network import enclosing_boxes
from MaskSAMCore.presets.masam import MASAM_B
from Testing.helpers.networks import (
    FROZEN_SMALL_SAM,
    SMALL_SAM,
    class_box_prompts,
    small_masam_config,
)


def randomized(model: MASam) -> MASam:
    """Randomize the parameters that are zero before training, so that they have an effect."""
    for name, parameter in model.named_parameters():
        if ".up." in name or ".v." in name or "box_class" in name or "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("sam", "fact", "adapters"),
    [("vit_b", 0.074, 24.8), ("vit_l", None, 59.1), ("vit_h", 0.147, 91.4)],
)
def test_the_parameter_counts_are_those_of_the_paper(
    sam: str, fact: float | None, adapters: float
) -> None:
    with torch.device("meta"):
        model = build_model(MASAM_B.network.replace(sam=SAM_CONFIGS[sam]))
    assert isinstance(model, MASam)
    encoder = model.encoder
    count = sum(p.numel() for p in encoder.fact.parameters())
    if fact is not None:
        assert count / 1e6 == pytest.approx(fact, rel=0.01)
    assert (sum(p.numel() for p in encoder.parameters()) - count) / 1e6 == pytest.approx(
        adapters, rel=0.01
    )


def test_the_upscaling_norm_is_the_published_one_and_optional() -> None:
    torch.manual_seed(0)
    plain = build_model(small_masam_config())
    model = build_model(small_masam_config(upscaling_norm=True))
    more = set(model.state_dict()) - set(plain.state_dict())
    assert more == {"decoder.upscaling_norm.weight", "decoder.upscaling_norm.bias"}
    layers = model.sam.mask_decoder.output_upscaling
    image = model.decoder.upscale(layers, torch.randn(2, 32, 4, 5))
    assert image.shape == (2, 4, 16, 20)
    # GELU follows a normalisation over the channels: their mean square is that of GELU(N(0, 1)).
    assert float(image.detach().square().mean()) == pytest.approx(0.42, abs=0.1)
    with torch.no_grad():
        model.decoder.upscaling_norm.weight.zero_()
        assert float(model.decoder.upscale(layers, torch.randn(1, 32, 4, 5)).abs().max()) == 0


def test_small_slices_are_enlarged_to_whole_tokens() -> None:
    config = MASAM_B.network.replace(window=(5, 256, 216))
    assert config.image_size == (512, 432) and config.grid == (32, 27)  # type: ignore[union-attr]
    model = build_model(small_masam_config(pixels=40, window=(5, 13, 20)))
    assert model.config.image_size == (24, 40)
    assert model(torch.randn(1, 1, 5, 13, 20)).semantic().shape == (1, 3, 5, 13, 20)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_predictions_are_probabilities_for_any_number_of_channels(channels: int) -> None:
    model = build_model(small_masam_config(in_channels=channels))
    scores = model(torch.randn(2, channels, 5, 16, 20)).semantic()
    assert scores.shape == (2, 3, 5, 16, 20)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 5, 16, 20))
    assert (model.to_rgb is not None) == (channels == 2)


@pytest.mark.parametrize("patch", [8, 16])
def test_masks_have_the_resolution_of_sams_input(patch: int) -> None:
    sam = dataclasses.replace(SMALL_SAM, patch_size=patch)
    model = build_model(small_masam_config(sam=sam, window=(2, 32, 48)))
    logits = model.decoder(model.sam, model.encode(torch.randn(1, 1, 2, 32, 48)).neck)
    assert logits.shape == (1, 3, 2, 32, 48)


def test_before_training_the_encoder_is_sams() -> None:
    torch.manual_seed(0)
    model = build_model(small_masam_config()).eval()
    encoder = model.sam.image_encoder
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    slices = torch.randn(2, 5, 16, 20, 3)
    with torch.no_grad():
        ours = model.encoder(encoder, slices)
        theirs = encoder(slices.flatten(0, 1).permute(0, 3, 1, 2))
    torch.testing.assert_close(ours.flatten(0, 1).permute(0, 3, 1, 2), theirs, atol=1e-4, rtol=1e-4)


def test_fact_adds_to_queries_and_values_and_not_to_keys() -> None:
    model = randomized(build_model(small_masam_config()))
    dim = SMALL_SAM.embed_dim
    increment = model.encoder.fact(torch.randn(2, 4, 5, dim), 3)
    queries, keys, values = increment.detach().split(dim, -1)
    assert float(keys.abs().max()) == 0
    assert float(queries.abs().max()) > 0 and float(values.abs().max()) > 0
    assert not torch.equal(queries, values)


def test_the_convolution_over_depth_equals_the_three_dimensional_one() -> None:
    layer = DepthAdapter(12, 6).convolution
    x = torch.randn(2, 5, 3, 4, 6)
    expected = layer(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(convolution_over_depth(layer, x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", range(SMALL_SAM.depth))
def test_a_changed_slice_reaches_only_its_neighbours_in_every_adapter(index: int) -> None:
    """The blocks have global attention, or windows of 3 that need padding on 4 x 5 tokens."""
    torch.manual_seed(0)
    model = randomized(build_model(small_masam_config()))
    block = model.sam.image_encoder.blocks[index]
    x = torch.randn(1, 5, 4, 5, 32)
    changed = x.clone()
    changed[:, 2] = torch.randn(4, 5, 32)
    encoder = model.encoder
    for zeroed in (encoder.before_attention[index], encoder.before_mlp[index]):
        kept = zeroed.up.weight.clone()
        with torch.no_grad():
            zeroed.up.weight.zero_()
            moved = encoder.block(index, block, x) - encoder.block(index, block, changed)
            zeroed.up.weight.copy_(kept)
        reached = (moved.abs().amax((0, 2, 3, 4)) > 1e-6).tolist()
        assert reached == [False, True, True, True, False]


def test_only_the_image_encoder_of_a_frozen_sam_is_frozen() -> None:
    model = build_model(small_masam_config(sam=FROZEN_SMALL_SAM))
    trained = model.trained_parameters()
    assert not [name for name in trained if name.startswith("sam.image_encoder.")]
    assert [name for name in trained if name.startswith("sam.mask_decoder.transformer.")]
    assert "sam.prompt_encoder.no_mask_embed.weight" in trained
    boxes, label = torch.tensor([[0.1, 0.1, 0.8, 0.9]]), torch.tensor([1])
    embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
    (model.run_decoder(embedding, boxes, label) ** 2).mean().backward()
    gradients = {name for name, p in model.named_parameters() if p.grad is not None}
    assert gradients == set(trained)
    # Frozen weights come from the SAM checkpoint and are not saved again.
    kept = set(model.kept_names())
    assert set(trained) <= kept
    assert not [name for name in kept if name.startswith("sam.image_encoder.")]


def test_a_box_changes_its_class_and_bounds_it_in_plane_and_in_depth() -> None:
    torch.manual_seed(0)
    model = randomized(build_model(small_masam_config()))
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        automatic = model.decode(embedding).semantic()[0]
        box = [0.25, 0.25, 0.75, 0.75]
        prompted = model.decode(embedding, class_box_prompts(1, box, [1, 2])).semantic()[0]
    inside = torch.zeros(5, 16, 20, dtype=torch.bool)
    inside[1:3, 4:12, 5:15] = True
    assert float(prompted[1][~inside].max()) == 0
    # The box also changes the decoder's output inside it.
    assert float((prompted[1] - automatic[1])[inside].abs().max()) > 1e-3
    assert torch.equal(prompted[2], automatic[2]) and torch.equal(prompted[0], automatic[0])


def test_a_box_is_decoded_for_its_class() -> None:
    torch.manual_seed(0)
    model = randomized(build_model(small_masam_config()))
    with torch.no_grad():
        embedding = model.encode(torch.randn(1, 1, 5, 16, 20))
        box = torch.tensor([[0.2, 0.2, 0.7, 0.7]])
        one, other = (model.run_decoder(embedding, box, torch.tensor([k])) for k in (1, 2))
    assert float((one - other).abs().max()) > 1e-3


def test_the_box_of_a_window_encloses_those_of_its_slices() -> None:
    boxes = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.5, 0.3]]])
    present = torch.tensor([[True, False, True]])
    torch.testing.assert_close(
        enclosing_boxes(boxes, present), torch.tensor([[0.1, 0.1, 0.5, 0.4]])
    )


def test_a_batch_equals_its_items_with_and_without_boxes() -> None:
    torch.manual_seed(0)
    model = randomized(build_model(small_masam_config()))
    prompts = class_box_prompts(2, [0.1, 0.2, 0.9, 0.8], [0, 3])
    both = type(prompts)(
        torch.cat([prompts.boxes, torch.zeros_like(prompts.boxes)]),
        torch.cat([prompts.given, torch.zeros_like(prompts.given)]),
        torch.cat([prompts.present, torch.zeros_like(prompts.present)]),
    )
    images = torch.randn(2, 1, 5, 16, 20)
    with torch.no_grad():
        together = model.decode(model.encode(images), both).scores
        one = model.decode(model.encode(images[:1]), prompts).scores
        other = model.decode(model.encode(images[1:])).scores
    torch.testing.assert_close(together, torch.cat([one, other]), atol=1e-4, rtol=1e-4)


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(ValueError, match="multiple of the token size"):
        small_masam_config(window=(5, 17, 20))
    sam = dataclasses.replace(SMALL_SAM, patch_size=5)
    with pytest.raises(ValueError, match="tokens of 4, 8 or 16 pixels, not 5"):
        small_masam_config(sam=sam)
