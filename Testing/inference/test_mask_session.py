"""Sessions of models with classes: an open volume is segmented again with boxes."""

import tempfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from MaskSAMCore.errors import Cancelled, MaskSAMError
from MaskSAMCore.geometry import Box
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.inference.scoring import Shares
from MaskSAMCore.modeling import ClassScores, NetworkConfig
from MaskSAMCore.models import InferenceSettings
from MaskSAMCore.models.expected_dice import RefinedEstimator
from Testing.helpers.estimators import known_estimator
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    LABELS,
    ThresholdModel,
    one_class,
    plan_for,
    threshold_segmenter,
    two_blobs,
    volume_of,
)

BOX = Box("Anterior", (4, 3, 2), (15, 12, 6))
INSIDE = (slice(2, 6), slice(3, 12), slice(4, 15))


def expected_with(inside=INSIDE):
    """Return the labelmap of class 2, with class 1 in all other voxels of a box."""
    expected = np.where(two_blobs() == 2, 2, 0)
    expected[inside] = np.where(expected[inside] == 2, 2, 1)
    return expected


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("orientation", ["SPL", "LIP", "ARS"])
@pytest.mark.parametrize("finer", [0.5, 1, 2])
def test_a_box_gives_its_class_exactly_the_voxels_inside(name, orientation, finer):
    segmenter = threshold_segmenter(orientation=orientation, spacing=[1 / finer] * 3)
    # Class 2 is left out of the image, because the resampled edges of class 2 are not exact.
    blank = one_class()
    result = segmenter.segment(volume_of(blank, GEOMETRIES[name]), boxes=[BOX])
    expected = np.zeros_like(blank)
    expected[INSIDE] = 1
    np.testing.assert_array_equal(result.labelmap, expected)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_box_reaches_the_right_voxels_through_an_roi(name):
    roi = Box("", (2, 1, 1), (20, 15, 5))
    segmenter = threshold_segmenter(orientation="LIP")
    result = segmenter.segment(volume_of(two_blobs(), GEOMETRIES[name]), roi=roi, boxes=[BOX])
    expected = np.zeros((11, 17, 23))
    expected[1:5, 1:15, 2:20] = expected_with((slice(2, 5), *INSIDE[1:]))[1:5, 1:15, 2:20]
    np.testing.assert_array_equal(result.labelmap, expected)


def test_a_box_decodes_only_the_windows_that_it_touches_and_encodes_nothing():
    model = ThresholdModel()
    with threshold_segmenter(model).open(volume_of(two_blobs())) as session:
        first = session.segment()
        encoded, decoded = model.encoded, model.decoded
        second = session.segment(boxes=[BOX])
        assert model.encoded == encoded
        assert 0 < model.decoded - decoded < decoded
        np.testing.assert_array_equal(first.labelmap, two_blobs())
        np.testing.assert_array_equal(second.labelmap, expected_with())


def test_unchanged_boxes_are_not_decoded_again():
    model = ThresholdModel()
    with threshold_segmenter(model).open(volume_of(two_blobs())) as session:
        with_box = session.segment(boxes=[BOX])
        decoded = model.decoded
        automatic = session.segment()
        again = session.segment(boxes=[BOX])
        assert model.decoded == decoded
    np.testing.assert_array_equal(automatic.labelmap, two_blobs())
    np.testing.assert_array_equal(again.labelmap, with_box.labelmap)


def test_moving_a_box_decodes_only_its_class():
    model = ThresholdModel()
    other = Box("Posterior", (16, 13, 8), (21, 16, 10))
    moved = Box("Anterior", (1, 1, 1), (5, 5, 3))
    with threshold_segmenter(model).open(volume_of(two_blobs())) as session:
        both = session.segment(boxes=[BOX, other])
        decoded = model.decoded
        after = session.segment(boxes=[other, moved])
        assert model.decoded - decoded == window_count(moved)
    np.testing.assert_array_equal(both.labelmap == 2, after.labelmap == 2)
    assert not np.array_equal(both.labelmap == 1, after.labelmap == 1)


