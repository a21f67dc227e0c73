"""Images of any kind: each gives a result, or is refused in one line."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box, Volume
from MaskSAMCore.inference import MaskSegmenter, SamSegmenter, Segmentation
from Testing.helpers.sam_reference import small_sam
from Testing.helpers.small_bundle import small_bundle
from Testing.helpers.threshold_model import GEOMETRIES

# MASKSAM_EXAMPLES=1000 searches for longer than the suite has time for.
EXAMPLES = int(os.environ.get("MASKSAM_EXAMPLES", "25"))
TYPES = ["bool", "uint8", "int8", "int16", "uint16", "int32", "int64", "uint64"]
TYPES += ["float16", "float32", "float64", "longdouble", "complex64"]
FILLS = [0.0, 7.0, -1.0, -1000.0, -2000.0, -32768.0, 32767.0, 1e8, -1e30, 1e39, -3.4e38]
FILLS += [-1.797e308, float("nan"), float("inf"), 1e-40]
SAM = SamSegmenter(small_sam(), device="cpu", name="small")


@st.composite
def images(draw: st.DrawFn) -> NDArray[np.generic]:
    """Draw an array [K, J, I] with fill values and outliers."""
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(["noise", "constant", "sparse"]))
    array = np.full(shape, draw(st.sampled_from(FILLS[:3])))
    if kind != "constant":
        noise = rng.normal(500, 100, shape)
        array = noise if kind == "noise" else np.where(rng.random(shape) < 0.02, noise, 0)
    array = array * 10.0 ** draw(st.integers(-20, 36)) if draw(st.booleans()) else array
    array = array + draw(st.sampled_from([0, 0, -1024, 1e6, 1e9]))
    if draw(st.booleans()):
        array[: draw(st.integers(1, 4))] = draw(st.sampled_from(FILLS))
    if draw(st.booleans()):
        array[(0, -1, 0)] = draw(st.sampled_from(FILLS))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return array.astype(draw(st.sampled_from(TYPES)))


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Draw a volume with voxel sizes over twelve decades."""
    array = draw(images())
    spacing = [10.0 ** draw(st.floats(-6, 6)) for _ in range(3)]
    if draw(st.booleans()):
        spacing = [draw(st.floats(0.3, 5))] * 3
    matrix = GEOMETRIES[draw(st.sampled_from(sorted(GEOMETRIES)))] @ np.diag([*spacing, 1.0])
    return Volume(array, matrix, "x", modality=draw(st.sampled_from(["", "MR", "CT"])))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> MaskSegmenter:
    folder = small_bundle(tmp_path_factory.mktemp("models") / "small")
    return MaskSegmenter.from_model(folder, device="cpu")


def check_outcome(segment: Callable[[Volume], Segmentation], volume: Volume) -> None:
    """Check the result or the refusal of a volume; a RuntimeWarning is an error."""
    refusal = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            result = segment(volume)
        except MaskSAMError as error:
            refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert len(refusal) > 20
    else:
        assert result.labelmap.shape == volume.shape
        assert not any("\n" in note for note in result.notes)


quick = settings(max_examples=EXAMPLES, deadline=None)


@quick
@given(volume=volumes())
def test_a_network_with_classes_segments_or_refuses_any_image(
    segmenter: MaskSegmenter, volume: Volume
):
    check_outcome(segmenter.segment, volume)


@quick
@given(volume=volumes())
def test_a_sam_segments_or_refuses_any_image(volume: Volume):
    box = Box("structure", (0.0, 0.0, 0.0), tuple(float(size) for size in volume.shape[::-1]))
    with_box = functools.partial(SAM.segment, boxes=[box])
    check_outcome(with_box, volume)
