"""Results for a fit: their true Dice, and files that a stopped run continues."""

from __future__ import annotations

import json

import numpy as np
import pytest

from MaskSAMCore.data import ChannelNormalization, Plan
from MaskSAMCore.data.dataset import LabelledCase
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import MaskSegmenter
from MaskSAMCore.quality.corruptions import FITTED
from MaskSAMCore.quality.samples import RecordedCases, Sampler, SynthesizedCases, collect_samples
from Testing.data.synthesis.helpers import label_indices, label_scheme
from Testing.helpers.labelled_heads import head
from Testing.helpers.threshold_model import LABELS, ThresholdModel, plan_for, two_blobs, volume_of
from Testing.quality.helpers import labelled_case


def sampler_of(corruptions=None, names=("Anterior", "Posterior")) -> Sampler:
    segmenter = MaskSegmenter(ThresholdModel(), plan_for(), LABELS, device="cpu")
    case = labelled_case()
    known = two_blobs()
    exact = type(case)("case", (volume_of(known),), known.astype(np.uint8))
    source = RecordedCases([exact])
    return Sampler(segmenter, source, names, corruptions or {"clean": FITTED["clean"]})


def test_a_perfect_result_has_a_dice_of_one():
    sampler = sampler_of({"clean": FITTED["clean"], "other": FITTED["clean"]})
    sample = sampler.sample(0)
    assert sample is not None
    assert sample.dice.tolist() == [1.0, 1.0]
    assert not np.isnan(sample.features.classes).any()


def test_classes_are_matched_by_name():
    sampler = sampler_of(
        {"clean": FITTED["clean"], "other": FITTED["clean"]}, ("posterior", "anterior")
    )
    sample = sampler.sample(0)
    assert sample is not None
    assert sample.dice.tolist() == [0.0, 0.0]
    with pytest.raises(MaskSAMError, match="no class Posterior"):
        sampler_of(names=("Anterior", "other"))


def test_a_stopped_run_continues_where_it_was(tmp_path):
    corruptions = {name: FITTED[name] for name in ("clean", "noise", "foreign", "cropped")}
    whole = collect_samples(sampler_of(corruptions), 6, tmp_path / "whole.jsonl", {"model": "a"})
    file = tmp_path / "part.jsonl"
    collect_samples(sampler_of(corruptions), 3, file, {"model": "a"})
    with file.open("a") as stream:
        stream.write('{"number": 3, "cas')  # the process was killed
    rest = collect_samples(sampler_of(corruptions), 6, file, {"model": "a"})
    assert [sample.to_json() for sample in rest] == [sample.to_json() for sample in whole]
    assert file.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_file_of_another_model_or_kind_is_refused(tmp_path):
    file = tmp_path / "results.jsonl"
    collect_samples(sampler_of(), 1, file, {"model": "a"})
    before = file.read_bytes()
    with pytest.raises(MaskSAMError, match="another model"):
        collect_samples(sampler_of(), 1, file, {"model": "b"})
    assert file.read_bytes() == before
    file.write_text(json.dumps([1, 2]) + "\n")
    with pytest.raises(MaskSAMError):
        collect_samples(sampler_of(), 1, file, {"model": "a"})
    file.write_bytes(b"\xff\xfe no text\n")
    with pytest.raises(MaskSAMError, match="damaged"):
        collect_samples(sampler_of(), 1, file, {"model": "a"})


def test_a_file_of_one_unfinished_line_is_continued_only_if_it_is_the_heading(tmp_path):
    file = tmp_path / "results.jsonl"
    (whole,) = collect_samples(sampler_of(), 1, file, {"model": "a"})
    written = file.read_bytes()
    file.write_bytes(written[:20])  # the process was killed
    (again,) = collect_samples(sampler_of(), 1, file, {"model": "a"})
    assert again.to_json() == whole.to_json() and file.read_bytes() == written
    for content in ("precious", "12"):
        file.write_text(content)
        with pytest.raises(MaskSAMError):
            collect_samples(sampler_of(), 1, file, {"model": "a"})
        assert file.read_text() == content


def synthesized(values: np.ndarray, plan: Plan) -> LabelledCase:
    """Return a case synthesised from label values with axes superior, anterior, right."""
    volume = Volume(label_indices(values), np.diag([1.0, 1.0, 1.0, 1.0]))
    case = LabelledCase("head", (volume,), np.zeros(volume.shape, np.uint8))
    return SynthesizedCases([case], label_scheme(), plan).case("head", np.random.default_rng(1))


@pytest.mark.parametrize("orientation", ["SAR", "LIP", "PSL"])
def test_a_synthesised_image_shows_the_structures_where_they_are(orientation: str):
    spacing = dict(zip(orientation, (2.0, 1.5, 1.0), strict=True))
    plan = Plan(orientation, (2.0, 1.5, 1.0), (8, 12, 12), (ChannelNormalization(),), ("MR",))
    case = synthesized(head(), plan)
    (image,) = case.channels
    by_axis = [
        next(mm for code, mm in spacing.items() if code in axis) for axis in ("RL", "AP", "SI")
    ]
    assert image.spacing == pytest.approx(by_axis) and (np.diag(image.ijk_to_ras) > 0).all()
    left, middle, right = (np.argwhere(case.labelmap == value).mean(0)[2] for value in (1, 2, 3))
    assert left < middle < right
    # The image shows the structures where the labelmap has them.
    inside, outside = case.labelmap > 0, case.labelmap == 0
    assert abs(image.array[inside].mean() - image.array[outside].mean()) > 0.5


def test_a_labelmap_without_the_structures_gives_an_image_without_them():
    skin = np.where(head() == 90, 90, 0)
    plan = Plan("SAR", (2.0, 2.0, 2.0), (8, 8, 8), (ChannelNormalization(),), ("MR",))
    case = synthesized(skin, plan)
    assert np.isfinite(case.channels[0].array).all() and not case.labelmap.any()
