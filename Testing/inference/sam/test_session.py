"""Sessions of a SAM: boxes with any names, on any grid, with each slice encoded once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from MaskSAMCore import Box, Cancelled, Volume
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import box_in_space, box_on_grid, crop, reorient
from MaskSAMCore.inference import embedding_cache as spilling
from MaskSAMCore.inference.sam.preprocessing import PREPARATIONS, percentile_limits, to_grey
from MaskSAMCore.inference.sam.segmenter import SamSegmenter
from MaskSAMCore.inference.sam.session import group_by_name
from Testing.helpers.sam_reference import small_sam, synthetic_slice

# Oblique, left-handed, slices 3 mm apart.
MATRIX = np.array(
    [[-0.98, 0.1, 0.3, 40.0], [0.1, 0.99, -0.2, -31.0], [0.05, 0.02, 2.97, 12.0], [0, 0, 0, 1]]
)
MATRIX[:3, 0] *= -1
A = Box("Alpha", (4.2, 5.1, 1.0), (21.7, 18.9, 6.0))
B = Box("beta", (13.4, 9.2, 3.0), (28.6, 22.3, 8.0))


def volume() -> Volume:
    planes = [synthetic_slice(26, 32, seed) for seed in range(9)]
    return Volume(np.stack(planes).astype(np.int16) * 3 + 40, MATRIX, "bräin")


@pytest.fixture
def segmenter() -> SamSegmenter:
    return SamSegmenter(small_sam(), device="cpu", name="small")


@pytest.fixture
def calls(segmenter: SamSegmenter) -> dict[str, int]:
    """Count encoded slices and decoded boxes."""
    model, counted = segmenter.model, {"encoded": 0, "decoded": 0}
    encode, decode = model.encode, model.decode

    def encoding(*arguments: Any) -> torch.Tensor:
        counted["encoded"] += 1
        return encode(*arguments)

    def decoding(embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        counted["decoded"] += len(boxes)
        return decode(embedding, boxes)

    model.encode, model.decode = encoding, decoding  # type: ignore[method-assign]
    return counted


def covered(box: Box, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the voxels whose centre lies in a box."""
    axes = [np.arange(size) + 0.5 for size in shape]
    inside = [
        (low < axis) & (axis < high)
        for axis, low, high in zip(axes, box.lower[::-1], box.upper[::-1], strict=True)
    ]
    return inside[0][:, None, None] & inside[1][:, None] & inside[2]


def test_each_name_is_one_segment_inside_its_boxes(segmenter: SamSegmenter):
    image = volume()
    far = Box(" ALPHA ", (24.0, 1.0, 0.0), (31.0, 7.0, 2.0))
    result = segmenter.segment(image, boxes=[B, A, far])
    assert [(label.value, label.name) for label in result.labels] == [(1, "ALPHA"), (2, "beta")]
    assert result.labels[0].color != result.labels[1].color
    assert result.labelmap.shape == image.shape and result.labelmap.dtype == np.uint8
    first, second = result.labelmap == 1, result.labelmap == 2
    a, b, c = (covered(box, image.shape) for box in (A, B, far))
    assert not (first & ~(a | c)).any() and not (second & ~b).any()
    assert (first & a).any() and (first & c).any() and second.any()
    assert not (first | second)[a | b | c].all()
    assert [one.voxel_count for one in result.instances] == [first.sum(), second.sum()]
    assert all(0.5 < one.confidence <= 1 for one in result.instances)
    assert result.volume is image


def test_the_order_of_boxes_does_not_matter(segmenter: SamSegmenter):
    with segmenter.open(volume()) as session:
        expected = session.segment([A, B])
        found = session.segment([B, A])
    other = segmenter.segment(volume(), boxes=[B, A])
    for result in (found, other):
        assert np.array_equal(result.labelmap, expected.labelmap)
        assert result.labels == expected.labels and result.instances == expected.instances


