"""Training from a dataset folder to a run folder."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from MaskSAMCore.data.case_cache import CaseCache
from MaskSAMCore.data.dataset import examine_dataset
from MaskSAMCore.data.splits import Fold, find_split
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import temporary_folder, write_json
from MaskSAMCore.modeling import (
    Network,
    NetworkConfig,
    build_limited,
    build_model,
    load_sam_checkpoint,
)
from MaskSAMCore.models.bundle import check_backbone
from MaskSAMCore.training.callbacks import (
    BestWeightsSaver,
    Budget,
    EarlyStop,
    ProgressLogger,
    ResumableCheckpoints,
    Validation,
)
from MaskSAMCore.training.checkpoint import (
    checkpoint_path,
    newest_checkpoint,
    next_restart,
    resumed_checkpoint,
)
from MaskSAMCore.training.data import (
    TrainingData,
    prepare_training_data,
    reload_training_data,
)
from MaskSAMCore.training.devices import accelerator, precision, strategy
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.initial_weights import load_initial_weights
from MaskSAMCore.training.module import MaskSAMModule, compiler_cache
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.preview import contact_sheet
from MaskSAMCore.training.processes import Processes, divided_batch, run_spawning
from MaskSAMCore.training.run_folder import (
    CASES,
    COMPILER_CACHE,
    FINGERPRINT,
    PREVIEW,
    RUN_FILE,
    TrainingRecord,
    best_dice,
)
from MaskSAMCore.training.trainer import build_trainer, interruptible
from MaskSAMCore.training.validation import Evaluator

_LOST_WORKER = (
    "a process that prepares windows was killed, as systems do when memory is short: continue with"
    " --resume and fewer --workers, 0 for none"
)


@dataclass(frozen=True)
class FitOptions:
    """Choices of the user for a training.

    Attributes:
        dataset: nnU-Net dataset folder.
        run: folder of the training, a new one unless ``resume`` is set.
        preset: network, hyperparameters and plan constraints of a new training; None with
            ``resume``.
        splits: JSON file with the training and the validation cases, or None.
        fold: fold of a cross-validation for a new training; None for a single split.
        targets: JSON file that describes the labels of labelmaps without images, or None.
        orientation: directions of depth, rows and columns, such as "RSA"; None leaves it to the
            preset and the plan.
        spacing: voxel size along depth, rows and columns in mm; None leaves it to the preset and
            the plan.
        patch: window along depth, rows and columns in voxels; None leaves it to the preset.
        max_minutes: time budget over all parts of the training in minutes; None trains for the
            preset's iterations, or keeps the budget of a resumed run.
        resume: continue the training in ``run`` with its original preset, split and seed. Options
            given for the preset, split, plan, network or initial weights must be those of the run.
        device: "auto", "cpu", "cuda" or "mps".
        devices: number of devices, or of processes on a CPU; under torchrun 1, or the number of
            processes that it started on this computer.
        accumulate: number of parts of each step that a device computes one after the other.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
        stop_after: minutes after which this part of the training ends, to be resumed later; the
            preparation of the data counts. None trains to the end.
        workers: number of processes per device that prepare windows. With fewer than two, a GPU
            synthesises the images itself.
        seed: seed of all random numbers of a new training.
        sam_checkpoint: weights of the frozen SAM, which presets with a frozen SAM need.
        weights: folder or zip of a model, or folder of a run, whose weights a new training starts
            from, or None. With ``resume`` they are needed again if the run has no checkpoint yet.
        compiled: train with torch.compile, which needs a C++ compiler; on a processor the first
            step takes minutes, and the others are no faster.
        checkpoint_seconds: time between two checkpoints in seconds.
        validation_share: largest share of the time that validations may take; None leaves it to
            the preset or the resumed run.
        validation_minutes: least time between two validations in minutes; None leaves it to the
            preset or the resumed run.
        cache: folder for the preprocessed cases, which several trainings may share; None keeps them
            in the run's folder until the training is complete.
        report_seconds: time between two progress reports in seconds.
    """

    dataset: Path
    run: Path
    preset: Preset | None = None
    splits: Path | None = None
    fold: Fold | None = None
    targets: Path | None = None
    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    patch: tuple[int, int, int] | None = None
    max_minutes: float | None = None
    resume: bool = False
    device: str = "auto"
    devices: int = 1
    accumulate: int = 1
    gradient_checkpointing: bool = False
    stop_after: float | None = None
    workers: int = 1
    seed: int = 0
    sam_checkpoint: Path | None = None
    weights: Path | None = None
    compiled: bool = False
    checkpoint_seconds: float = 90.0
    validation_share: float | None = None
    validation_minutes: float | None = None
    cache: Path | None = None
    report_seconds: float = 15.0


def fit(
    options: FitOptions,
    report: Callable[[str], None] = print,
    config_changes: Mapping[str, Any] | None = None,
    settings_changes: Mapping[str, Any] | None = None,
) -> float:
    """Train until the budget is spent.

    Args:
        options: choices of the user.
        report: function that receives lines of text for the user.
        config_changes: fields to change in the preset's network.
        settings_changes: fields to change in the preset's hyperparameters.

    Returns:
        Best mean Dice on the validation cases.

    Raises:
        MaskSAMError: the dataset has problems (the message names them all), the run exists or
            cannot be resumed, a device is not available, the SAM checkpoint is missing or is not
            the one that the run began with, the initial weights do not fit, or the loss is no
            longer finite.
        KeyboardInterrupt: Ctrl-C was pressed; the training is complete or can be resumed.
    """
    processes = Processes.present(options.devices)
    kind = accelerator(options.device, processes.per_node)
    if options.compiled and options.gradient_checkpointing:
        raise MaskSAMError("--compile and --gradient-checkpointing exclude each other: choose one")

    def first() -> tuple[TrainingRecord, TrainingData]:
        if options.resume:
            record, data = _resume(options, report, settings_changes or {})
        else:
            record, data = _begin(options, report, config_changes or {}, settings_changes or {})
            if options.weights is not None:
                # Weights that do not fit are reported before the run has a record.
                with _new_cache(options):
                    _initial_network(options, record, options.weights, report)
        options.run.mkdir(parents=True, exist_ok=True)
        record.save(options.run)
        if data.fingerprint:
            write_json(options.run / FINGERPRINT, data.fingerprint)
        return record, data

    new = not options.run.exists()
    started = time.monotonic()
    with processes.connected(kind):
        try:
            record, data = processes.first_then_others(first, lambda: _join(options))
        except MaskSAMError:
            if new and processes.first:
                # The folder can hold nothing but preprocessed cases.
                shutil.rmtree(options.run, ignore_errors=True)
            raise
        if options.stop_after is not None:
            minutes = options.stop_after - (time.monotonic() - started) / 60
            options = replace(options, stop_after=max(minutes, 0.0))
        return _fit(options, processes, kind, record, data, report if processes.first else _silent)


def _silent(_line: str) -> None:
    """Ignore a line of text, because only the first process reports."""


def _join(options: FitOptions) -> tuple[TrainingRecord, TrainingData]:
    """Return the record and the data of a training that another process has begun."""
    record = TrainingRecord.load(options.run)
    lightning.seed_everything(record.seed, workers=True, verbose=False)
    return record, reload_training_data(options.dataset, record, _silent, _cache(options))


def _check_step(
    options: FitOptions, config: NetworkConfig, settings: TrainSettings, preset: str
) -> None:
    """Check the batch and the network of a training before any case is read.

    Args:
        options: choices of the user.
        config: network of the training, or of its preset.
        settings: hyperparameters of the training.
        preset: name of the preset, for messages.

    Raises:
        MaskSAMError: the windows of a step cannot be divided, the network cannot be built, or it
            lacks gradient checkpointing or a prompt generator, which the training needs.
    """
    divided_batch(settings.batch, Processes.present(options.devices).count, options.accumulate)
    try:
        # On the meta device nothing is computed or stored.
        with torch.device("meta"):
            model = build_limited(config, None)
    except ValueError as error:
        raise MaskSAMError(f"the network of preset '{preset}' cannot be built: {error}") from error
    try:
        model.set_gradient_checkpointing(options.gradient_checkpointing)
    except ValueError as error:
        raise MaskSAMError(f"{error}: leave --gradient-checkpointing out") from error
    if settings.generator_first and settings.decoder_alone:
        raise MaskSAMError(
            "a decoder that is trained alone leaves no prompt generator to train first: set"
            " generator_first to 0"
        )
    if settings.generator_first and not model.decoder_parameters():
        raise MaskSAMError(
            f"the network '{config.kind}' has no prompt generator to train first: set"
            " generator_first to 0"
        )


def _fit(
    options: FitOptions,
    processes: Processes,
    kind: str,
    record: TrainingRecord,
    data: TrainingData,
    report: Callable[[str], None],
) -> float:
    """Train a network on prepared data; see :func:`fit`."""
    checkpoint = resumed_checkpoint(options.run) if options.resume else None
    model = _initial_network(options, record, options.weights if checkpoint is None else None)
    model.set_gradient_checkpointing(options.gradient_checkpointing)
    module = MaskSAMModule(model, record.settings, record.max_minutes, record.seed)
    module.best_dice = best_dice(options.run)
    module.compiled = options.compiled
    module.accumulate = options.accumulate
    count = sum(p.numel() for p in model.trained_parameters().values())
    report(
        f"{count / 1e6:.2f} M trained parameters, {len(data.split['train'])} training and"
        f" {len(data.split['val'])} validation cases, seed {record.seed}, {_budget(record)},"
        f" on {processes.count} x {kind} in {precision(kind)}"
    )
    batch = divided_batch(record.settings.batch, processes.count, options.accumulate)
    if record.settings.batch > batch:
        report(
            f"a step of {record.settings.batch} windows: {processes.count} device(s) with"
            f" {options.accumulate} part(s) of {batch} each"
        )
    report(
        f"validation takes at most {record.settings.validation_share:.0%} of the time, and comes"
        f" at most every {record.settings.validation_minutes:g} minutes and at the end"
    )
    early_stop = EarlyStop(options.stop_after)
    trainer = _trainer(options, processes, record, data, early_stop, report)
    synthesizer = "cpu" if options.workers > 1 else kind
    windows = data.windows(record.settings, record.seed, next_restart(checkpoint), synthesizer)
    module.synthesis_contrasts = windows.common_contrasts
    module.windows = windows
    loader = data.loader(windows, batch, options.workers)
    own_cache = _cache(options) if options.cache is None and processes.first else None
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        spawning = processes.count > 1 and not processes.external
        if spawning:
            stack.enter_context(_temporary_files())
        if options.compiled:
            stack.enter_context(compiler_cache(options.run / COMPILER_CACHE))
        if own_cache is not None:
            own_cache.remove_others(data.prepared.entries)
        stack.enter_context(interruptible())
        path = checkpoint_path(checkpoint)
        train = partial(trainer.fit, module, loader, ckpt_path=path, weights_only=True)
        _train(train, early_stop, spawning)
    best = max(best_dice(options.run), 0.0)
    # If this process has spawned others, its own trainer has made no steps.
    reached = newest_checkpoint(options.run)
    if reached is not None and reached.stopped:
        report(f"stopped at iteration {reached.iteration}: continue with --resume")
    else:
        if own_cache is not None:
            own_cache.remove_others(())
        report(f"best validation Dice {best:.4f}; weights and curves are in {options.run}")
    if early_stop.interrupted:
        raise KeyboardInterrupt
    return best


def _train(train: Callable[[], None], early_stop: EarlyStop, spawning: bool) -> None:
    """Run the steps of a training, with the errors of its processes as errors for the user.

    Args:
        train: function that makes the steps.
        early_stop: end of the training before its budget is spent.
        spawning: whether ``train`` spawns a process for each device.

    Raises:
        MaskSAMError: the training failed for a reason that the user can act on.
        KeyboardInterrupt: a spawned process ended because of a signal.
    """
    try:
        if spawning:
            run_spawning(train, early_stop.ask)
        else:
            train()
    except (ProcessRaisedException, MaskSAMError) as error:
        raise unwrap_spawned_error(error) from error
    except ProcessExitedException as error:
        if early_stop.asked:  # The spawned processes may have received the signal directly.
            raise KeyboardInterrupt from error
        raise
    except torch.OutOfMemoryError as error:
        raise MaskSAMError(
            "the device's memory is too small for this training: masksam train --plan shows"
            " which --accumulate and --gradient-checkpointing fit"
        ) from error
    except RuntimeError as error:
        if _is_lost_worker(str(error)):
            raise MaskSAMError(_LOST_WORKER) from error
        raise


def preview(
    options: FitOptions,
    count: int,
    report: Callable[[str], None] = print,
    config_changes: Mapping[str, Any] | None = None,
    settings_changes: Mapping[str, Any] | None = None,
) -> Path:
    """Draw training windows to ``preview.png`` in the run's folder, without training.

    Args:
        options: choices of the user.
        count: number of windows.
        report: function that receives lines of text for the user.
        config_changes: fields to change in the preset's network.
        settings_changes: fields to change in the preset's hyperparameters.

    Returns:
        The picture's file.

    Raises:
        MaskSAMError: the dataset has problems or the preset cannot be used.
    """
    preset = chosen_preset(options, config_changes or {}, settings_changes or {})
    options.run.mkdir(parents=True, exist_ok=True)
    path = options.run / PREVIEW
    with temporary_folder(path) as temporary:
        data = prepare_training_data(
            options.dataset,
            options.splits,
            preset,
            report,
            CaseCache(options.cache or temporary / CASES),
            {*(config_changes or {}), *preset.changes},
            options.targets,
            options.fold,
        )
        _check_contrast(data, preset.training)
        lightning.seed_everything(options.seed, verbose=False)
        windows = data.windows(preset.training, options.seed)
        contact_sheet(windows, count, len(data.classes), data.plan.orientation, path)
    report(f"{count} windows are in {path}")
    return path


def unwrap_spawned_error(error: Exception) -> Exception:
    """Return the MaskSAMError raised in a spawned process, else the exception itself.

    PyTorch raises errors of spawned processes, those of its data loader included, anew: with the
    traceback as their message, whose last line has the original class and message.
    """
    lines = str(error).strip().splitlines()
    kind, _, message = lines[-1].partition(": ") if lines else ("", "", "")
    if _is_lost_worker(message):
        return MaskSAMError(_LOST_WORKER)
    return MaskSAMError(message) if kind.rpartition(".")[2] == MaskSAMError.__name__ else error


def _is_lost_worker(message: str) -> bool:
    """Return whether PyTorch's error message says that a process of the data loader has ended."""
    return message.startswith("DataLoader worker (pid")


