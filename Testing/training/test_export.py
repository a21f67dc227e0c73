"""Export of a run as a model bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from MaskSAMCore import models
from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Volume
from MaskSAMCore.inference import MaskSegmenter, Segmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.io.files import sha256
from MaskSAMCore.labels import Label
from MaskSAMCore.modeling import build_model
from MaskSAMCore.models import InferenceSettings
from MaskSAMCore.models.catalog import DESCRIPTION
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.run_folder import (
    BEST,
    LAST,
    RUN_FILE,
    TrainingRecord,
    load_weights,
    save_weights,
)
from Testing.helpers.networks import FROZEN_SMALL_SAM, small_masksam_config
from Testing.helpers.short_run import VALUES
from Testing.helpers.threshold_model import plan_for


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@contextmanager
def full_disk(largest_file: int) -> Iterator[None]:
    """Limit the size of files in bytes, which to the program looks like a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def change_validation(run: Path, **values: object) -> None:
    """Change the recommendations of a run's validation; None removes one."""
    path = run / "validation.json"
    known = {**json.loads(path.read_text(encoding="utf-8")), **values}
    known = {key: value for key, value in known.items() if value is not None}
    path.write_text(json.dumps(known), encoding="utf-8")


def test_a_bundle_segments_like_the_weights_of_its_run_with_the_values_of_the_dataset(
    run: Path, dataset: Path, tmp_path: Path
):
    change_validation(run, largest_component=[300])
    bundle = export_run(run, tmp_path / "model")
    assert bundle.inference.largest_component == {300}
    assert [(label.name, label.value) for label in bundle.labels] == list(VALUES.items())
    record = TrainingRecord.load(run)
    model = load_weights(record, run / BEST)
    with torch.no_grad():
        # A bundle stores matrices in half precision.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())
    # Two patients side by side have two components of each class.
    one = read_volume(dataset / "imagesTr/case_00_0000.nii.gz")
    volume = Volume(np.concatenate([one.array, one.array], axis=1), one.ijk_to_ras)

    def found(largest: frozenset[int]) -> np.ndarray:
        labels = [Label(value, name, (1, 1, 1)) for name, value in VALUES.items()]
        segmenter = MaskSegmenter(
            model,
            record.plan,
            labels,
            device="cpu",
            inference=InferenceSettings(largest, bundle.inference.background_weight),
        )
        return segmenter.segment(volume).labelmap

    exported = Segmenter.from_model(tmp_path / "model", device="cpu").segment(volume).labelmap
    assert set(np.unique(exported)) == {0, *VALUES.values()}
    np.testing.assert_array_equal(exported, found(frozenset({300})))
    assert (exported != found(frozenset())).any()


def test_a_card_overrides_the_largest_components_of_validation(run: Path, tmp_path: Path):
    change_validation(run, largest_component=[300])
    bundle = export_run(run, tmp_path / "one", {"largest_component": [10]})
    assert bundle.inference.largest_component == {10}
    bundle = export_run(run, tmp_path / "none", {"largest_component": []})
    assert bundle.inference.largest_component == set()


def test_a_run_of_an_older_version_without_values_and_components_is_exported(
    run: Path, tmp_path: Path
):
    change_validation(run, largest_component=None)
    values = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    del values["values"], values["settings"]["epsilon"]
    (run / RUN_FILE).write_text(json.dumps(values), encoding="utf-8")
    bundle = export_run(run, tmp_path / "model")
    assert [label.value for label in bundle.labels] == [1, 2]
    assert bundle.inference.largest_component == set()


def test_a_bundle_has_the_background_weight_of_the_card_or_of_validation(run: Path, tmp_path: Path):
    change_validation(run, background_weight=1.5)
    export_run(run, tmp_path / "model")
    assert models.load_bundle(tmp_path / "model").inference.background_weight == 1.5
    segmenter = Segmenter.from_model(tmp_path / "model", device="cpu")
    assert segmenter.settings.inference.background_weight == 1.5
    export_run(run, tmp_path / "other", {"background_weight": 1.2})
    assert models.load_bundle(tmp_path / "other").inference.background_weight == 1.2