def test_names_that_differ_in_case_or_spaces_are_equal():
    boxes = [
        Box(name, (n, 0, 0), (n + 1, 1, 1)) for n, name in enumerate(["b", "A ", " a", "Ö", "B"])
    ]
    for order in (boxes, boxes[::-1]):
        found = group_by_name(order)
        assert [(name, len(parts)) for name, parts in found.items()] == [
            ("A", 2),
            ("B", 2),
            ("Ö", 1),
        ]


def test_where_names_overlap_the_higher_logit_wins(segmenter: SamSegmenter):
    image = volume()
    with segmenter.open(image) as session:
        both = session.segment([A, B]).labelmap
        one, other = session.segment([A]).labelmap > 0, session.segment([B]).labelmap > 0
    assert np.array_equal(both > 0, one | other)
    assert ((both == 1)[one & ~other]).all() and ((both == 2)[other & ~one]).all()
    contested = both[one & other]
    assert (contested == 1).any() and (contested == 2).any()


@pytest.mark.parametrize("code", ["RPS", "IPL", "LAI", "ARS", "SLA"])
def test_segments_do_not_depend_on_the_axes_that_a_volume_is_stored_along(code: str):
    """SAM sees all slices in radiological orientation, so segments agree voxel by voxel."""
    segmenter = SamSegmenter(small_sam(), device="cpu")
    image = volume()
    reoriented = reorient(image, code)
    assert reoriented.array.shape != image.array.shape or not np.array_equal(
        reoriented.array, image.array
    )
    expected = segmenter.segment(image, boxes=[A, B]).labelmap
    boxes = [box_on_grid(box_in_space(box, image), reoriented) for box in (A, B)]
    found = segmenter.segment(reoriented, boxes=boxes).labelmap
    back = reorient(Volume(expected, image.ijk_to_ras), code).array
    assert expected.any()
    assert np.array_equal(found, back)


def test_a_moved_box_is_decoded_alone_and_nothing_is_encoded(
    segmenter: SamSegmenter, calls: dict[str, int]
):
    moved = Box("beta", (12.0, 8.0, 3.0), (27.0, 22.0, 8.0))
    with segmenter.open(volume()) as session:
        before = session.segment([A, B])
        assert calls == {"encoded": 7, "decoded": 10}
        after = session.segment([A, moved])
        assert calls == {"encoded": 7, "decoded": 15}
        longer = Box("beta", moved.lower, (27.0, 22.0, 9.0))
        session.segment([A, longer])
        assert calls == {"encoded": 8, "decoded": 21}
        again = session.segment([A, B])
        assert calls["encoded"] == 8
    assert np.array_equal(again.labelmap, before.labelmap)
    assert not np.array_equal(after.labelmap, before.labelmap)
    changed = after.labelmap != before.labelmap
    assert not (changed & ~(covered(B, changed.shape) | covered(moved, changed.shape))).any()


def test_embeddings_beyond_the_bound_of_memory_come_back_from_disk(
    segmenter: SamSegmenter, calls: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spilling, "FREE_DISK", 0)
    moved = Box("beta", (12.0, 8.0, 3.0), (27.0, 22.0, 8.0))
    with segmenter.open(volume(), cache_bytes=1) as session:
        session.segment([B])
        found = session.segment([moved])
        assert calls["encoded"] == 5
    with segmenter.open(volume(), cache_bytes=0) as session:
        session.segment([B])
        expected = session.segment([moved])
    assert calls["encoded"] == 15
    assert found.labelmap.any() and np.array_equal(found.labelmap, expected.labelmap)


def test_sam_sees_nothing_outside_the_roi(segmenter: SamSegmenter):
    image, roi = volume(), Box("", (3.0, 4.0, 1.0), (30.0, 24.0, 8.0))
    result = segmenter.segment(image, roi=roi, boxes=[A])
    part = crop(image, roi)
    inside = Box("Alpha", (1.2, 1.1, 0.0), (18.7, 14.9, 5.0))
    expected = segmenter.segment(part, boxes=[inside]).labelmap
    assert expected.any()
    assert np.array_equal(result.labelmap[1:8, 4:24, 3:30], expected)
    rest = result.labelmap.copy()
    rest[1:8, 4:24, 3:30] = 0
    assert not rest.any()
    assert not np.array_equal(segmenter.segment(image, boxes=[A]).labelmap, result.labelmap)