def _begin(
    options: FitOptions,
    report: Callable[[str], None],
    config_changes: Mapping[str, Any],
    settings_changes: Mapping[str, Any],
) -> tuple[TrainingRecord, TrainingData]:
    """Return the record and the data of a new training."""
    if (options.run / RUN_FILE).exists():
        raise MaskSAMError(
            f"{options.run} already holds a training: add --resume to continue it, or choose"
            " another folder"
        )
    preset = chosen_preset(options, config_changes, settings_changes)
    if preset.training.decoder_alone and options.weights is None:
        raise MaskSAMError(
            f"preset '{preset.name}' trains the decoder alone: give the model with the encoder and"
            " the prompt generator with --from"
        )
    _check_step(options, preset.network, preset.training, preset.name)
    sam_sha256 = _check_sam(options, preset.network, preset.name)
    lightning.seed_everything(options.seed, workers=True, verbose=False)
    with _new_cache(options) as cache:
        data = prepare_training_data(
            options.dataset,
            options.splits,
            preset,
            report,
            cache,
            {*config_changes, *preset.changes},
            options.targets,
            options.fold,
        )
        _check_contrast(data, preset.training)
    kind = accelerator(options.device)
    facts = {
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "device": f"{Processes.present(options.devices).count} x {kind}",
        "precision": precision(kind),
        "max_minutes": options.max_minutes,
    }
    if sam_sha256 is not None:
        facts["sam_sha256"] = sam_sha256
    if options.fold is not None:
        facts["fold"] = options.fold.index
    if preset.recipe != "ours":
        facts["recipe"] = preset.recipe
    if data.scheme is not None:
        facts["targets"] = None if options.targets is None else options.targets.name
    facts |= chosen_facts(options, preset)
    record = TrainingRecord(
        config=data.config,
        plan=data.plan,
        classes=data.classes,
        values=data.values,
        settings=preset.training,
        seed=options.seed,
        split=data.split,
        preset=preset.name,
        dataset=options.dataset.resolve().name,
        facts=facts,
        label_description=None if data.scheme is None else data.scheme.description,
        folder=str(options.dataset.resolve()),
    )
    return record, data


