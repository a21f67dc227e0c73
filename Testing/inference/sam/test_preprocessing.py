"""Preprocessing of slices, against SAM's own predictor and MedSAM's own script."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from MaskSAMCore.inference.sam.preprocessing import (
    PREPARATIONS,
    ct_limits,
    percentile_limits,
    resize_bilinear,
    resize_cubic,
    to_grey,
)
from Testing.helpers.sam_reference import predictor, small_sam, synthetic_slice

# The last shape is not resized by equal factors, because its short side is rounded.
SHAPES = [(48, 64), (64, 48), (64, 64), (24, 32), (96, 128), (10, 40), (14, 50)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 96])
def test_a_box_has_the_logits_of_sams_own_predictor(shape: tuple[int, int], size: int):
    model, grey = small_sam(size), synthetic_slice(*shape)
    box = np.array([shape[1] * 0.3, shape[0] * 0.2, shape[1] * 0.85, shape[0] * 0.7])
    reference = predictor(model.sam, size)
    reference.set_image(np.repeat(grey[..., None], 3, -1))
    expected, _, low = reference.predict(box=box, multimask_output=False, return_logits=True)
    preparation = PREPARATIONS["sam"]
    with torch.inference_mode():
        embedding = model.encode(preparation.image(grey, size))
        torch.testing.assert_close(embedding, reference.features, atol=1e-4, rtol=0)
        masks = model.decode(embedding, preparation.boxes(box[None], shape, size))
        found = preparation.logits(masks, shape, size)
    assert low.std() > 0.05 and abs(expected).max() > 0.1
    np.testing.assert_allclose(masks[0].numpy(), low[0], atol=1e-4)
    np.testing.assert_allclose(found[0].numpy(), expected[0], atol=1e-4)


def test_boxes_decoded_together_have_the_logits_of_each_alone():
    model, grey = small_sam(), synthetic_slice(48, 64)
    preparation = PREPARATIONS["sam"]
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 30, (37, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 18, (37, 2))], 1)
    with torch.inference_mode():
        embedding = model.encode(preparation.image(grey, 64))
        prompts = preparation.boxes(boxes, (48, 64), 64)
        together = model.decode(embedding, prompts)
        for index in (0, 15, 16, 36):
            alone = model.decode(embedding, prompts[index : index + 1])
            torch.testing.assert_close(together[index], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(48, 64), (90, 50), (64, 64), (200, 150)])
def test_a_box_has_the_mask_of_medsams_own_script(shape: tuple[int, int]):
    """MedSAM_Inference.py resizes with scikit-image; here to an input of 64 pixels."""
    transform = pytest.importorskip("skimage.transform")
    model, grey, size = small_sam(), synthetic_slice(*shape), 64
    rows, columns = shape
    box = np.array([[columns * 0.3, rows * 0.2, columns * 0.85, rows * 0.7]])
    color = np.repeat(grey[..., None], 3, -1)
    resized = transform.resize(
        color, (size, size), order=3, preserve_range=True, anti_aliasing=True
    ).astype(np.uint8)
    stretched = (resized - resized.min()) / (resized.max() - resized.min())
    image = torch.tensor(stretched).float().permute(2, 0, 1)[None]
    sam = model.sam
    with torch.inference_mode():
        prompt = torch.tensor(box / np.array([columns, rows, columns, rows]) * size).float()
        sparse, dense = sam.prompt_encoder(points=None, boxes=prompt[:, None], masks=None)
        low, _ = sam.mask_decoder(
            image_embeddings=sam.image_encoder(image),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        expected = F.interpolate(low.sigmoid(), shape, mode="bilinear", align_corners=False)[0, 0]
        preparation = PREPARATIONS["medsam"]
        torch.testing.assert_close(preparation.image(grey, size), image, atol=1e-6, rtol=0)
        embedding = model.encode(preparation.image(grey, size))
        masks = model.decode(embedding, preparation.boxes(box, shape, size))
        found = preparation.logits(masks, shape, size)[0]
    assert low.std() > 0.05
    torch.testing.assert_close(found.sigmoid(), expected, atol=1e-4, rtol=0)
    clear = abs(expected - 0.5) > 1e-4
    assert torch.equal((found > 0)[clear], (expected > 0.5)[clear]) and clear.float().mean() > 0.99


@pytest.mark.parametrize(
    ("shape", "target"),
    [((30, 40), (768, 1024)), ((2, 3), (60, 90)), ((64, 64), (64, 64)), ((300, 200), (150, 100))],
)
def test_images_are_resized_as_pillow_does(shape: tuple[int, int], target: tuple[int, int]):
    grey = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = np.array(Image.fromarray(grey).resize(target[::-1], Image.Resampling.BILINEAR))
    assert np.array_equal(resize_bilinear(grey, target), expected)


def test_an_uneven_reduction_differs_from_pillow_by_a_grey_value_at_most():
    """Pillow resizes rows or columns first, depending on its version."""
    grey = np.random.default_rng(0).integers(0, 256, (1500, 700)).astype(np.uint8)
    expected = np.array(Image.fromarray(grey).resize((478, 1024), Image.Resampling.BILINEAR))
    difference = resize_bilinear(grey, (1024, 478)).astype(int) - expected
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("shape", [(30, 40), (3, 90), (64, 64), (300, 200)])
def test_images_are_resized_as_scikit_image_does(shape: tuple[int, int]):
    transform = pytest.importorskip("skimage.transform")
    grey = np.random.default_rng(0).integers(10, 256, shape).astype(np.uint8)
    expected = transform.resize(grey, (64, 64), order=3, preserve_range=True, anti_aliasing=True)
    np.testing.assert_allclose(resize_cubic(grey, (64, 64)), expected, atol=1e-9)


def test_cubic_resizing_gives_known_grey_values():
    """The values are those of scikit-image 0.26, for machines without it."""
    grey = np.array([[0, 50, 200], [255, 10, 90]], np.uint8)
    expected = [
        [18.3248, 19.1285, 111.8596, 187.4029],
        [123.1311, 58.927, 68.3093, 140.238],
        [227.9374, 98.7255, 24.759, 93.0732],
    ]
    np.testing.assert_allclose(resize_cubic(grey, (3, 4)), expected, atol=1e-3)
    np.testing.assert_allclose(resize_cubic(grey, (1, 2)), [[111.6068, 127.5921]], atol=1e-3)


def test_mr_is_shown_between_percentiles_of_voxels_that_are_not_background():
    array = np.zeros((20, 50, 50), np.float32)
    array[:10] = np.linspace(100, 300, 25000).reshape(10, 50, 50)
    array[0, 0, 0] = 1e6
    low, high = percentile_limits(array)
    assert low == pytest.approx(101, abs=0.5) and high == pytest.approx(299, abs=0.5)
    grey = to_grey(np.array([[0.0, 101.0, 200.0, 299.0, 1e6]]), (low, high))
    assert grey.tolist() == [[0, 0, pytest.approx(127, abs=1), pytest.approx(254, abs=1), 255]]


def test_percentiles_of_a_large_volume_are_those_of_a_sample():
    random = np.random.default_rng(0)
    array = random.normal(500, 50, (100, 256, 256)).astype(np.int16)
    whole = np.percentile(array, (0.5, 99.5))
    assert percentile_limits(array) == pytest.approx(whole, abs=2)


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume_has_one_grey_value(value: int):
    array = np.full((4, 5, 6), value, np.int16)
    grey = to_grey(array[0], percentile_limits(array))
    assert grey.dtype == np.uint8 and len(np.unique(grey)) == 1


def test_ct_is_shown_in_the_window_that_suits_the_content_of_the_box():
    array = np.full((10, 20, 20), 40, np.int16)
    array[0, :8, :8] = -1000
    assert ct_limits(array[2:]) == (-160, 240)
    assert ct_limits(np.full((3, 3, 3), -800)) == (-910, 590)
    assert ct_limits(np.full((3, 3, 3), 700)) == (-600, 1200)
