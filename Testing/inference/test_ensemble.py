"""Ensembles: probabilities of several networks are averaged on the input's voxels."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from MaskSAMCore.errors import Cancelled, MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import EnsembleSegmenter, MaskSegmenter
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import BoxPrompts, ClassScores, Network, NetworkConfig
from MaskSAMCore.models import InferenceSettings, Suitability
from Testing.helpers.threshold_model import (
    GEOMETRIES,
    LABELS,
    OBLIQUE,
    Embedding,
    ThresholdModel,
    plan_for,
    threshold_segmenter,
    two_blobs,
    volume_of,
)


class ConstantModel(Network):
    """Network with the same scores in every voxel, background first."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__(NetworkConfig(len(scores) - 1, 1, (4, 8, 8)))
        self.scores = torch.tensor(scores)

    def encode(self, images: Tensor) -> Embedding:
        return Embedding(images)

    def decode(self, embedding: Embedding, prompts: BoxPrompts | None = None) -> ClassScores:
        images = embedding.images
        scores = self.scores[:, None, None, None].expand(len(images), -1, *images.shape[2:])
        return ClassScores(scores.clone())


def constant(*scores: float, **settings: object) -> MaskSegmenter:
    model, inference = ConstantModel(scores), InferenceSettings(**settings)
    return MaskSegmenter(model, plan_for(), LABELS, device="cpu", inference=inference)


