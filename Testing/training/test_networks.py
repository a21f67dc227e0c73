"""MA-SAM and the U-Net through the whole product: trained, resumed, exported, segmenting."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskSAMCore.data.planning import case_fingerprint, make_plan, with_ct_window
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.geometry import Box
from MaskSAMCore.inference import Segmenter
from MaskSAMCore.io import read_volume
from MaskSAMCore.modeling import MASam, MASamConfig, build_model
from MaskSAMCore.presets.masam import MASAM_B, MASAM_TINY
from MaskSAMCore.research.presets import UNET
from MaskSAMCore.research.unet.config import UNetConfig
from MaskSAMCore.training.export import export_run
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.losses.common import cross_entropy_and_dice
from MaskSAMCore.training.losses.masam import LossSettings, sample_boxes, training_loss
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.run_folder import BEST, TrainingRecord
from Testing.helpers.generated import write_dataset
from Testing.helpers.networks import FROZEN_SMALL_SAM, small_masam_config
from Testing.helpers.short_run import QUICK, SMALL, dice_of
from Testing.helpers.threshold_model import volume_of

MASAM = {"window": (5, 28, 32), "sam": SMALL["sam"], "rank": 4, "adapter_dim": 16}
SMALL_UNET = {"window": (16, 32, 32), "features": 8}
SHORT = {**QUICK, "iterations": 3}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def masam(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("masam") / "run"
    options = FitOptions(dataset, run, preset=MASAM_TINY, device="cpu", workers=0)
    fit(options, lambda _: None, MASAM, QUICK)
    return run


@pytest.fixture(scope="module")
def unet(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unet") / "run"
    options = FitOptions(dataset, run, preset=UNET, device="cpu", workers=0)
    fit(options, lambda _: None, SMALL_UNET, {"iterations": 300, "augmentation": 0.3})
    return run


@pytest.mark.parametrize("system", ["masam", "unet"])
def test_training_reaches_a_dice_that_an_untrained_model_cannot(
    system: str, dataset: Path, request: pytest.FixtureRequest
):
    run = request.getfixturevalue(system)
    assert dice_of(run, dataset) > 0.7
    assert dice_of(run, dataset, train=False) < 0.4


def test_a_masam_run_keeps_its_five_slices_and_its_network(masam: Path):
    record = TrainingRecord.load(masam)
    assert isinstance(record.config, MASamConfig)
    assert record.config.num_classes == 2 and record.config.window[0] == 5
    assert record.plan.window == record.config.window
    assert json.loads((masam / "run.json").read_text())["config"]["network"] == "masam"


def test_a_unet_run_fits_its_stages_to_the_dataset(unet: Path):
    config = TrainingRecord.load(unet).config
    assert isinstance(config, UNetConfig)
    assert config.window == TrainingRecord.load(unet).plan.window
    assert len(config.strides) >= 3


@pytest.mark.parametrize("system", ["masam", "unet"])
def test_an_exported_model_of_another_kind_is_picked_like_any(
    system: str, dataset: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    run = request.getfixturevalue(system)
    bundle = export_run(run, tmp_path / "model")
    assert bundle.config == TrainingRecord.load(run).config
    segmenter = Segmenter.from_model(tmp_path / "model", device="cpu")
    case = TrainingRecord.load(run).split["val"][0]
    volume = read_volume(dataset / f"imagesTr/{case}_0000.nii.gz")
    truth = read_volume(dataset / f"labelsTr/{case}.nii.gz").array
    with segmenter.open(volume) as session:
        found = session.segment().labelmap
        assert 2 * ((found == 1) & (truth == 1)).sum() > 0.6 * (
            (found == 1).sum() + (truth == 1).sum()
        )
        k, j, i = np.nonzero(truth == 1)
        box = Box(
            "Bright", (i.min(), j.min(), k.min() + 2), (i.max() + 1, j.max() + 1, k.max() - 1)
        )
        held = session.segment(boxes=[box]).labelmap
    inside = np.zeros(truth.shape, bool)
    inside[box.slices()] = True
    assert (held[inside] == 1).any() and not (held[~inside] == 1).any()
    np.testing.assert_array_equal(held == 2, found == 2)


def test_a_masam_training_goes_on(masam: Path, dataset: Path, tmp_path: Path):
    import shutil

    run = Path(shutil.copytree(masam, tmp_path / "run"))
    values = json.loads((run / "run.json").read_text())
    values["settings"]["iterations"] += 2
    (run / "run.json").write_text(json.dumps(values))
    fit(FitOptions(dataset, run, resume=True, device="cpu", workers=0), lambda _: None)
    assert TrainingRecord.load(run).preset == "masam_tiny"


def test_a_frozen_sam_is_not_changed_by_training_nor_kept_in_the_bundle(
    dataset: Path, tmp_path: Path
):
    changes = {**MASAM, "sam": dataclasses.replace(SMALL["sam"], name="vit_b", frozen=True)}
    small = MASamConfig(2, window=(5, 28, 32), sam=changes["sam"], pixels=None)
    torch.manual_seed(3)
    sam = build_model(small).sam
    checkpoint = tmp_path / "sam.pth"
    torch.save(sam.state_dict(), checkpoint)
    run = tmp_path / "run"
    options = FitOptions(
        dataset, run, preset=MASAM_TINY, device="cpu", workers=0, sam_checkpoint=checkpoint
    )
    fit(options, lambda _: None, changes, {**SHORT, "learning_rate": 0.01, "warm_up": 0})
    bundle = export_run(run, tmp_path / "model")
    model = bundle.build(checkpoint)
    assert isinstance(model, MASam)
    for name, value in model.sam.image_encoder.state_dict().items():
        assert torch.equal(value, sam.image_encoder.state_dict()[name]), name
    decoder = model.sam.mask_decoder.transformer.state_dict()
    before = sam.mask_decoder.transformer.state_dict()
    assert any(
        not torch.equal(value.half(), before[name].half()) for name, value in decoder.items()
    )
    with pytest.raises(MaskSAMError, match="needs SAM vit_b"):
        bundle.build()


def test_the_schedule_of_masam_is_the_published_one():
    settings = MASAM_B.training
    model = build_model(small_masam_config(sam=FROZEN_SMALL_SAM))
    module = MaskSAMModule(model, settings, None, 0)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert settings.warm_up == 250 and settings.loss.cross_entropy == 0.2
    assert settings.loss.dice == 0.8
    module = MaskSAMModule(model, settings.replace(warm_up=0, iterations=1000), None, 0)
    type(module).global_step = property(lambda _: 500)  # type: ignore[method-assign]
    try:
        assert module.learning_rate() == pytest.approx(8e-4 * 0.5**7)
    finally:
        del type(module).global_step


def test_ct_is_clipped_to_the_abdominal_window_and_other_channels_are_not():
    random = np.random.default_rng(0)
    label = np.ones((6, 8, 8), np.uint8)
    ct = volume_of(random.normal(0, 400, label.shape).astype(np.float32))
    mr = volume_of(random.normal(0, 400, label.shape).astype(np.float32))
    prints = [case_fingerprint([ct, mr], label, 0)]
    plan = make_plan(prints, ["CT", "MR"], 4, (5, 8, 8))
    changed = with_ct_window(plan, prints, (-200.0, 250.0))
    how = changed.normalization[0]
    assert (how.lower, how.upper) == (-200.0, 250.0)
    clipped = np.clip(ct.array, -200, 250)
    assert how.mean == pytest.approx(clipped.mean(), abs=1) and how.std == pytest.approx(
        clipped.std(), abs=1
    )
    assert changed.normalization[1] == plan.normalization[1]


def test_boxes_of_training_are_those_of_a_whole_stack():
    labels = torch.zeros(2, 5, 10, 20, dtype=torch.long)
    labels[0, 1, 2:4, 4:8] = 2
    labels[0, 3, 5:6, 10:12] = 2
    settings = LossSettings(box_share=1.0, box_jitter=0.0)
    boxes, drawn = sample_boxes(labels, 2, settings, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [2, 0]  # nothing to draw a box around in the second
    torch.testing.assert_close(boxes[0], torch.tensor([0.2, 0.2, 0.6, 0.6]))
    never = LossSettings(box_share=0.0)
    assert sample_boxes(labels, 2, never, None)[1].tolist() == [0, 0]


def test_the_loss_of_masam_weighs_and_orders_prompted_and_automatic_windows_alike():
    torch.manual_seed(0)
    model = build_model(small_masam_config()).eval()
    images = torch.randn(3, 1, 5, 16, 20)
    labels = torch.zeros(3, 5, 16, 20, dtype=torch.long)
    labels[0, :, :4], labels[1, :, 8:], labels[2, :, :, 10:] = 1, 2, 1
    settings = LossSettings(box_share=0.5, box_jitter=0.0)
    with torch.no_grad():
        for seed in range(4):
            loss, _ = training_loss(
                model, images, labels, settings, torch.Generator().manual_seed(seed)
            )
            boxes, drawn = sample_boxes(labels, 2, settings, torch.Generator().manual_seed(seed))
            embedding = model.encode(images)
            logits = model.run_decoder(embedding)
            for b in (drawn > 0).nonzero()[:, 0].tolist():
                one = type(embedding)(embedding.neck[b : b + 1])
                logits[b] = model.run_decoder(one, boxes[b : b + 1], drawn[b : b + 1])[0]
            entropy, dice = cross_entropy_and_dice(logits, labels)
            assert float(loss) == pytest.approx(0.2 * float(entropy) + 0.8 * float(dice), abs=1e-5)


def test_perfect_logits_cost_nothing_and_padding_does_not_count():
    labels = torch.randint(0, 3, (1, 2, 6, 6))
    logits = 50.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    entropy, dice = cross_entropy_and_dice(logits, labels)
    assert float(entropy) < 1e-6 and float(dice) < 1e-3
    padded = labels.clone()
    padded[:, 0] = -1
    wrong = logits.clone()
    wrong[:, :, 0] = logits[:, :, 0].flip(1)
    entropy, dice = cross_entropy_and_dice(wrong, padded)
    assert float(entropy) < 1e-6 and float(dice) < 1e-3
    assert float(cross_entropy_and_dice(wrong, labels)[0]) > 1


def test_a_change_that_does_not_fit_the_network_is_refused(tmp_path: Path):
    options = FitOptions(tmp_path / "data", tmp_path / "run", MASAM_TINY, device="cpu")
    with pytest.raises(MaskSAMError, match="preset 'masam_tiny' cannot be changed so"):
        fit(options, lambda _: None, {"queries": 3})
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_network_whose_package_is_absent_is_told(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import sys

    bundle = export_run(unet, tmp_path / "model")
    name = "dynamic_network_architectures.architectures.unet"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MaskSAMError, match=r"cannot be built.*pip install masksam\[train\]"):
        bundle.build()
    assert (unet / BEST).is_file()