def test_sam_sees_ct_in_a_window_and_other_images_between_percentiles(segmenter: SamSegmenter):
    image = volume()
    model, seen = segmenter.model, []
    encode = model.encode
    model.encode = lambda image, *a: seen.append(image) or encode(image, *a)  # type: ignore
    roi = Box("", (2.0, 2.0, 1.0), (30.0, 24.0, 8.0))
    slice_two = Box("x", (5.0, 5.0, 2.0), (20.0, 20.0, 3.0))
    array = image.array.copy()
    array[0] = -1000  # this slice is air outside the ROI
    ct = Volume(array, image.ijk_to_ras)
    segmenter.segment(ct, roi=roi, boxes=[slice_two])
    segmenter.segment(image, roi=roi, boxes=[slice_two])
    part = crop(image, roi)
    for found, limits in zip(seen, ((-600, 1200), percentile_limits(part.array)), strict=True):
        plane = reorient(part, "IPL").array[::-1][1]
        expected = PREPARATIONS["sam"].image(to_grey(plane, limits), 64)
        assert torch.equal(found, expected)


def test_a_box_partly_outside_is_clipped(segmenter: SamSegmenter):
    image = volume()
    over = Box("Alpha", (-5.0, 5.1, -3.0), (21.7, 40.0, 6.0))
    clipped = Box("Alpha", (0.0, 5.1, 0.0), (21.7, 26.0, 6.0))
    found, expected = (segmenter.segment(image, boxes=[box]).labelmap for box in (over, clipped))
    assert expected.any() and np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("boxes", "choices", "message"),
    [
        (None, {}, "give at least one box, named like the structure"),
        ([], {}, "give at least one box"),
        ([Box("  ", (1, 1, 1), (9, 9, 5))], {}, "has no name: name it"),
        ([Box("x", (40, 1, 1), (50, 9, 5))], {}, "'x' lies outside the volume"),
        ([Box("x", (1, 1, 1), (1, 9, 5))], {}, "'x' is empty"),
        ([Box("x", (1, 1, float("nan")), (9, 9, 5))], {}, "not numbers"),
        ([A], {"roi": Box("", (22, 19, 6), (30, 25, 8))}, "'Alpha' lies outside the ROI"),
        ([A], {"tta": "mirror"}, "mirrored passes are for models without boxes"),
        ([A], {"probabilities": True}, "not class probabilities"),
    ],
)
def test_unusable_input_is_refused_with_one_line(
    segmenter: SamSegmenter, calls: dict[str, int], boxes: Any, choices: dict, message: str
):
    with pytest.raises(MaskSAMError, match=message) as report:
        segmenter.segment(volume(), boxes=boxes, **choices)
    assert "\n" not in str(report.value)
    assert calls["encoded"] == 0


def test_voxels_that_are_not_numbers_and_a_second_image_are_refused(segmenter: SamSegmenter):
    image = volume()
    array = image.array.astype(np.float32)
    array[2, 3, 4] = np.nan
    broken = Volume(array, image.ijk_to_ras, "bräin")
    with pytest.raises(MaskSAMError, match="'bräin' has voxels that are not numbers"):
        segmenter.segment(broken, boxes=[A])
    with pytest.raises(MaskSAMError, match="takes one image, but 2 are given"):
        segmenter.segment([image, image], boxes=[A])
    session = segmenter.open(image)
    session.close()
    with pytest.raises(MaskSAMError, match="closed"):
        session.segment([A])