def test_a_card_may_let_intensities_count(run: Path, tmp_path: Path):
    assert export_run(run, tmp_path / "plain").inference.intensity_weight == 0.0
    export_run(run, tmp_path / "model", {"intensity_weight": 0.4})
    segmenter = Segmenter.from_model(tmp_path / "model", device="cpu")
    assert segmenter.settings.inference.intensity_weight == 0.4
    for weight in (-0.1, 1.5, None, True, float("nan")):
        with pytest.raises(MaskSAMError, match="card cannot be used: intensity_weight"):
            export_run(run, tmp_path / "model", {"intensity_weight": weight}, overwrite=True)
    path = tmp_path / "model" / DESCRIPTION
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "intensity_weight": 2}), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="intensity_weight 2 is not a number between 0 and 1"):
        models.load_bundle(tmp_path / "model")


def test_a_card_may_let_windows_overlap_less(run: Path, tmp_path: Path):
    assert export_run(run, tmp_path / "plain").inference.window_overlap == 0.5
    export_run(run, tmp_path / "model", {"window_overlap": 0.25})
    segmenter = Segmenter.from_model(tmp_path / "model", device="cpu")
    assert segmenter.settings.inference.window_overlap == 0.25
    with pytest.raises(
        MaskSAMError, match=r"window_overlap 0\.8 is not a number between 0 and 0\.75"
    ):
        export_run(run, tmp_path / "model", {"window_overlap": 0.8}, overwrite=True)


def test_a_card_states_the_classes_that_fill_the_skull_by_their_new_names(
    run: Path, tmp_path: Path
):
    assert export_run(run, tmp_path / "plain").intracranial == ()
    every = export_run(run, tmp_path / "every", {"intracranial": "all"})
    assert every.intracranial == ("Bright", "Dark")
    renamed = {"labels": {"Dark": {"name": "lobe"}}, "intracranial": ["lobe"]}
    assert export_run(run, tmp_path / "one", renamed).intracranial == ("lobe",)
    assert Segmenter.from_model(tmp_path / "one", device="cpu").intracranial == ("lobe",)


def test_the_folder_of_a_training_predicts_like_its_bundle(
    run: Path, dataset: Path, tmp_path: Path
):
    export_run(run, tmp_path / "model")
    image = str(dataset / "imagesTr/case_00_0000.nii.gz")
    found = []
    for name, given in {"bundle": ["model"], "run": ["run"], "both": ["run", "model"]}.items():
        target = tmp_path / f"{name}.nii.gz"
        options = [part for one in given for part in ("-m", str(tmp_path / one))]
        assert main(["predict", image, "-o", str(target), "--device", "cpu", *options]) == 0
        found.append(read_volume(target).array)
    assert set(np.unique(found[0])) == {0, *VALUES.values()}
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_the_last_weights_are_exported_without_what_validation_chose(run: Path, tmp_path: Path):
    change_validation(run, background_weight=1.5, largest_component=[300])
    weights = load_file(run / BEST)
    name = next(name for name, value in weights.items() if value.ndim == 1)
    save_file({**weights, name: weights[name] + 1}, run / LAST)
    export_run(run, tmp_path / "last", last=True)
    bundle = models.load_bundle(tmp_path / "last")
    assert bundle.inference == InferenceSettings(mirror=bundle.inference.mirror)
    exported = load_file(tmp_path / "last/weights.safetensors")[name]
    torch.testing.assert_close(exported, weights[name] + 1)
    assert bundle.card["training"]["weights"] == "last"


@pytest.mark.parametrize("weight", [0, None, "big", float("nan")])
def test_a_card_with_a_wrong_background_weight_leaves_the_bundle_unchanged(
    weight: object, run: Path, tmp_path: Path
):
    export_run(run, tmp_path / "model", {"background_weight": 1.2})
    with pytest.raises(MaskSAMError, match="card cannot be used: background_weight"):
        export_run(run, tmp_path / "model", {"background_weight": weight}, overwrite=True)
    assert models.load_bundle(tmp_path / "model").inference.background_weight == 1.2


