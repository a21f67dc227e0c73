"""Training for real: it learns, goes on after a kill, works with two processes, and repeats."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from MaskSAMCore.cli import main
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import build_model
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.averaging import AveragedWeights
from MaskSAMCore.training.callbacks import CHECKPOINTS, newest_checkpoint
from MaskSAMCore.training.data import prepare_material
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.run_folder import BEST, TrainingRecord
from Testing.helpers.generated import write_dataset
from Testing.helpers.networks import small_masksam_config
from Testing.helpers.paths import ROOT
from Testing.helpers.short_run import QUICK, SHORT, SMALL, dice_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    options = FitOptions(dataset, run, TINY, device="cpu", workers=0, report_seconds=2)
    lines: list[str] = []
    fit(options, lines.append, SMALL, QUICK)
    assert any("left" in line and "iteration" in line for line in lines)
    return run


def test_training_reaches_a_dice_that_an_untrained_model_cannot(trained: Path, dataset: Path):
    assert dice_of(trained, dataset) > 0.8
    assert dice_of(trained, dataset, train=False) < 0.4
    assert json.loads((trained / "validation.json").read_text(encoding="utf-8"))["dice"] > 0.8


def test_a_run_leaves_its_record_its_logs_and_its_curves(trained: Path):
    record = TrainingRecord.load(trained)
    assert record.classes == ("Bright", "Dark")
    assert record.seed == 0
    assert record.settings.iterations == 160
    assert set(record.split) == {"train", "val"}
    rows = list(csv.DictReader((trained / "logs/csv/version_0/metrics.csv").open()))
    losses = [float(row["loss"]) for row in rows if row.get("loss")]
    assert losses[-1] < losses[0]
    assert list((trained / "logs/tensorboard").rglob("events.out.tfevents.*"))
    assert (trained / "curves.png").stat().st_size > 5000


def test_an_existing_run_is_neither_overwritten_nor_resumed_from_nothing(
    trained: Path, dataset: Path, tmp_path: Path
):
    with pytest.raises(MaskSAMError, match="already holds a training: add --resume"):
        fit(FitOptions(dataset, trained, TINY))
    with pytest.raises(MaskSAMError, match="holds no training to resume"):
        fit(FitOptions(dataset, tmp_path / "none", resume=True))


def test_what_cannot_work_is_told_before_the_dataset_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """There is no dataset at all: what is complained of came first."""
    data, bad = tmp_path / "none", tmp_path / "sam.pth"
    bad.write_bytes(b"no checkpoint at all")
    torch.save({"some.weight": torch.ones(3)}, tmp_path / "another.pth")
    for more, message in (
        (["--preset", "nonsense"], "unknown preset 'nonsense': choose one of tiny, brain"),
        (["--preset", "acdc"], "beside a frozen SAM: give its official weights with --sam-check"),
        (["--preset", "acdc", "--sam-checkpoint", str(tmp_path / "absent.pth")], "cannot be read"),
        (["--preset", "acdc", "--sam-checkpoint", str(bad)], "not a readable SAM checkpoint"),
        (["--preset", "acdc", "--sam-checkpoint", str(tmp_path / "another.pth")], "does not fit"),
        (["--orientation", "RRA"], "orientation 'RRA' must name"),
        (["--device", "warp"], "device 'warp' is not available"),
    ):
        arguments = ["train", str(data), "-o", str(tmp_path / "run"), *more]
        assert main(arguments) == 2
        error = capfd.readouterr().err.strip()
        assert error.startswith("masksam: error: ")
        assert error.count("\n") == 0
        assert message in error
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_longer_finite_is_told_in_words(dataset: Path, tmp_path: Path):
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0)
    with pytest.raises(MaskSAMError, match=r"the loss is not finite at iteration [1-5]") as report:
        fit(options, lambda _: None, SMALL, {**SHORT, "learning_rate": 1e30, "warm_up": 0})
    assert "\n" not in str(report.value)


def test_training_goes_on_after_a_kill(dataset: Path, tmp_path: Path):
    """A real process, killed for real between checkpoints."""
    run = tmp_path / "run"
    script = tmp_path / "go.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from MaskSAMCore.presets.small import TINY\n"
        "from MaskSAMCore.training.fit import FitOptions, fit\n"
        "from Testing.helpers.short_run import QUICK, SMALL\n"
        "if __name__ == '__main__':\n"
        "    fit(FitOptions(Path(sys.argv[1]), Path(sys.argv[2]), TINY, device='cpu', workers=0,"
        " checkpoint_seconds=0.5), config_changes=SMALL,"
        " settings_changes={**QUICK, 'iterations': 100000})\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), str(dataset), str(run)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 600
        while not all((run / slot).is_file() for slot in CHECKPOINTS):
            assert process.poll() is None, "the training ended by itself"
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    kept = newest_checkpoint(run)
    assert kept is not None
    before = torch.load(kept, weights_only=True)
    reached = before["global_step"]
    assert reached > 0
    # The run's own record says 100000 iterations; a time budget ends it here.
    budget = before["masksam"]["minutes"] + 0.1
    fit(FitOptions(dataset, run, device="cpu", workers=0, resume=True, max_minutes=budget))
    after = torch.load(newest_checkpoint(run), weights_only=True)
    assert after["global_step"] > reached
    assert after["masksam"]["restarts"] == 1
    assert after["masksam"]["averaged"]["steps"] == after["global_step"]
    assert (run / BEST).is_file()


def test_a_damaged_checkpoint_falls_back_to_the_other_one(tmp_path: Path):
    torch.save({"a": torch.ones(3)}, tmp_path / CHECKPOINTS[0])
    (tmp_path / CHECKPOINTS[1]).write_bytes((tmp_path / CHECKPOINTS[0]).read_bytes()[:200])
    os.utime(tmp_path / CHECKPOINTS[0], (1, 1))
    assert newest_checkpoint(tmp_path) == tmp_path / CHECKPOINTS[0]
    (tmp_path / CHECKPOINTS[0]).write_bytes(b"")
    assert newest_checkpoint(tmp_path) is None


def test_two_processes_train_together_and_stay_alike(dataset: Path, tmp_path: Path):
    """Each draws its own windows: their weights agree only where gradients were averaged."""
    run, script = tmp_path / "run", tmp_path / "go.py"
    script.write_text(
        "import hashlib, json, sys, time\n"
        "from pathlib import Path\n"
        "from MaskSAMCore.cli.train import Report\n"
        "from MaskSAMCore.presets.small import TINY\n"
        "from MaskSAMCore.training.fit import FitOptions, fit\n"
        "from MaskSAMCore.training.module import MaskSAMModule\n"
        "from Testing.helpers.short_run import SHORT, SMALL\n"
        "def digest(tensors):\n"
        "    whole = hashlib.sha256()\n"
        "    for tensor in tensors:\n"
        "        whole.update(tensor.detach().numpy().tobytes())\n"
        "    return whole.hexdigest()\n"
        "def step(self, batch, index, plain=MaskSAMModule.training_step):\n"
        "    self.drawn = digest([batch[0]])\n"
        "    return plain(self, batch, index)\n"
        "def end(self):\n"
        "    values = {'steps': self.global_step, 'drawn': self.drawn,\n"
        "              'weights': digest(self.model.trained_parameters().values()),\n"
        "              'averages': digest(self.averaged.values.values())}\n"
        "    path = Path(sys.argv[2]).parent / f'rank{self.global_rank}.json'\n"
        "    path.write_text(json.dumps(values))\n"
        "MaskSAMModule.training_step, MaskSAMModule.on_train_end = step, end\n"
        "if __name__ == '__main__':\n"
        "    options = FitOptions(Path(sys.argv[1]), Path(sys.argv[2]), TINY, device='cpu',"
        " devices=2, workers=0)\n"
        "    fit(options, Report(time.monotonic()), SMALL, SHORT)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(dataset), str(run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "on 2 x cpu" in done.stdout
    first, second = (
        json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
    )
    assert first["steps"] == second["steps"] == 5
    assert first["drawn"] != second["drawn"]
    assert first["weights"] == second["weights"]
    assert first["averages"] == second["averages"]
    assert (run / BEST).is_file()
    assert torch.load(newest_checkpoint(run), weights_only=True)["global_step"] == 5


def test_an_error_in_one_of_two_processes_is_told_in_words(dataset: Path, tmp_path: Path):
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", devices=2, workers=0)
    with pytest.raises(MaskSAMError, match="the loss is not finite at iteration") as report:
        fit(options, str, SMALL, {**SHORT, "learning_rate": 1e30, "warm_up": 0})
    assert "\n" not in str(report.value)


def test_the_same_seed_gives_the_same_losses_and_another_one_others(dataset: Path, tmp_path: Path):
    def losses(name: str, seed: int) -> list[str]:
        run = tmp_path / name
        options = FitOptions(dataset, run, TINY, device="cpu", workers=0, seed=seed)
        fit(options, lambda _: None, SMALL, {**QUICK, "iterations": 10})
        rows = csv.DictReader((run / "logs/csv/version_0/metrics.csv").open())
        return [row["loss"] for row in rows if row.get("loss")]

    first = losses("one", 3)
    assert first
    assert first == losses("two", 3)
    assert first != losses("three", 4)


def test_the_decoder_joins_and_contrasts_become_random_as_the_training_goes_on():
    settings = TrainSettings(generator_first=0.7, contrast_ramp=0.5, common_contrasts=0.4)
    module = MaskSAMModule(build_model(small_masksam_config()), settings, 100.0, 0)
    found = []
    for minutes in (0, 25, 50, 69, 75):
        module.minutes_before = float(minutes)
        found.append((round(module.common_contrasts, 2), module.generator_alone))
    assert found == [(1.0, True), (0.7, True), (0.4, True), (0.4, True), (0.4, False)]
    usual = MaskSAMModule(build_model(small_masksam_config()), TrainSettings(), 100.0, 0)
    assert not usual.generator_alone and usual.common_contrasts == 0


def test_averaged_weights_are_put_in_place_and_taken_out_again():
    layer = torch.nn.Linear(2, 1, bias=False)
    averaged = AveragedWeights(layer, decay=0.9)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    averaged.update(layer)
    with averaged.applied(layer):
        inside = layer.weight.detach().clone()
    decay = 2 / 11
    torch.testing.assert_close(inside, start + 1 - decay)
    torch.testing.assert_close(layer.weight.detach(), start + 1)


def test_preparing_names_every_problem_of_a_dataset_at_once(tmp_path: Path):
    folder = write_dataset(tmp_path / "bad", cases=4)
    (folder / "imagesTr/case_00_0000.nii.gz").unlink()
    (folder / "imagesTr/case_01_0000.nii.gz").write_bytes(b"damaged")
    with pytest.raises(MaskSAMError, match=r"2 problem\(s\)") as report:
        prepare_material(folder, None, lambda _: None, preset=TINY)
    message = str(report.value)
    assert "case_00_0000.nii.gz is missing" in message
    assert "case_01_0000.nii.gz" in message
    assert "\n" not in message