def _resume(
    options: FitOptions, report: Callable[[str], None], settings_changes: Mapping[str, Any]
) -> tuple[TrainingRecord, TrainingData]:
    """Return the record and the data of a training to continue."""
    if not (options.run / RUN_FILE).exists():
        raise MaskSAMError(f"{options.run} holds no training to resume")
    record = TrainingRecord.load(options.run)
    dataset = options.dataset.resolve().name
    if dataset != record.dataset:
        raise MaskSAMError(
            f"{options.run} was trained on '{record.dataset}', not on '{dataset}': give its own"
            " dataset, or start another run"
        )
    _check_kept(options, record, settings_changes)
    start = record.facts.get("started_from")
    if start and options.weights is None and resumed_checkpoint(options.run) is None:
        raise MaskSAMError(
            f"{options.run} was stopped before its first checkpoint: give the --from of its first"
            f" command again ('{start}')"
        )
    _check_step(options, record.config, record.settings, record.preset)
    expected = record.facts.get("sam_sha256")
    sam_sha256 = _check_sam(options, record.config, record.preset, expected)
    lightning.seed_everything(record.seed, workers=True, verbose=False)
    data = reload_training_data(options.dataset, record, report, _cache(options))
    settings = record.settings.replace(**validation_changes(options))
    record = replace(record, settings=settings, folder=str(options.dataset.resolve()))
    if options.max_minutes is not None:
        record = record.with_facts(max_minutes=options.max_minutes)
    if sam_sha256 is not None:
        record = record.with_facts(sam_sha256=sam_sha256)
    return record, data