def oblique() -> Volume:
    """Return an oblique volume with voxels of 1 x 1.5 x 2 mm (I, J, K)."""
    return volume_of(two_blobs(), OBLIQUE @ np.diag([1, 1.5, 2, 1]))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_networks_of_other_orientations_agree_voxel_by_voxel(name: str):
    members = [threshold_segmenter(orientation=code) for code in ("SPL", "LIP", "ARS")]
    volume = volume_of(two_blobs(), GEOMETRIES[name])
    result = EnsembleSegmenter(members).segment(volume)
    np.testing.assert_array_equal(result.labelmap, two_blobs())
    assert [one.name for one in result.instances] == ["Anterior", "Posterior"]
    assert result.volume is volume


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_probabilities_are_the_mean_of_those_of_the_networks(
    cache_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Tests that run at the same time may write to the default temporary folder.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    members = [
        threshold_segmenter(orientation="SPL", spacing=(2, 1, 1)),
        threshold_segmenter(orientation="LIP", spacing=(1, 1.3, 2.5)),
        constant(0.2, 0.7, 0.1),
    ]
    volume = oblique()
    before = set(Path(tempfile.gettempdir()).iterdir())
    with EnsembleSegmenter(members).open(volume, cache_bytes=cache_bytes) as session:
        found = session.segment(probabilities=True)
    assert set(Path(tempfile.gettempdir()).iterdir()) <= before
    own = [one.segment(volume, probabilities=True).probabilities for one in members]
    mean = np.mean(own, 0)
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    ordered = np.sort(mean, 0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    np.testing.assert_array_equal(found.labelmap[clear], mean.argmax(0)[clear])


def test_a_sure_network_outvotes_an_unsure_one():
    volume = volume_of(two_blobs())
    assert (constant(0.4, 0.5, 0.1).segment(volume).labelmap == 1).all()
    both = EnsembleSegmenter([constant(0.4, 0.5, 0.1), constant(0.8, 0.1, 0.1)])
    assert not both.segment(volume).labelmap.any()
    (instance,) = EnsembleSegmenter([constant(0.4, 0.5, 0.1)] * 2).segment(volume).instances
    assert instance.confidence == pytest.approx(0.5, abs=1e-5)


def test_each_network_weighs_its_background_as_alone():
    volume = volume_of(two_blobs())
    weighed = constant(0.4, 0.5, 0.1, background_weight=1.5)
    assert not weighed.segment(volume).labelmap.any()
    result = EnsembleSegmenter([weighed, weighed]).segment(volume)
    assert not result.labelmap.any()


def test_an_roi_bounds_an_ensemble():
    roi = Box("", (2, 1, 1), (20, 15, 5))
    members = [threshold_segmenter(orientation=code) for code in ("SPL", "LIP")]
    result = EnsembleSegmenter(members).segment(oblique(), roi=roi, probabilities=True)
    inside = np.zeros(result.labelmap.shape, bool)
    inside[1:5, 1:15, 2:20] = True
    np.testing.assert_array_equal(result.labelmap, np.where(inside, two_blobs(), 0))
    assert (result.probabilities[0][~inside] == 1).all()


def test_doubts_of_any_network_are_known_before_the_segmentation():
    members = [threshold_segmenter() for _ in range(3)]
    for member in members[1:]:
        suitability = Suitability(needs_roi=True)
        member.settings = dataclasses.replace(member.settings, suitability=suitability)
    ensemble, volume = EnsembleSegmenter(members), volume_of(two_blobs())
    assert ensemble.doubts(volume, has_roi=True) == ()
    (doubt,) = ensemble.doubts(volume, has_roi=False)
    assert "needs an ROI" in doubt
    assert ensemble.segment(volume).notes == (doubt,)


def test_the_largest_component_is_kept_where_most_networks_keep_it():
    kept = [constant(0.2, 0.7, 0.1, largest_component=values) for values in ({1, 2}, {1}, set())]
    assert EnsembleSegmenter(kept).largest_component == {1}


def test_networks_of_other_classes_or_channels_are_refused():
    first = constant(0.2, 0.7, 0.1)
    others = (Label(1, "Anterior", (1, 0, 0)), Label(3, "Posterior", (0, 1, 0)))
    other = MaskSegmenter(ThresholdModel(), plan_for(), others, device="cpu", name="b")
    with pytest.raises(MaskSAMError, match=r"do not have the same classes .*'Posterior', 3"):
        EnsembleSegmenter([first, other])
    three = (*LABELS, Label(3, "Third", (0, 0, 1)))
    other = MaskSegmenter(ThresholdModel(classes=3), plan_for(), three, device="cpu")
    with pytest.raises(MaskSAMError, match="2 and 3 classes"):
        EnsembleSegmenter([first, other])
    model = ThresholdModel(channels=2)
    other = MaskSegmenter(model, plan_for(channels=("MR", "CT")), LABELS, device="cpu")
    with pytest.raises(MaskSAMError, match="different channels"):
        EnsembleSegmenter([first, other])


def test_boxes_and_closed_sessions_are_refused():
    ensemble = EnsembleSegmenter([constant(0.2, 0.7, 0.1)] * 2)
    with pytest.raises(MaskSAMError, match="take no boxes"):
        ensemble.segment(volume_of(two_blobs()), boxes=[Box("Anterior", (1, 1, 1), (3, 3, 3))])
    session = ensemble.open(volume_of(two_blobs()))
    session.close()
    with pytest.raises(MaskSAMError, match="closed"):
        session.segment()


def test_progress_grows_and_a_cancelled_run_stops():
    ensemble = EnsembleSegmenter([threshold_segmenter(), threshold_segmenter()])
    seen: list[tuple[str, float]] = []
    ensemble.segment(
        volume_of(two_blobs()), progress=lambda stage, done, _: seen.append((stage, done))
    )
    fractions = [done for _, done in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert any(stage == "Model 2 of 2: segmenting" for stage, _ in seen)
    with pytest.raises(Cancelled):
        ensemble.segment(volume_of(two_blobs()), cancelled=lambda: True)


def test_a_full_disk_for_scores_is_reported_before_the_other_models_run(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("MaskSAMCore.inference.embedding_cache.FREE_DISK", 1 << 62)
    second = ThresholdModel()
    ensemble = EnsembleSegmenter([threshold_segmenter(), threshold_segmenter(second)])
    session = ensemble.open(volume_of(two_blobs()), cache_bytes=1)
    with session, pytest.raises(MaskSAMError, match="too full for the scores of 2 models"):
        session.segment()
    assert second.encoded == 0
