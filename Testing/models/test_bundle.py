"""Bundles: verified when read, complete when written, and never unpickled."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore import models
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import sha256
from MaskSAMCore.models.bundle import WEIGHTS
from MaskSAMCore.models.catalog import DESCRIPTION
from Testing.helpers.json_documents import changed, read_or_refuse
from Testing.helpers.networks import SMALL_SAM
from Testing.models.helpers import LABELS, PLAN, save


def test_a_bundle_comes_back_as_it_was_saved(tmp_path: Path):
    bundle, model = save(tmp_path / "small")
    again = models.load_bundle(tmp_path / "small")
    assert again == bundle
    assert again.labels == LABELS
    assert again.plan == PLAN
    assert again.inference.largest_component == {1}
    assert again.inference.mirror == (0,)
    images = torch.randn(1, 1, 5, 16, 20)
    with torch.no_grad():
        expected = model.eval()(images).mask_logits
        found = again.build()(images).mask_logits
    # Weights are stored in half precision.
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    assert not any(p.requires_grad for p in again.build().parameters())


def test_a_bundle_is_not_written_over_another(tmp_path: Path):
    save(tmp_path / "small")
    with pytest.raises(MaskSAMError, match="exists"):
        save(tmp_path / "small")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small"]


def test_replaced_weights_are_refused(tmp_path: Path):
    save(tmp_path / "small")
    path = tmp_path / "small" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(MaskSAMError, match="damaged or was replaced"):
        models.load_bundle(tmp_path / "small")


def test_a_pickle_in_place_of_weights_is_never_opened(tmp_path: Path):
    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harmed",))

    save(tmp_path / "small")
    path = tmp_path / "small" / WEIGHTS
    path.write_bytes(pickle.dumps(Harmful()))
    description = json.loads((tmp_path / "small" / DESCRIPTION).read_text(encoding="utf-8"))
    description["weights_sha256"] = sha256(path)
    (tmp_path / "small" / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(MaskSAMError, match="safetensors"):
        models.load_bundle(tmp_path / "small").build()
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "newer MaskSAM"),
        ({"format_version": None}, "does not describe a MaskSAM model"),
        ({"weights_sha256": None}, "does not record the SHA-256"),
        ({"labels": []}, "0 labels for 2 classes"),
        ({"plan": {}}, "damaged"),
        ({"architecture": {"sam": {}}}, "damaged"),
    ],
)
def test_a_damaged_description_is_refused_in_one_line(tmp_path: Path, change: dict, message: str):
    save(tmp_path / "small")
    path = tmp_path / "small" / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}))
    with pytest.raises(MaskSAMError, match=message) as report:
        models.load_bundle(tmp_path / "small")
    assert "\n" not in str(report.value)


def test_weights_that_do_not_fit_the_network_are_named(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    other = dataclasses.replace(bundle, config=bundle.config.replace(depth_position=False))
    with pytest.raises(MaskSAMError, match=r"unexpected encoder\.depth_position"):
        other.build()


def test_a_bundle_with_a_frozen_sam_does_not_include_it_and_needs_its_checkpoint(tmp_path: Path):
    frozen = dataclasses.replace(SMALL_SAM, name="vit_b", frozen=True)
    bundle, model = save(tmp_path / "adapters", "adapters", sam=frozen)
    with pytest.raises(MaskSAMError, match="masksam models download sam_vit_b"):
        bundle.build()
    checkpoint = tmp_path / "sam.pth"
    torch.save(model.sam.state_dict(), checkpoint)
    built = bundle.build(checkpoint)
    assert torch.equal(built.sam.image_encoder.pos_embed, model.sam.image_encoder.pos_embed)
    whole, _ = save(tmp_path / "whole", "whole")
    assert (bundle.folder / WEIGHTS).stat().st_size < (whole.folder / WEIGHTS).stat().st_size


def test_an_incomplete_bundle_is_refused(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    (bundle.folder / WEIGHTS).unlink()
    with pytest.raises(MaskSAMError, match=r"weights\.safetensors is missing"):
        models.load_bundle(bundle.folder)
    shutil.rmtree(bundle.folder)
    with pytest.raises(MaskSAMError, match="no model named"):
        models.open_model(bundle.folder)


def test_two_labels_of_one_value_are_refused(tmp_path: Path):
    save(tmp_path / "small")
    path = tmp_path / "small" / DESCRIPTION
    values = json.loads(path.read_text(encoding="utf-8"))
    values["labels"][1]["value"] = 1
    path.write_text(json.dumps(values))
    with pytest.raises(MaskSAMError, match="two labels have one value"):
        models.load_bundle(tmp_path / "small")


def test_weights_of_another_shape_are_named(tmp_path: Path):
    bundle, _ = save(tmp_path / "small")
    other = dataclasses.replace(bundle, config=bundle.config.replace(head_channels=24))
    with pytest.raises(MaskSAMError, match=r"do not fit: .* has shape"):
        other.build()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("any") / "small")[0].folder


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_description_is_read_or_refused(data: st.DataObject, small: Path):
    original = (small / DESCRIPTION).read_text(encoding="utf-8")
    document = data.draw(changed(json.loads(original)))
    try:
        read_or_refuse(document, small / DESCRIPTION, lambda path: models.load_bundle(path.parent))
    finally:
        (small / DESCRIPTION).write_text(original, encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"head_channels": 10**9},
        {"window": [4, 10**8, 10**8]},
        {"head_channels": 2.5},
        {"queries": "8"},
        {"adapter_ratio": float("nan")},
        {"adapter_ratio": -1},
        {"generator_channels": [8, 8]},
        {"stem_channels": [0, 8]},
        {"prompts": "any"},
        {"sam": {"depth": 10**9}},
        {"sam": {"embed_dim": 10**9, "num_heads": 1}},
        {"sam": {"num_heads": 0}},
        {"sam": {"decoder_heads": 7}},
        {"sam": {"global_attn_indexes": [10**6]}},
    ],
)
def test_a_damaged_configuration_is_refused_before_memory_is_asked_for(
    changes: dict[str, Any], small: Path
):
    original = (small / DESCRIPTION).read_text(encoding="utf-8")
    values = json.loads(original)
    sam = values["architecture"]["sam"] | changes.get("sam", {})
    values["architecture"] |= {**changes, "sam": sam}
    (small / DESCRIPTION).write_text(json.dumps(values), encoding="utf-8")
    try:
        with pytest.raises(MaskSAMError):
            models.load_bundle(small).build()
    finally:
        (small / DESCRIPTION).write_text(original, encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": {"spacing": [1, float("nan"), 1]}}, "spacing of a plan"),
        ({"plan": {"orientation": "XYZ"}}, "orientation 'XYZ'"),
        ({"plan": {"normalization": []}}, "normalization of a plan"),
        ({"plan": {"channels": ["T1", "T2"]}}, "another number of channels"),
        ({"mirror": [3]}, "mirrors axes"),
        ({"name": None}, "'name' is not a text"),
    ],
)
def test_parts_of_a_description_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, small: Path
):
    original = (small / DESCRIPTION).read_text(encoding="utf-8")
    values = json.loads(original)
    plan = values["plan"] | changes.get("plan", {})
    (small / DESCRIPTION).write_text(json.dumps({**values, **changes, "plan": plan}))
    try:
        with pytest.raises(MaskSAMError, match=message):
            models.load_bundle(small)
    finally:
        (small / DESCRIPTION).write_text(original, encoding="utf-8")