def _check_kept(
    options: FitOptions, record: TrainingRecord, settings_changes: Mapping[str, Any]
) -> None:
    """Check that the user's choices are those that a run began with.

    Options that the user has not given are left to the run.

    Raises:
        MaskSAMError: a choice differs from that of the run, or a file with targets or splits has
            problems.
    """
    if options.preset is not None:
        own = record.preset, record.facts.get("recipe", "ours")
        if (options.preset.name, options.preset.recipe) != own:
            raise MaskSAMError(
                f"{options.run} was begun with --preset {own[0]} --recipe {own[1]}: give these"
                " again"
            )
    chosen = chosen_facts(options, options.preset)
    if options.fold is not None:
        chosen["fold"] = options.fold.index
    others = [changed_option(name) for name in chosen if record.facts.get(name) != chosen[name]]
    settings = record.settings
    others += [
        changed_option(name)
        for name, value in settings_changes.items()
        if getattr(settings, name) != value
    ]
    if options.targets is not None:
        dataset, problems = examine_dataset(options.dataset, options.targets)
        if problems:
            raise MaskSAMError("; ".join(problems))
        if dataset.scheme is None or dataset.scheme.description != record.label_description:
            others.append("--targets")
    if options.splits is not None:
        dataset, _ = examine_dataset(options.dataset, record.label_description)
        fold = record.facts.get("fold")
        split, problems = find_split(dataset, options.splits, None if fold is None else Fold(fold))
        if problems:
            raise MaskSAMError("; ".join(problems))
        if split != record.split:
            others.append("--splits")
    if others:
        raise MaskSAMError(
            f"{options.run} was begun with another {others[0]}: leave it out, or give that of its"
            " first command"
        )