def test_progress_grows_to_one_and_names_the_stages(segmenter: SamSegmenter):
    seen: list[tuple[str, float, float | None]] = []
    with segmenter.open(volume()) as session:
        session.segment([A, B], progress=lambda *report: seen.append(report))
        fractions = [fraction for _, fraction, _ in seen]
        assert fractions == sorted(fractions) and fractions[-1] == 1
        assert seen[0][0] == "Encoding 7 slices" and seen[-1][0] == "Done"
        # Progress grows within slices too: the encoder of this SAM has four blocks.
        assert len(set(fractions)) > 7 * 4
        assert any(left is not None and left > 0 for _, _, left in seen)
        seen.clear()
        session.segment([B], progress=lambda *report: seen.append(report))
        assert seen[0][0] == "Decoding the boxes"


def test_cancelling_stops_within_a_slice_and_leaves_no_incomplete_mask(segmenter: SamSegmenter):
    image = volume()
    expected = segmenter.segment(image, boxes=[A, B]).labelmap
    blocks = 0
    block = segmenter.model.sam.image_encoder.blocks[1]
    hook = block.norm1.register_forward_hook(lambda *_: count())

    def count() -> None:
        nonlocal blocks
        blocks += 1

    with segmenter.open(image) as session:
        # Cancel in the fourth slice, after its second block has begun.
        with pytest.raises(Cancelled):
            session.segment([A, B], cancelled=lambda: blocks == 4)
        assert blocks == 4
        found = session.segment([A, B]).labelmap
        assert blocks == 4 + 4, "slices that were encoded before the cancel are kept"
    hook.remove()
    assert np.array_equal(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_labels_of_the_cpu(segmenter: SamSegmenter):
    expected = segmenter.segment(volume(), boxes=[A, B])
    faster = SamSegmenter(small_sam(), device="cuda")
    with faster.open(volume()) as session:
        found = [session.segment([A, B]), session.segment([B]), session.segment([A, B])]
    assert np.array_equal(found[2].labelmap, found[0].labelmap)
    assert (found[0].labelmap == expected.labelmap).mean() > 0.98  # the GPU encodes in bfloat16


def test_a_note_names_each_box_without_voxels(segmenter: SamSegmenter):
    boxes = [
        Box(f"b{n}", (i, j, 2.0), (i + 2.0, j + 2.0, 3.0))
        for n, (i, j) in enumerate(itertools.product(range(0, 30, 5), range(0, 24, 5)))
    ]
    result = segmenter.segment(volume(), boxes=boxes)
    found = {one.name for one in result.instances}
    assert 0 < len(found) < len(boxes)
    missing = {box.class_name for box in boxes} - found
    assert set(result.notes) == {f"nothing was found in the box '{name}'" for name in missing}


def test_many_names_get_values_and_colors_of_their_own(segmenter: SamSegmenter):
    boxes = [Box(f"n{n:03d}", (3.0, 4.0, 2.0), (28.0, 22.0, 3.0)) for n in range(260)]
    result = segmenter.segment(volume(), boxes=boxes)
    assert result.labelmap.dtype == np.uint16
    assert [label.value for label in result.labels] == list(range(1, 261))
    assert len({label.color for label in result.labels}) == 260
    # Equal boxes segment the same voxels, whichever name has the larger logit after rounding.
    one = segmenter.segment(volume(), boxes=boxes[:1])
    assert ((result.labelmap > 0) == (one.labelmap > 0)).mean() > 0.99
    assert sum(found.voxel_count for found in result.instances) == (result.labelmap > 0).sum()


def test_padding_is_black_and_a_mask_is_an_image(segmenter: SamSegmenter):
    image = volume()
    padded = image.array.copy()
    padded[0] = 32767
    padded[0, 0, 0] = 32767
    result = segmenter.segment(replace(image, array=padded), boxes=[A])
    assert result.notes == ("832 voxels of 'bräin' are 32767: ignored as padding",)
    mask = replace(image, array=image.array > image.array.mean())
    assert segmenter.segment(mask, boxes=[A]).notes == ()
