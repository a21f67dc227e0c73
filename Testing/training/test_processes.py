"""Steps that are divided among processes and parts, and trainings that end early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import IterableDataset

from MaskSAMCore.data.window_numbers import WindowNumbers
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training import fit as training
from MaskSAMCore.training.checkpoint import CHECKPOINTS, newest_checkpoint
from MaskSAMCore.training.data import TrainingData
from MaskSAMCore.training.fit import FitOptions, fit
from MaskSAMCore.training.losses.masksam import LossSettings
from MaskSAMCore.training.losses.prompting import PromptSettings
from MaskSAMCore.training.processes import Processes, divided_batch, run_spawning
from MaskSAMCore.training.run_folder import BEST, CASES, LAST
from Testing.helpers.paths import ROOT
from Testing.helpers.short_run import SHORT, SMALL, checkpoint, logged_losses

# Every window has the same weight and no random prompt, however a step is divided.
DIVISIBLE = {
    **SHORT,
    "batch": 4,
    "loss": LossSettings(each_window=True, prompts=PromptSettings(share=0.0)),
}


class BlockedSignals(IterableDataset[list[int]]):
    """Dataset that yields, in place of windows, the signals that its process blocks."""

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "each"), [(24, 4, 2, 3), (2, 1, 1, 2)]
)
def test_a_batch_is_divided_among_processes_and_parts(
    batch: int, processes: int, accumulate: int, each: int
) -> None:
    assert divided_batch(batch, processes, accumulate) == each


def test_a_batch_that_cannot_be_divided_equally_is_refused() -> None:
    with pytest.raises(MaskSAMError, match="choose a --batch that is a multiple of 4"):
        divided_batch(2, 4, 1)


def test_processes_together_prepare_the_windows_that_one_prepares_alone() -> None:
    def first(numbers: WindowNumbers, count: int) -> list[int]:
        return [number for number, _ in zip(numbers, range(count), strict=False)]

    assert first(WindowNumbers(batch=4), 8) == list(range(8))
    two = [first(WindowNumbers(2, process, 2), 4) for process in range(2)]
    assert two == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_processes_of_torchrun_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Processes.present(3) == Processes(3, 3)
    environment = {"WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4, "RANK": 5, "TORCHELASTIC_RUN_ID": "x"}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    found = Processes.present(1)
    assert found == Processes(8, 4, 5, external=True)
    assert found.nodes == 2 and not found.first
    with pytest.raises(MaskSAMError, match="torchrun started 4 processes here: give --devices 4"):
        Processes.present(3)


def train(dataset: Path, run: Path, **options: object) -> list[str]:
    """Train on the CPU in float32 and return the reported lines."""
    lines: list[str] = []
    fit(
        FitOptions(dataset, run, TINY, device="cpu", workers=0, **options),  # type: ignore[arg-type]
        lines.append,
        SMALL,
        DIVISIBLE,
    )
    return lines


def compute_in_float32(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "precision", lambda _: "32-true")


@pytest.fixture(scope="module")
def alone(dataset: Path, made_once: Callable[..., Path]) -> Path:
    """Return a run of one process in float32."""

    def fill(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            compute_in_float32(patch)
            train(dataset, folder / "run")

    return made_once("alone", fill) / "run"


def assert_same_training(run: Path, other: Path) -> None:
    """Check that two runs have equal losses and weights up to rounding."""
    assert logged_losses(run) == pytest.approx(logged_losses(other), rel=1e-3)
    before, after = load_file(run / LAST), load_file(other / LAST)
    worst = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert worst < 1e-2 and checkpoint(run)["global_step"] == checkpoint(other)["global_step"]


def test_accumulated_and_checkpointed_steps_are_the_steps_of_the_whole_batch(
    dataset: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_in_float32(monkeypatch)
    parts = tmp_path / "parts"
    lines = train(dataset, parts, accumulate=4, gradient_checkpointing=True)
    assert any("a step of 4 windows: 1 device(s) with 4 part(s) of 1 each" in x for x in lines)
    assert_same_training(alone, parts)


SCRIPT = """
import sys, time
from pathlib import Path
from MaskSAMCore.training import fit as training
from Testing.training.test_processes import train
training.precision = lambda _: "32-true"
if __name__ == "__main__":
    dataset, run, options = sys.argv[1:]
    for line in train(Path(dataset), Path(run), **eval(options)):
        print(line, flush=True)
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def torchrun(dataset: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that trains with torchrun and returns the completed process."""
    script = tmp_path / "go.py"
    script.write_text(SCRIPT, encoding="utf-8")
    # torchrun leaves its logs of failed processes in the temporary folder.
    (tmp_path / "temporary").mkdir()
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path / "temporary")}

    def train_together(processes: int, run: Path, options: str = "{}"):
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={processes}", str(script)]
        command = [sys.executable, *launcher, str(dataset), str(run), options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)

    return train_together


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 2), (4, 1)])
def test_torchrun_trains_as_one_process_does(
    processes: int, accumulate: int, torchrun: Callable, alone: Path, tmp_path: Path
) -> None:
    together = tmp_path / "together"
    done = torchrun(processes, together, f"dict(accumulate={accumulate})")
    assert done.returncode == 0, done.stderr[-3000:]
    # Only the first process reports.
    assert done.stdout.count("trained parameters") == 1
    assert f"on {processes} x cpu" in done.stdout and (together / BEST).is_file()
    assert_same_training(alone, together)


def test_processes_of_torchrun_refuse_a_folder_that_holds_a_training(
    torchrun: Callable, alone: Path
) -> None:
    again = torchrun(2, alone)
    assert again.returncode != 0 and "already holds a training: add --resume" in again.stderr


def test_a_part_of_a_training_that_ends_early_is_resumed_on_its_schedule(
    dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    lines = train(dataset, run, stop_after=0.0)
    assert lines[-1] == "stopped at iteration 1: continue with --resume"
    assert not (run / LAST).exists() and checkpoint(run)["global_step"] == 1
    assert any((run / CASES).iterdir())
    # A resumed training may divide its steps into other parts.
    fit(FitOptions(dataset, run, device="cpu", workers=0, resume=True, accumulate=2), str)
    state = checkpoint(run)
    assert state["global_step"] == DIVISIBLE["iterations"] and (run / BEST).is_file()
    assert not (run / CASES).exists()


def test_the_preparation_of_the_data_counts_for_the_end_of_a_part(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DIVISIBLE, "iterations", 10**6)
    lines: list[str] = []

    def prepare_slowly(line: str) -> None:
        lines.append(line)
        if line.startswith("reading and checking"):
            time.sleep(1.5)

    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0, stop_after=0.02)
    fit(options, prepare_slowly, SMALL, DIVISIBLE)
    assert lines[-1] == "stopped at iteration 1: continue with --resume"


def test_a_signal_ends_a_training_with_a_checkpoint(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DIVISIBLE, "iterations", 10**6)
    plain = training.MaskSAMModule.training_step

    def step(self: torch.nn.Module, *arguments: object) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return plain(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training.MaskSAMModule, "training_step", step)
    lines = train(dataset, tmp_path / "run")
    assert lines[-1] == "stopped at iteration 1: continue with --resume"


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_a_training_with_a_checkpoint_and_again_at_once(
    presses: int, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DIVISIBLE, "iterations", 10**6)
    plain = training.MaskSAMModule.training_step

    def step(self: torch.nn.Module, *arguments: object) -> torch.Tensor:
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        return plain(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training.MaskSAMModule, "training_step", step)
    lines: list[str] = []
    options = FitOptions(dataset, tmp_path / "run", TINY, device="cpu", workers=0)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(options, lines.append, SMALL, DIVISIBLE)
    finally:
        signal.signal(signal.SIGINT, before)
    ended = lines[-1] == "stopped at iteration 1: continue with --resume"
    assert ended == (presses == 1)
    assert (newest_checkpoint(tmp_path / "run") is not None) == ended


SPAWNING_SCRIPT = """
import sys
from functools import partial
from pathlib import Path
if __name__ != "__main__":
    Path(sys.argv[2], "spawned").touch()
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.fit import FitOptions, fit
from Testing.helpers.short_run import SHORT, SMALL
if __name__ == "__main__":
    options = FitOptions(
        Path(sys.argv[1]), Path(sys.argv[2]), TINY, device="cpu", devices=2, workers=0,
        checkpoint_seconds=0,
    )
    try:
        fit(options, partial(print, flush=True), SMALL, {**SHORT, "iterations": 10**6})
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs groups of processes")
@pytest.mark.parametrize(
    ("number", "to_all", "training", "status"),
    [
        (signal.SIGINT, True, False, 130),
        (signal.SIGINT, True, True, 130),
        (signal.SIGTERM, False, True, 0),
    ],
)
def test_a_signal_ends_spawned_processes_with_a_checkpoint(
    number: int, to_all: bool, training: bool, status: int, dataset: Path, tmp_path: Path
) -> None:
    """A shell sends Ctrl-C to all processes, including those that are still starting."""
    run, script = tmp_path / "run", tmp_path / "go.py"
    script.write_text(SPAWNING_SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), str(dataset), str(run)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "errors").open("wb"),
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        begun = run / (CHECKPOINTS[0] if training else "spawned")
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.05)
        (os.killpg if to_all else os.kill)(process.pid, number)
        output, _ = process.communicate(timeout=600)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    reached = checkpoint(run)
    assert process.returncode == status and reached["masksam"]["stopped"]
    step = reached["global_step"]
    assert (
        step > 0
        and output.splitlines()[-1] == f"stopped at iteration {step}: continue with --resume"
    )
    assert "Traceback" not in (tmp_path / "errors").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
def test_a_second_ctrl_c_waits_for_the_thread_whose_processes_it_kills() -> None:
    received: list[int] = []
    ended: list[bool] = []

    def spawn() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not received:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # as Lightning does to end its processes
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_spawning(spawn, lambda number, _: received.append(number))
    assert ended == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be blocked there")
def test_processes_that_prepare_windows_ignore_ctrl_c() -> None:
    class Data(TrainingData):
        def __init__(self) -> None:
            """Hold no case."""

    loader = Data().loader(BlockedSignals(), 1, 1)  # type: ignore[arg-type]
    assert [int(number) for number in next(iter(loader))] == [signal.SIGINT]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