def changed_option(name: str) -> str:
    """Return the command-line option of a fact in a run's record, or of a setting."""
    named = {"started_from": "--from", "window": "--patch"}
    return named.get(name, f"--{name.replace('_', '-')}")


def chosen_preset(
    options: FitOptions, config_changes: Mapping[str, Any], settings_changes: Mapping[str, Any]
) -> Preset:
    """Return the preset of a new training with the user's changes.

    Raises:
        MaskSAMError: a change cannot be used, or is given both by an option and by --set.
    """
    preset = options.preset
    if preset is None:
        raise MaskSAMError("a new training needs a preset")
    settings_changes = {**settings_changes, **validation_changes(options)}
    constraints: dict[str, Any] = {}
    if options.orientation is not None:
        constraints["orientation"] = options.orientation
    if options.spacing is not None:
        constraints["spacing"] = options.spacing
    if options.patch is not None:
        edge = preset.network.token_voxels
        if any(size % edge for size in options.patch[1:]):
            raise MaskSAMError(
                f"preset '{preset.name}' needs a --patch of whole tokens: give rows and columns"
                f" that are multiples of {edge}"
            )
        config_changes = {**config_changes, "window": options.patch}
    for name in (*constraints, *config_changes, *settings_changes):
        if name in preset.changes:
            raise MaskSAMError(
                f"{changed_option(name)} and --set {name} give the same setting: leave one out"
            )
    try:
        network = preset.network.replace(**config_changes)
    except (TypeError, ValueError) as error:
        raise MaskSAMError(f"preset '{preset.name}' cannot be changed: {error}") from error
    return replace(
        preset,
        network=network,
        training=preset.training.replace(**settings_changes),
        plan=preset.plan.replace(**constraints),
    )


