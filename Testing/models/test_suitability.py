"""Doubts about the suitability of a volume for a model, from the model's card."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.models import Suitability, describe, find, load_bundle
from MaskSAMCore.models.catalog import DESCRIPTION
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import GEOMETRIES


def volume(extent_mm=(150, 190, 160), spacing=1.0, modality="", low=0, geometry="ras") -> Volume:
    """Return a volume with a given extent in mm along I, J, K."""
    shape = [max(2, round(mm / spacing)) for mm in extent_mm[::-1]]
    array = np.broadcast_to(np.linspace(low, 899.5, shape[2]), shape)
    matrix = GEOMETRIES[geometry] @ np.diag([spacing, spacing, spacing, 1.0])
    return Volume(array, matrix, modality=modality)


def labelled(classes: int) -> Volume:
    """Return a volume with the extent of a head and class numbers as its intensities."""
    array = np.broadcast_to(np.arange(182, dtype=np.uint8) % classes, (182, 218, 182))
    return Volume(array, np.eye(4))


def doubts(model: str, given: Volume, has_roi: bool = False) -> tuple[str, ...]:
    return Suitability.from_card(describe(find(model))["card"]).doubts(given, has_roi)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("brain", volume((182, 218, 182))),  # MNI152
        ("brain", volume((256, 256, 256), 0.5)),
        ("brain", volume((180, 220, 180), 3.0, "MR")),
        ("brain", volume((150, 180, 100), 2.0)),  # a slab
        ("brain", volume((150, 180, 140), 2.0, "OT")),
        ("hippocampus", volume((31, 40, 24))),
        ("hippocampus", volume((46, 62, 48))),
    ],
)
def test_ordinary_volumes_raise_no_doubt(model: str, given: Volume):
    assert doubts(model, given) == ()


@pytest.mark.parametrize(
    ("model", "given", "doubt"),
    [
        ("brain", volume(low=-1000), "made for MR, but the volume looks like CT"),
        ("brain", labelled(9), "made for MR, but the volume has only a few different intensities"),
        ("brain", volume(modality="PT"), "made for MR, but the volume looks like PT"),
        ("brain", volume(spacing=8.0), "voxels of 0.5 to 6 mm, but the volume has voxels of 8 x"),
        ("brain", volume((34, 50, 36)), "structures together measured 124 x 152 x 133 mm or more"),
        ("hippocampus", volume(), "needs an ROI .* up to 43 x 59 x 47 mm, .* has 150 x 190 x 160"),
    ],
)
def test_a_doubt_names_the_volume_and_the_model(model: str, given: Volume, doubt: str):
    (found,) = doubts(model, given)
    assert re.search(doubt, found), found


def test_an_roi_is_the_users_own_choice_of_an_extent():
    assert doubts("hippocampus", volume(), has_roi=True) == ()


@pytest.mark.parametrize(
    ("model", "given", "lacks"),
    [
        ("hippocampus", volume(), True),
        ("hippocampus", volume((34, 50, 36)), False),
        ("brain", volume(), False),
    ],
)
def test_only_a_model_of_crops_lacks_an_roi_and_only_in_a_large_volume(
    model: str, given: Volume, lacks: bool
):
    assert Suitability.from_card(describe(find(model))["card"]).lacks_roi(given) == lacks


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_the_stated_modality_counts_more_than_the_intensities(modality: str):
    assert bool(doubts("brain", volume(low=-1000, modality=modality))) == (modality == "CT")


def test_the_extent_is_measured_along_the_directions_of_the_patient():
    view = {"field_of_view_mm": [[10, 20], [40, 50], [70, 80]]}
    suitability = Suitability.from_card(view)
    # In the sagittal volume, I runs along the A axis, J along S and K along R.
    assert suitability.doubts(volume((45, 75, 15), geometry="sagittal"), False) == ()
    assert suitability.doubts(volume((15, 45, 75), geometry="sagittal"), False) != ()
    assert suitability.doubts(volume((15, 45, 75), geometry="oblique"), False) == ()


def test_a_card_without_a_field_of_view_may_ask_for_an_roi():
    suitability = Suitability.from_card({"needs_roi": True})
    assert "needs an ROI" in suitability.doubts(volume(), False)[0]
    assert suitability.doubts(volume(), True) == ()
    assert Suitability.from_card({}).doubts(volume(spacing=9.0, low=-1000), False) == ()


@pytest.mark.parametrize(
    "card",
    [
        {"spacing_mm": 3},
        {"spacing_mm": [2, 1]},
        {"spacing_mm": ["a", "b"]},
        {"field_of_view_mm": [[1, 2]]},
        {"field_of_view_mm": 7},
    ],
)
def test_a_card_with_wrong_ranges_is_damaged(card: dict[str, object], tmp_path):
    path = small_bundle(tmp_path / "model") / DESCRIPTION
    text = path.read_text(encoding="utf-8")
    path.write_text(json.dumps({**json.loads(text), "card": card}), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="damaged"):
        load_bundle(path.parent)