def window_count(box):
    """Return the number of windows of the threshold model that a box touches."""
    model = ThresholdModel()
    with threshold_segmenter(model).open(volume_of(two_blobs())) as session:
        session.segment()
        before = model.decoded
        session.segment(boxes=[box])
        return model.decoded - before


@pytest.mark.parametrize("cache_bytes", [0, 5_000, 1 << 30])
def test_embeddings_beyond_the_memory_limit_are_kept_in_files(cache_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = ThresholdModel()
    volume = volume_of(two_blobs())
    with threshold_segmenter(model).open(volume, cache_bytes=cache_bytes) as session:
        session.segment()
        encoded = model.encoded
        assert bool(list(tmp_path.rglob("*.npy"))) == (cache_bytes == 5_000)
        result = session.segment(boxes=[BOX])
    assert model.encoded - encoded == (window_count(BOX) if cache_bytes == 0 else 0)
    np.testing.assert_array_equal(result.labelmap, expected_with())
    assert list(tmp_path.iterdir()) == []


def test_a_box_is_mirrored_with_its_window():
    volume = volume_of(two_blobs())
    result = threshold_segmenter().segment(volume, boxes=[BOX], tta="mirror")
    np.testing.assert_array_equal(result.labelmap, expected_with())


def test_several_boxes_of_a_class_are_united_slice_by_slice():
    blank = one_class()
    first, second = Box("Anterior", (2, 2, 1), (6, 6, 5)), Box("Anterior", (8, 4, 3), (12, 9, 8))
    result = threshold_segmenter().segment(volume_of(blank), boxes=[first, second])
    expected = np.zeros_like(blank)
    expected[1:3, 2:6, 2:6] = 1
    expected[3:5, 2:9, 2:12] = 1  # both boxes cross these slices, so their bounding box counts
    expected[5:8, 4:9, 8:12] = 1
    np.testing.assert_array_equal(result.labelmap, expected)


def test_a_stack_of_thin_boxes_is_a_box_for_each_slice():
    blank = one_class()
    expected = np.zeros_like(blank)
    boxes = []
    for k in range(2, 9):
        boxes.append(Box("Posterior", (k, 3, k), (k + 6, 14 - k // 2, k + 1)))
        expected[k, 3 : 14 - k // 2, k : k + 6] = 2
    result = threshold_segmenter().segment(volume_of(blank), boxes=boxes)
    np.testing.assert_array_equal(result.labelmap, expected)


def test_two_boxes_of_a_class_keep_both_parts_although_the_model_keeps_one_component():
    blank = one_class()
    first, second = Box("Anterior", (2, 2, 1), (6, 6, 3)), Box("Anterior", (12, 9, 6), (20, 15, 9))
    inference = InferenceSettings(largest_component=frozenset({1}))
    segmenter = MaskSegmenter(
        ThresholdModel(), plan_for(), LABELS, device="cpu", inference=inference
    )
    both = segmenter.segment(volume_of(blank), boxes=[first, second])
    assert both.instances[0].voxel_count == 4 * 4 * 2 + 8 * 6 * 3


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_of_a_class_in_a_box_the_component_remains_that_the_model_found_before(name, overwrite):
    image = np.zeros((11, 17, 23), dtype=np.float32)
    image[4:7, 5:9, 2:5] = 1
    image[:, :, 8] = 2  # a wall of another class
    inference = InferenceSettings(largest_component=frozenset({1}))
    segmenter = MaskSegmenter(
        ThresholdModel(), plan_for(), LABELS, device="cpu", inference=inference
    )
    whole, beyond = Box("Anterior", (0, 0, 0), (23, 17, 11)), Box("Anterior", (6, 0, 0), (23, 9, 9))
    with segmenter.open(volume_of(image, GEOMETRIES[name])) as session:
        found = session.segment([whole], overwrite=overwrite).labelmap
        elsewhere = session.segment([beyond], overwrite=overwrite).labelmap
    expected = np.zeros_like(image)
    expected[:, :, :8] = 1
    np.testing.assert_array_equal(found == 1, expected)
    # If the class was not found inside the box before, the largest component remains.
    expected[:] = 0
    expected[:9, :9, 9:] = 1
    np.testing.assert_array_equal(elsewhere == 1, expected)


def test_a_box_too_thin_for_any_voxel_of_the_plan_leaves_its_class_without_voxels():
    thin = Box("Anterior", (4.0, 3.0, 2.0), (4.0015, 12.0, 6.0))
    with threshold_segmenter(spacing=(2, 2, 2)).open(volume_of(two_blobs())) as session:
        for overwrite in (False, True):
            result = session.segment([thin], overwrite=overwrite, probabilities=True)
            assert [instance.name for instance in result.instances] == ["Posterior"]
            assert result.notes == ("nothing was found in the box 'Anterior'",)


def test_a_class_takes_boxes_although_its_name_has_spaces_around_it():
    labels = (replace(LABELS[0], name=" Anterior "), LABELS[1])
    segmenter = MaskSegmenter(ThresholdModel(), plan_for(), labels, device="cpu")
    for name in ("anterior", " Anterior "):
        result = segmenter.segment(volume_of(two_blobs()), boxes=[replace(BOX, class_name=name)])
        np.testing.assert_array_equal(result.labelmap, expected_with())


def test_a_heavier_background_takes_uncertain_voxels_without_another_encoding():
    image = np.zeros((11, 17, 23), dtype=np.float32)
    image[2:9, 3:12, 4:16] = 0.55
    image[4:7, 5:9, 6:12] = 0.9
    model = ThresholdModel()
    with MaskSegmenter(model, plan_for(), LABELS, device="cpu").open(volume_of(image)) as session:
        wide = session.segment().labelmap
        encoded = model.encoded
        session.weigh_background(1.5)
        narrow = session.segment().labelmap
        session.weigh_background(1.0)
        again = session.segment().labelmap
    assert model.encoded == encoded
    np.testing.assert_array_equal(wide, image > 0.5)
    np.testing.assert_array_equal(narrow, image > 0.8)
    np.testing.assert_array_equal(again, wide)
    inference = InferenceSettings(background_weight=1.5)
    heavy = MaskSegmenter(model, plan_for(), LABELS, device="cpu", inference=inference)
    np.testing.assert_array_equal(heavy.segment(volume_of(image)).labelmap, narrow)


class FaintModel(ThresholdModel):
    """Network with a score of 0.62 for each class, with boxes or without."""

    share = 0.62

    def decode(self, embedding, prompts=None):
        scores = super().decode(embedding, prompts).scores
        foreground = self.share * scores[:, 1:]
        return ClassScores(torch.cat([1 - foreground.sum(1, keepdim=True), foreground], 1))


@pytest.mark.parametrize(("weight", "found"), [(1.0, True), (1.5, True), (1.8, False)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_background_has_the_same_weight_with_and_without_boxes(
    weight: float, found: bool, overwrite: bool
):
    """A score of 0.62 beats a background score of 0.38 with a weight of 1.5, but not of 1.8."""
    box = Box("Anterior", (4, 4, 3), (12, 10, 8))
    inside = np.zeros((11, 17, 23), dtype=bool)
    inside[3:8, 4:10, 4:12] = True
    inference = InferenceSettings(background_weight=weight)
    segmenter = MaskSegmenter(FaintModel(), plan_for(), LABELS, device="cpu", inference=inference)
    automatic = segmenter.segment(volume_of(inside.astype(np.float32))).labelmap
    blank = volume_of(one_class())
    boxed = segmenter.segment(blank, boxes=[box], overwrite=overwrite).labelmap
    np.testing.assert_array_equal(automatic, inside & found)
    np.testing.assert_array_equal(boxed, inside & found)


def test_a_box_partly_outside_is_clipped():
    blank = one_class()
    box = Box("anterior ", (-5, -3, 8), (4, 3, 40))
    result = threshold_segmenter().segment(volume_of(blank), boxes=[box])
    expected = np.zeros_like(blank)
    expected[8:, :3, :4] = 1
    np.testing.assert_array_equal(result.labelmap, expected)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box("Spleen", (1, 1, 1), (4, 4, 4)), "'Spleen' names no class.*Anterior, Posterior"),
        (Box("Anterior", (30, 1, 1), (40, 4, 4)), "'Anterior' lies outside the volume"),
        (Box("Anterior", (0, 0, 7), (3, 3, 9)), "'Anterior' lies outside the ROI"),
        (Box("Anterior", (5, 5, 5), (5, 9, 9)), "'Anterior' is empty"),
        (Box("Anterior", (np.nan, 5, 5), (5, 9, 9)), "'Anterior' has corners that are not"),
        (Box("Anterior", (5, 5), (9, 9)), "'Anterior' has corners that are not"),  # type: ignore[arg-type]
    ],
)
def test_a_box_that_cannot_be_used_is_refused_before_any_work(box, message):
    model = ThresholdModel()
    roi = Box("", (0, 0, 0), (23, 17, 6))
    with pytest.raises(MaskSAMError, match=message):
        threshold_segmenter(model).segment(volume_of(two_blobs()), roi=roi, boxes=[box])
    assert model.encoded == 0


def test_a_cancelled_session_can_be_used_again():
    model = ThresholdModel()
    with threshold_segmenter(model).open(volume_of(two_blobs())) as session:
        with pytest.raises(Cancelled):
            session.segment(cancelled=lambda: model.encoded >= 2)
        np.testing.assert_array_equal(session.segment().labelmap, two_blobs())
        decoded = model.decoded
        with pytest.raises(Cancelled):
            session.segment(boxes=[BOX], cancelled=lambda: model.decoded > decoded)
        assert model.decoded == decoded + 1
        np.testing.assert_array_equal(session.segment(boxes=[BOX]).labelmap, expected_with())


def test_without_overwrite_classes_without_boxes_keep_their_voxels():
    # The box covers all of class 2, and the network fills it with class 1.
    volume, everything = volume_of(two_blobs()), Box("Anterior", (0, 0, 0), (23, 17, 11))
    with threshold_segmenter().open(volume) as session:
        kept = session.segment(boxes=[everything])
        taken = session.segment(boxes=[everything], overwrite=True)
        left = session.segment(boxes=[Box("Anterior", (0, 0, 0), (1, 1, 1))])
        automatic = session.segment()
    np.testing.assert_array_equal(kept.labelmap, np.where(two_blobs() == 2, 2, 1))
    # Where scores are equal, the class without a box wins; elsewhere the class with the box wins.
    assert (taken.labelmap == 1).sum() >= (kept.labelmap == 1).sum()
    np.testing.assert_array_equal(left.labelmap == 2, two_blobs() == 2)
    np.testing.assert_array_equal(automatic.labelmap, two_blobs())


def test_a_class_that_could_take_voxels_of_others_is_noted_unless_it_may():
    # The network is less sure of the other class than of a class in its box.
    volume = volume_of(np.where(two_blobs() == 2, np.float32(1.6), two_blobs()))
    everything = Box("Anterior", (0, 0, 0), (23, 17, 11))
    small = Box("Anterior", (8, 6, 6), (16, 13, 9))  # within the other class
    with threshold_segmenter().open(volume) as session:
        kept = session.segment(boxes=[everything])
        taken = session.segment(boxes=[everything], overwrite=True)
        hidden = session.segment(boxes=[small])
        beside = session.segment(boxes=[Box("Anterior", (3, 4, 2), (11, 8, 5))])
        assert session.segment().notes == ()
    more = (taken.labelmap == 1).sum() - (kept.labelmap == 1).sum()
    assert more == (two_blobs() == 2).sum()
    share = 100 * more / (kept.labelmap == 1).sum()
    assert kept.notes == (
        f"Anterior would be {share:.0f} % larger if it could overwrite other classes",
    )
    assert hidden.notes == ("Anterior would be found if it could overwrite other classes",)
    assert taken.notes == () and beside.notes == ()


def test_instances_after_a_box_are_those_of_the_labelmap():
    for name in GEOMETRIES:
        volume = volume_of(two_blobs(), GEOMETRIES[name])
        result = threshold_segmenter(orientation="LIP").segment(volume, boxes=[BOX])
        first, second = result.instances
        assert (first.name, second.name) == ("Anterior", "Posterior")
        assert first.voxel_count == (result.labelmap == 1).sum()
        assert second.voxel_count == (result.labelmap == 2).sum()
        (found,) = [np.argwhere(result.labelmap == 1)]
        assert first.box.lower == tuple(found.min(0)[::-1])
        assert first.box.upper == tuple(found.max(0)[::-1] + 1)
        assert 0.5 < first.confidence <= 1


def test_changing_a_result_does_not_change_the_session():
    with threshold_segmenter().open(volume_of(two_blobs())) as session:
        session.segment().labelmap[:] = 7
        session.segment(boxes=[BOX]).labelmap[:] = 7
        np.testing.assert_array_equal(session.segment().labelmap, two_blobs())
        np.testing.assert_array_equal(session.segment(boxes=[BOX]).labelmap, expected_with())


@pytest.mark.parametrize("probabilities", [False, True])
def test_progress_of_boxes_grows_to_one(probabilities):
    seen = []
    boxes = [BOX, Box("Posterior", (16, 13, 8), (21, 16, 10))]
    with threshold_segmenter().open(volume_of(two_blobs())) as session:
        for _ in range(2):
            seen.clear()
            session.segment(
                boxes=boxes,
                probabilities=probabilities,
                progress=lambda *args: seen.append(args),
            )
            fractions = [fraction for _, fraction, _ in seen]
            assert fractions == sorted(fractions)
            assert fractions[-1] == 1
            boxes[0] = Box("Anterior", (4, 3, 2), (14, 11, 6))


def test_a_closed_session_is_refused():
    session = threshold_segmenter().open(volume_of(two_blobs()))
    session.close()
    with pytest.raises(MaskSAMError, match="closed"):
        session.segment()


class FineConfig(NetworkConfig):
    parts = (2, 2, 2)
    refined_classes = (1,)


class FineScores(ClassScores):
    """Scores of background only, and a refiner that gives its class every voxel."""

    def shares(self):
        fine = torch.nn.functional.interpolate(self.scores, scale_factor=2)
        return torch.cat([1 - fine[:, :1], fine[:, :1]], 1)


class FineModel(ThresholdModel):
    """Network whose refiner gives its class every voxel, or all of a box, in half-size voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.config = FineConfig(2, 1, self.config.window)

    def encode(self, images, fine=None, small=None):
        assert fine.shape[2:] == tuple(2 * size for size in images.shape[2:])
        return images

    def decode(self, embedding, prompts=None):
        background = torch.ones_like(embedding)
        return FineScores(torch.cat([background, 0 * background, 0 * background], 1))

    def decode_class(self, embedding, class_logits, prompts, class_index):
        return self.decode(embedding).shares()[:, 1]


@pytest.mark.parametrize("spacing", [0.4, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(11, 17, 23), (6, 10, 13), (1, 3, 9), (8, 16, 21)])
def test_windows_of_a_refiner_reach_the_last_of_its_voxels(shape, spacing):
    segmenter = threshold_segmenter(FineModel())
    volume = volume_of(one_class(shape=shape), np.diag([-spacing, -spacing, spacing, 1]))
    upper = tuple(float(size) for size in shape[::-1])
    last_slice = Box("Anterior", (0, 0, upper[2] - 1), upper)
    with segmenter.open(volume) as session:
        assert (session.segment().labelmap == 1).all()
        boxed = session.segment([Box("Anterior", (0, 0, 0), upper)], overwrite=True)
        assert (boxed.labelmap == 1).all()
        assert (session.segment([last_slice], overwrite=True).labelmap[-1] == 1).all()


def test_a_box_of_a_refined_class_has_whole_scores_where_few_of_its_windows_are_decoded():
    volume = volume_of(one_class(shape=(16, 48, 48)), np.diag([-0.5, -0.5, 0.5, 1]))
    box = Box("Anterior", (6, 7, 6), (11, 10, 10))
    with threshold_segmenter(FineModel()).open(volume) as session:
        result = session.segment([box], overwrite=True, probabilities=True)
    expected = np.zeros(volume.shape)
    expected[box.slices()] = 1
    np.testing.assert_array_equal(result.labelmap, expected)
    np.testing.assert_allclose(result.probabilities[1], expected, atol=1e-4)


def test_features_of_a_refiner_are_computed_only_where_its_classes_are_rated(
    monkeypatch: pytest.MonkeyPatch,
):
    counted: list[bool] = []
    own = Shares.merged_with

    def merged_with(shares: Shares, *arguments: Any) -> torch.Tensor:
        counted.append(True)
        return own(shares, *arguments)

    monkeypatch.setattr(Shares, "merged_with", merged_with)
    estimator = replace(known_estimator([0.5, 0.6]), unrated=(0,))
    refined = RefinedEstimator((0,), known_estimator([0.7]))
    volume = volume_of(one_class(shape=(8, 16, 21)))
    for chosen, expected in ((estimator, None), (replace(estimator, refined=refined), 0.7)):
        counted.clear()
        segmenter = MaskSegmenter(FineModel(), plan_for(), LABELS, device="cpu", estimator=chosen)
        with segmenter.open(volume) as session:
            (found,) = session.segment().instances
            assert found.name == "Anterior"
            assert found.expected_dice == (expected and pytest.approx(expected))
            assert len(counted) == (expected is not None)
            assert session.features().refined is not None
            assert session.features() is session.features()
            assert len(counted) == 1


@dataclass
class TakingScores(ClassScores):
    """Scores of two classes, and a refiner that gives the second class some rows of each slice."""

    rows: int = 0

    def shares(self):
        fine = torch.nn.functional.interpolate(self.scores, scale_factor=2)[:, :1]
        own = torch.zeros_like(fine)
        own[..., : 2 * self.rows, :] = 1
        return torch.cat([1 - own, own], 1)


class TakingConfig(FineConfig):
    refined_classes = (2,)
    scored_classes = 1


class TakingModel(FineModel):
    """Network whose first class has all voxels except some rows, which the second class takes."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.config = TakingConfig(2, 1, self.config.window)
        self._rows = rows

    def decode(self, embedding, prompts=None):
        found = torch.ones_like(embedding)
        return TakingScores(torch.cat([0 * found, found, 0 * found], 1), rows=self._rows)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("rows", "expected"), [(0, 0.5), (1, None), (4, None)])
def test_a_class_has_no_expected_dice_where_a_refiner_takes_its_voxels(rows, expected, learned):
    estimator = replace(known_estimator([0.5, 0.6]), unrated=(1,))
    if learned:
        refined = RefinedEstimator((1,), known_estimator([0.7]))
        estimator = replace(estimator, refined=refined)
    segmenter = MaskSegmenter(
        TakingModel(rows), plan_for(), LABELS, device="cpu", estimator=estimator
    )
    result = segmenter.segment(volume_of(one_class(shape=(4, 8, 8))))
    found = {instance.name: instance.expected_dice for instance in result.instances}
    assert found["Anterior"] == (expected and pytest.approx(expected))
    assert found.get("Posterior") == (pytest.approx(0.7) if learned and rows else None)
