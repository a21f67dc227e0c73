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
from lightning.pytorch.strategies import DDPStrategy

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.modeling import MaskSAMConfig, build_model, load_sam_checkpoint

from .callbacks import Budget, Progress, ResumableCheckpoints, Validation, newest_checkpoint
from .curves import draw_curves
from .material import Material, prepare_material
from .module import MaskSAMModule
from .run import BEST, LAST, RUN_FILE, RunRecord, save_weights, write_json
from .settings import TrainSettings


@dataclass(frozen=True)
class FitOptions:
    """What a person decides about a training.

    Attributes:
        dataset: an nnU-Net dataset folder.
        run: the folder of the training; a new one, unless ``resume``.
        preset: network and hyperparameters to start from.
        splits: a JSON file with the cases to train on and to validate on, or None.
        max_minutes: time budget over all parts of the training, or None.
        resume: continue the training in ``run``.
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many of them (processes on a CPU).
        workers: processes that draw and augment windows, for each device.
        seed: of everything that is drawn.
        sam_checkpoint: weights of the frozen SAM; needed by presets with a frozen one.
        checkpoint_seconds, validation_minutes, report_seconds: how often.
    """

    dataset: Path
    run: Path
    preset: str = "tiny"
    splits: Path | None = None
    max_minutes: float | None = None
    resume: bool = False
    device: str = "auto"
    devices: int = 1
    workers: int = 1
    seed: int = 0
    sam_checkpoint: Path | None = None
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
            resumed, or a SAM checkpoint is missing.
    """
    checkpoint = _checkpoint(options)
    lightning.seed_everything(options.seed, workers=True, verbose=False)
    if options.resume:
        record = RunRecord.load(options.run)
        material = prepare_material(options.dataset, record.split, record, report)
    else:
        material = prepare_material(
            options.dataset, options.splits, options.preset, report, config_changes
        )
        settings = material.settings.replace(**(settings_changes or {}))
        record = _new_record(options, material, settings)
        options.run.mkdir(parents=True, exist_ok=True)
        record.save(options.run)
    model = build_model(record.config)
    if record.config.sam.frozen:
        if options.sam_checkpoint is None:
            raise MaskSAMError(
                f"preset '{record.preset}' trains beside a frozen SAM: give its official weights"
                " with --sam-checkpoint (masksam models list tells where they are)"
            )
        load_sam_checkpoint(model.sam, options.sam_checkpoint)
    module = MaskSAMModule(model, record.settings, options.max_minutes, options.seed)
    count = sum(p.numel() for p in model.trained_parameters().values())
    report(
        f"{count / 1e6:.2f} M trained parameters, {len(material.train)} training and"
        f" {len(material.validation)} validation cases, on {options.devices} x"
        f" {accelerator(options.device)} in {precision(accelerator(options.device))}"
    )
    trainer = _trainer(options, record, material, report)
    loader = material.loader(record, options, restarts=_restarts(checkpoint))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    best = _best(options.run)
    report(f"best validation Dice {best:.4f}; weights and curves are in {options.run}")
    return best


@dataclass
class Keeper:
    """Keeps what a validation found: weights, figures and curves. It travels to other processes."""

    run: Path
    report: Callable[[str], None]

    def __call__(self, module: MaskSAMModule, dice: float, best: bool) -> None:
        """The averaged weights are in place while this is called."""
        facts = {"val_dice": f"{dice:.6f}", "iteration": str(module.global_step)}
        save_weights(module.model, self.run / LAST, facts)
        if best:
            save_weights(module.model, self.run / BEST, facts)
            write_json(
                self.run / "validation.json",
                {"dice": dice, "iteration": module.global_step, "minutes": module.minutes},
            )
        for logger in module.loggers:
            logger.save()
        draw_curves(self.run)
        self.report(f"validation Dice {dice:.4f}{' (best so far)' if best else ''}")


def _checkpoint(options: FitOptions) -> Path | None:
    exists = (options.run / RUN_FILE).exists()
    if options.resume:
        if not exists:
            raise MaskSAMError(f"{options.run} holds no training to resume")
        return newest_checkpoint(options.run)
    if exists:
        raise MaskSAMError(
            f"{options.run} already holds a training: add --resume to go on with it, or choose"
            " another folder"
        )
    return None


def _restarts(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(state["masksam"]["restarts"]) + 1


def _new_record(options: FitOptions, material: Material, settings: TrainSettings) -> RunRecord:
    return RunRecord(
        config=material.config,
        plan=material.plan,
        classes=material.classes,
        settings=settings,
        seed=options.seed,
        split=material.split,
        preset=options.preset,
        dataset=options.dataset.resolve().name,
        facts={
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
            "device": f"{options.devices} x {accelerator(options.device)}",
            "precision": precision(accelerator(options.device)),
            "max_minutes": options.max_minutes,
        },
    )


def _trainer(
    options: FitOptions, record: RunRecord, material: Material, report: Callable[[str], None]
) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kind = accelerator(options.device)
    logs = options.run / "logs"

    validation = Validation(
        options.validation_minutes,
        material.evaluator(record, options.device),
        Keeper(options.run, report),
    )
    strategy: Any = "auto"
    if options.devices > 1:
        strategy = DDPStrategy(
            start_method="spawn",
            process_group_backend="nccl" if kind == "cuda" else "gloo",
            find_unused_parameters=True,
        )
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=options.devices,
        strategy=strategy,
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
            ResumableCheckpoints(options.run, options.checkpoint_seconds),
            validation,
            Progress(report, options.report_seconds),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=options.run,
    )


def accelerator(device: str) -> str:
    """ "cuda", "mps" or "cpu"; "auto" takes the first there is.

    Raises:
        MaskSAMError: a device that is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(kind for kind, there in available.items() if there)
    kind = device.split(":")[0]
    if not available.get(kind, False):
        there = ", ".join(k for k, yes in available.items() if yes)
        raise MaskSAMError(f"device '{device}' is not available here: choose auto or {there}")
    return kind


def precision(kind: str) -> Any:
    """Lightning's precision for a device: mixed where the device computes it natively. A CPU
    without bf16 instructions would emulate them, many times slower."""
    if kind == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    if kind == "cpu" and _native_bf16():
        return "bf16-mixed"
    return "32-true"


def _native_bf16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _best(run: Path) -> float:
    import json

    path = run / "validation.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["dice"]) if path.exists() else 0.0


__all__ = ["FitOptions", "MaskSAMConfig", "fit"]
