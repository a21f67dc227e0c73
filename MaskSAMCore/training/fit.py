"""Training from a dataset folder to a run folder."""

from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.multiprocessing.spawn import ProcessRaisedException

from MaskSAMCore.data.synthesis.patches import SynthesizedWindows
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io import write_json
from MaskSAMCore.modeling import Network, build_model, load_sam_checkpoint
from MaskSAMCore.training.callbacks import (
    BestWeightsSaver,
    Budget,
    ProgressLogger,
    ResumableCheckpoints,
    Validation,
)
from MaskSAMCore.training.checks import (
    check_sam,
    chosen_preset,
    known_record,
    last_checkpoint,
    told,
)
from MaskSAMCore.training.data import Material, prepare_material
from MaskSAMCore.training.devices import accelerator, precision, strategy
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.preset import Preset
from MaskSAMCore.training.preview import contact_sheet
from MaskSAMCore.training.run_folder import (
    FINGERPRINT,
    PREVIEW,
    TrainingRecord,
    best_dice,
    load_initial_weights,
)
from MaskSAMCore.training.validation import Evaluator


@dataclass(frozen=True)
class FitOptions:
    """What a person decides about a training.

    Attributes:
        dataset: an nnU-Net dataset folder.
        run: the folder of the training; a new one, unless ``resume``.
        preset: network, hyperparameters and plan constraints of a new training; None with
            ``resume``.
        splits: a JSON file with the cases to train on and to validate on, or None.
        targets: a JSON file on the labels of labelmaps without images, or None.
        orientation: directions of depth, rows and columns, for example "RSA"; None leaves it to the
            preset and the plan.
        spacing: mm along depth, rows and columns; None leaves it to the preset and the plan.
        max_minutes: time budget over all parts of the training; None goes by iterations, or by
            the budget that a resumed run has.
        resume: continue the training in ``run``, with its own preset, split and seed.
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many of them (processes on a CPU).
        workers: processes that draw and augment windows, for each device.
        seed: of everything that is drawn.
        sam_checkpoint: weights of the frozen SAM; needed by presets with a frozen one.
        weights: a bundle's folder or another run's, whose weights a new training starts from.
        compiled: train with torch.compile, which needs a C++ compiler; faster after a minute.
        checkpoint_seconds, validation_minutes, report_seconds: how often.
    """

    dataset: Path
    run: Path
    preset: Preset | None = None
    splits: Path | None = None
    targets: Path | None = None
    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    max_minutes: float | None = None
    resume: bool = False
    device: str = "auto"
    devices: int = 1
    workers: int = 1
    seed: int = 0
    sam_checkpoint: Path | None = None
    weights: Path | None = None
    compiled: bool = False
    checkpoint_seconds: float = 90.0
    validation_minutes: float = 4.0
    report_seconds: float = 15.0


def fit(
    options: FitOptions,
    report: Callable[[str], None] = print,
    config_changes: dict[str, Any] | None = None,
    settings_changes: dict[str, Any] | None = None,
) -> float:
    """Trains, or goes on training, until the budget is spent.

    Args:
        options: what, where and how long.
        report: receives lines for people.
        config_changes, settings_changes: fields to change in the preset's network and settings.

    Returns:
        The best mean Dice on the validation cases.

    Raises:
        MaskSAMError: the dataset has problems (all of them named), the run exists or cannot be
            resumed, the preset or the device is unknown, a SAM checkpoint is missing or another one
            than before, the weights to start from do not fit, or the loss is no longer finite.
    """
    kind = accelerator(options.device, options.devices)
    checkpoint = last_checkpoint(options)
    known = known_record(options) if options.resume else None
    preset = None if known is not None else chosen_preset(options, config_changes or {})
    sam = check_sam(options, known, preset)
    seed = options.seed if known is None else known.seed
    lightning.seed_everything(seed, workers=True, verbose=False)
    material = prepare_material(
        options.dataset,
        options.splits if known is None else known.split,
        report,
        preset=preset,
        record=known,
        chosen=config_changes or (),
        targets=options.targets,
    )
    if preset is not None:
        settings = material.settings.replace(**(settings_changes or {}))
        record = _new_record(options, preset.name, material, settings, sam)
    else:
        assert known is not None
        record = known
        if options.max_minutes is not None:
            record = record.with_facts(max_minutes=options.max_minutes)
        if sam is not None:
            record = record.with_facts(sam_sha256=sam)
    model = _first_model(options, record, known is None)
    options.run.mkdir(parents=True, exist_ok=True)
    if record != known:
        record.save(options.run)
    if material.fingerprint:
        write_json(options.run / FINGERPRINT, material.fingerprint)
    module = MaskSAMModule(model, record.settings, record.max_minutes, record.seed)
    module.best_dice = best_dice(options.run)
    module.compiled = options.compiled
    count = sum(p.numel() for p in model.trained_parameters().values())
    report(
        f"{count / 1e6:.2f} M trained parameters, {len(material.train)} training and"
        f" {len(material.validation)} validation cases, seed {record.seed}, {_budget(record)},"
        f" on {options.devices} x {kind} in {precision(kind)}"
    )
    trainer = _trainer(options, record, material, report)
    loader = material.loader(record, options.workers, _restarts(checkpoint), kind)
    if isinstance(loader.dataset, SynthesizedWindows):
        module.common = loader.dataset.common_contrasts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        except ProcessRaisedException as error:
            raise told(error) from error
    best = max(best_dice(options.run), 0.0)
    report(f"best validation Dice {best:.4f}; weights and curves are in {options.run}")
    return best


