"""Outcomes of unusual intensities, voxel sizes and extents, as listed in Docs/inputs.md."""

from __future__ import annotations

import pytest

from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.models import load_bundle
from Testing.helpers.small_bundle import small_bundle
from Testing.inference.image_cases import CASES, SUITABILITY, ImageCase, check


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> MaskSegmenter:
    bundle = load_bundle(small_bundle(tmp_path_factory.mktemp("models") / "small"))
    return MaskSegmenter(
        bundle.build(), bundle.plan, bundle.labels, device="cpu", suitability=SUITABILITY
    )


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_image_is_segmented_or_refused_as_listed(case: ImageCase, segmenter: MaskSegmenter):
    check(case, segmenter)