@pytest.mark.parametrize("content", [[1], {"field_of_view_mm": "large"}])
def test_a_damaged_fingerprint_is_one_clear_error(content: object, run: Path, tmp_path: Path):
    (run / "fingerprint.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(MaskSAMError, match=r"fingerprint\.json is damaged"):
        export_run(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_no_bundle_is_not_replaced(run: Path, tmp_path: Path):
    notes = tmp_path / "project" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("precious")
    with pytest.raises(MaskSAMError, match=r"project is not replaced.*no masksam\.json"):
        export_run(run, tmp_path / "project", overwrite=True)
    assert notes.read_text() == "precious"


def test_a_bundle_takes_only_the_sam_that_it_was_trained_with(tmp_path: Path):
    config = small_masksam_config(sam=dataclasses.replace(FROZEN_SMALL_SAM, name="vit_b"))
    right, wrong = tmp_path / "sam.pth", tmp_path / "other.pth"
    for path in (right, wrong):
        torch.save(build_model(config).sam.state_dict(), path)
    labels = (Label(1, "One", (1, 0, 0)), Label(2, "Two", (0, 1, 0)))
    model = build_model(config)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("sam.")}
    bundle = models.save_bundle(
        tmp_path / "model",
        "beside",
        "Beside",
        state,
        config,
        plan_for(window=config.window),
        labels,
        sam_sha256=sha256(right),
    )
    assert bundle.sam_sha256 == sha256(right)
    bundle.build(right)
    with pytest.raises(MaskSAMError, match=f"{sha256(wrong)}, and must be {sha256(right)}"):
        bundle.build(wrong)
    with pytest.raises(MaskSAMError, match="cannot be read"):
        bundle.build(tmp_path / "absent.pth")
    # Bundles of older versions take any SAM that fits.
    path = tmp_path / "model" / DESCRIPTION
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["sam_sha256"]
    path.write_text(json.dumps(values), encoding="utf-8")
    older = models.load_bundle(tmp_path / "model")
    assert older.sam_sha256 is None
    older.build(wrong)


def test_a_bundle_with_a_wrong_background_weight_is_refused(run: Path, tmp_path: Path):
    export_run(run, tmp_path / "model")
    path = tmp_path / "model" / DESCRIPTION
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "background_weight": 0}), encoding="utf-8")
    with pytest.raises(MaskSAMError, match="background_weight"):
        models.load_bundle(tmp_path / "model")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"labels": []}, "must map class names to objects"),
        ({"labels": {"Bright": 1}}, "must map class names to objects"),
        ({"labels": {"Bright": {"color": "red"}}}, "label 'Bright' cannot be used"),
        ({"largest_component": [1]}, "values of no class"),
        ({"largest_component": 10}, "card cannot be used"),
        ({"spacing_mm": 1.0}, "card cannot be used"),
        ({"field_of_view_mm": "large"}, "card cannot be used"),
        ({"intracranial": True}, "'intracranial' must be \"all\" or a list of class names"),
        ({"intracranial": ["Bright", "Lobe"]}, "'intracranial' has names of no class: Lobe"),
    ],
)
def test_a_card_of_another_kind_is_refused(
    card: dict[str, object], message: str, run: Path, tmp_path: Path
):
    with pytest.raises(MaskSAMError, match=message):
        export_run(run, tmp_path / "new" / "model", card)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_one_clear_error_and_leaves_no_weights(run: Path, tmp_path: Path):
    model = load_weights(TrainingRecord.load(run), run / BEST)
    kept = (run / BEST).read_bytes()
    with full_disk(largest_file=10_000):
        with pytest.raises(MaskSAMError, match=r"^cannot write .*model: file too large$"):
            export_run(run, tmp_path / "model")
        with pytest.raises(MaskSAMError, match=r"^cannot write .*safetensors: file too large$"):
            save_weights(model, run / BEST, {})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (run / BEST).read_bytes() == kept and not list(run.glob(".*"))