def preview(
    options: FitOptions,
    count: int,
    report: Callable[[str], None] = print,
    config_changes: dict[str, Any] | None = None,
    settings_changes: dict[str, Any] | None = None,
) -> Path:
    """Draws ``count`` windows that a training would see to ``preview.png`` in its folder; arguments
    and errors as for :func:`fit`. Nothing is trained."""
    preset = chosen_preset(options, config_changes or {})
    material = prepare_material(
        options.dataset,
        options.splits,
        report,
        preset=preset,
        chosen=config_changes or (),
        targets=options.targets,
    )
    settings = material.settings.replace(**(settings_changes or {}))
    record = _new_record(options, preset.name, material, settings, None)
    lightning.seed_everything(options.seed, verbose=False)
    windows = material.windows(record)
    options.run.mkdir(parents=True, exist_ok=True)
    path = options.run / PREVIEW
    contact_sheet(windows, count, len(material.classes), material.plan.orientation, path)
    report(f"{count} windows are in {path}")
    return path


def _first_model(options: FitOptions, record: TrainingRecord, new: bool) -> Network:
    """The network as a training begins with it."""
    model = build_model(record.config)
    frozen = record.config.frozen_sam is not None
    if options.sam_checkpoint is not None and frozen and model.sam is not None:
        load_sam_checkpoint(model.sam, options.sam_checkpoint)
    if options.weights is not None and new:
        load_initial_weights(model, options.weights)
    return model


def _budget(record: TrainingRecord) -> str:
    if record.max_minutes is None:
        return f"{record.settings.iterations} iterations"
    return f"{record.max_minutes:g} minutes"


def _restarts(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(state["masksam"]["restarts"]) + 1


def _new_record(
    options: FitOptions,
    preset: str,
    material: Material,
    settings: TrainSettings,
    sam: str | None,
) -> TrainingRecord:
    kind = accelerator(options.device)
    if material.scheme is not None and settings.contrast > 0:
        raise MaskSAMError(
            "images synthesised from labelmaps have random contrast: leave --contrast out"
        )
    return TrainingRecord(
        config=material.config,
        plan=material.plan,
        classes=material.classes,
        values=material.values,
        settings=settings,
        seed=options.seed,
        split=material.split,
        preset=preset,
        dataset=options.dataset.resolve().name,
        facts={
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
            "device": f"{options.devices} x {kind}",
            "precision": precision(kind),
            "max_minutes": options.max_minutes,
            **({} if sam is None else {"sam_sha256": sam}),
            **({} if options.weights is None else {"started_from": options.weights.name}),
        },
        label_maps=None if material.scheme is None else material.scheme.description,
    )


def _trainer(
    options: FitOptions, record: TrainingRecord, material: Material, report: Callable[[str], None]
) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kind = accelerator(options.device)
    logs = options.run / "logs"

    checkpoints = ResumableCheckpoints(options.run, options.checkpoint_seconds)
    validation = Validation(
        options.validation_minutes,
        Evaluator(material.validation, material.classes, record.values, record.plan).score,
        BestWeightsSaver(options.run, report),
        checkpoints,
    )
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=options.devices,
        strategy=strategy(kind, options.devices),
        precision=precision(kind),
        max_epochs=-1,
        max_steps=-1,
        gradient_clip_val=record.settings.clip,
        logger=[
            CSVLogger(logs, name="csv", flush_logs_every_n_steps=20),
            TensorBoardLogger(logs, name="tensorboard"),
        ],
        log_every_n_steps=5,
        callbacks=[
            Budget(),
            checkpoints,
            validation,
            ProgressLogger(report, options.report_seconds),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=options.run,
    )