def chosen_facts(options: FitOptions, preset: Preset | None) -> dict[str, Any]:
    """Return the user's choices about plan, network and initial weights, as facts for a run's
    record; options that the user has not given are left out."""
    chosen = {
        "orientation": options.orientation,
        "spacing": None if options.spacing is None else list(options.spacing),
        "patch": None if options.patch is None else list(options.patch),
        "started_from": None if options.weights is None else options.weights.name,
        "set": None if preset is None else dict(preset.changes) or None,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def validation_changes(options: FitOptions) -> dict[str, float]:
    """Return the settings of the validation that the user has chosen."""
    chosen = {
        "validation_share": options.validation_share,
        "validation_minutes": options.validation_minutes,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _cache(options: FitOptions) -> CaseCache:
    """Return the cache of the preprocessed cases."""
    return CaseCache(options.cache or options.run / CASES)


@contextmanager
def _new_cache(options: FitOptions) -> Iterator[CaseCache]:
    """Yield the cache of a new training; after an error, empty it if it is in the run's folder."""
    cache = _cache(options)
    try:
        yield cache
    except MaskSAMError:
        if options.cache is None:
            cache.remove_others(())
        raise


def _check_sam(
    options: FitOptions, config: NetworkConfig, preset: str, expected: str | None = None
) -> str | None:
    """Check the file of a frozen SAM.

    Args:
        options: choices of the user.
        config: network of the training.
        preset: name of the preset, for messages.
        expected: SHA-256 of the file that the run began with, if known.

    Returns:
        SHA-256 of the file, or None for a network without a frozen SAM.

    Raises:
        MaskSAMError: the file is missing, does not hold the weights of the SAM, or is not the one
            that the run began with.
    """
    if config.frozen_sam is None:
        return None
    file = options.sam_checkpoint
    if file is None:
        raise MaskSAMError(
            f"preset '{preset}' adapts a frozen SAM: give its official weights with"
            f" --sam-checkpoint (masksam models info sam_{config.frozen_sam.name} shows the source)"
        )
    found = check_backbone(file, expected, f"the run in {options.run}")
    try:
        # On the meta device nothing is computed or stored: only names and shapes are compared.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _load_sam(build_model(config), file)
    except ValueError as error:
        raise MaskSAMError(str(error)) from error
    return found


def _check_contrast(data: TrainingData, settings: TrainSettings) -> None:
    """Raise an error if a contrast augmentation is set that would have no effect."""
    if data.scheme is not None and settings.contrast > 0:
        raise MaskSAMError(
            "images synthesised from labelmaps have random contrast: leave --contrast out"
        )


def _initial_network(
    options: FitOptions,
    record: TrainingRecord,
    weights: Path | None,
    report: Callable[[str], None] = _silent,
) -> Network:
    """Return the network that a training, or its next part, starts with.

    Args:
        options: choices of the user.
        record: record of the training.
        weights: model or run with the initial weights; None for random ones, or where a checkpoint
            is loaded afterwards.
        report: function that receives a line if classes start as others of the initial weights.
    """
    model = build_model(record.config)
    if record.config.frozen_sam is not None and options.sam_checkpoint is not None:
        _load_sam(model, options.sam_checkpoint)
    if weights is not None:
        origins = load_initial_weights(model, weights, record.classes)
        others = [
            f"{name} as its {origin}"
            for name, origin in origins.items()
            if name.casefold() != origin.casefold()
        ]
        if others:
            report(f"{weights.name} has other classes: {', '.join(others)}")
    if record.settings.decoder_alone:
        try:
            model.freeze_proposals()
        except ValueError as error:
            raise MaskSAMError(f"{error}: decoder_alone cannot be used") from error
    return model


def _load_sam(model: Network, file: Path) -> None:
    assert model.sam is not None
    load_sam_checkpoint(model.sam, file)


def _budget(record: TrainingRecord) -> str:
    if record.max_minutes is None:
        return f"{record.settings.iterations} iterations"
    return f"{record.max_minutes:g} minutes"


@contextmanager
def _temporary_files() -> Iterator[None]:
    """Remove temporary files of this process and those it spawns at the end of a ``with`` block.

    PyTorch leaves a file with the traceback of each spawned process that fails; Lightning leaves
    the empty folder through which the spawned process returns its weights.
    """
    previous = tempfile.tempdir
    variables = {name: os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")}
    with tempfile.TemporaryDirectory(prefix="masksam-") as folder:
        tempfile.tempdir = folder
        os.environ.update(dict.fromkeys(variables, folder))
        try:
            yield
        finally:
            tempfile.tempdir = previous
            for name, value in variables.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _trainer(
    options: FitOptions,
    processes: Processes,
    record: TrainingRecord,
    data: TrainingData,
    early_stop: EarlyStop,
    report: Callable[[str], None],
) -> lightning.Trainer:
    logs = options.run / "logs"
    checkpoints = ResumableCheckpoints(options.run, options.checkpoint_seconds)
    settings = record.settings
    validation = Validation(
        settings.validation_share,
        settings.validation_minutes,
        Evaluator(data.prepared.validation, record.classes, record.values).score,
        BestWeightsSaver(options.run, report),
        checkpoints,
    )
    kind = accelerator(options.device)
    return build_trainer(
        kind,
        options.run,
        [
            Budget(),
            early_stop,
            checkpoints,
            validation,
            ProgressLogger(report, options.report_seconds),
        ],
        settings.clip,
        devices=processes.per_node,
        num_nodes=processes.nodes,
        strategy=strategy(kind, processes.count, processes.external),
        accumulate_grad_batches=options.accumulate,
        logger=[
            CSVLogger(logs, name="csv", flush_logs_every_n_steps=20),
            TensorBoardLogger(logs, name="tensorboard"),
        ],
        log_every_n_steps=5,
    )
