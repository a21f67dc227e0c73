"""Training of a SAM on synthesised slices, from labelmaps to a run folder."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from MaskSAMCore.data.synthesis.labelmap import Labelmap
from MaskSAMCore.data.window_numbers import WindowNumbers
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.inference.device import choose_device, mixed_precision
from MaskSAMCore.io.labelmaps import read_labelmap
from MaskSAMCore.modeling.base import Network
from MaskSAMCore.modeling.boxes import mask_boxes
from MaskSAMCore.modeling.sam.predictor import filled_box_logits
from MaskSAMCore.research.promptable_sam.box_masks import ellipses, filled_boxes
from MaskSAMCore.research.promptable_sam.config import PromptableSamConfig
from MaskSAMCore.research.promptable_sam.loss import LossSettings
from MaskSAMCore.research.promptable_sam.network import PromptableSam, Prompts
from MaskSAMCore.research.promptable_sam.run import PretrainRecord
from MaskSAMCore.research.promptable_sam.slices import SyntheticSlices
from MaskSAMCore.training.callbacks import (
    BestWeightsSaver,
    Budget,
    EarlyStop,
    ProgressLogger,
    ResumableCheckpoints,
    Validation,
)
from MaskSAMCore.training.checkpoint import checkpoint_path, next_restart, resumed_checkpoint
from MaskSAMCore.training.devices import accelerator, precision
from MaskSAMCore.training.hyperparameters import TrainSettings
from MaskSAMCore.training.module import MaskSAMModule
from MaskSAMCore.training.run_folder import RUN_FILE, best_dice
from MaskSAMCore.training.trainer import build_trainer, interruptible
from MaskSAMCore.training.validation import Scores

# Default hyperparameters. At a learning rate of 2e-3 nothing was learned.
SETTINGS = TrainSettings(
    learning_rate=1e-3,
    warm_up=200,
    iterations=40_000,
    batch=8,
    clip=1.0,
    ema=0.998,
    mirror=(),
    augmentation=0.0,
    validation_share=0.05,
    validation_minutes=10.0,
    loss=LossSettings(),
)
# Default number of objects that are prompted on each slice.
_OBJECTS = 16
# Images are synthesised from labelmaps of bytes.
_MOST_LABELS = 255
# Added to the seed for the validation slices, and for the slices after each resumption.
_VALIDATION_SEED, _RESTART = 500_000, 15_485_863
_LOG_STEPS = 5


@dataclass(frozen=True)
class PretrainOptions:
    """Choices of the user for the training of a SAM.

    Attributes:
        labelmaps: files of labelmaps of anything; with ``resume``, empty or the files of the run,
            which may have been moved.
        run: folder of the training, a new one unless ``resume`` is set.
        validation: files of held-out labelmaps for validation; if empty, other slices than those
            of the training are synthesised from ``labelmaps``.
        max_minutes: time budget over all parts of the training, or None.
        iterations: number of steps of the whole training in place of a time budget, or None. With
            neither, a new training has the iterations of ``settings``, and a resumed one keeps its
            budget.
        stop_after: minutes after which this part of the training ends, to be resumed, or None.
        resume: continue the training in ``run``.
        device: "auto", "cpu", "cuda" or "mps".
        seed: seed of all random numbers of a new training.
        config: configuration of a new SAM.
        settings: hyperparameters of a new training.
        objects: number of objects that are prompted on each slice; None for 16 or, with ``resume``,
            the number of the run.
        validation_slices: number of slices of a validation.
        checkpoint_seconds: time between two checkpoints in seconds.
        report_seconds: time between two progress reports in seconds.
    """

    labelmaps: tuple[Path, ...]
    run: Path
    validation: tuple[Path, ...] = ()
    max_minutes: float | None = None
    iterations: int | None = None
    stop_after: float | None = None
    resume: bool = False
    device: str = "auto"
    seed: int = 0
    config: PromptableSamConfig = field(default_factory=PromptableSamConfig)
    settings: TrainSettings = SETTINGS
    objects: int | None = None
    validation_slices: int = 64
    checkpoint_seconds: float = 90.0
    report_seconds: float = 15.0


class BoxValidation:
    """Validation of a SAM by prompts with the true boxes of objects, on slices not trained on.

    Args:
        slices: source of the validation slices, of which the first ones are taken.
        count: number of slices.

    Attributes:
        ellipse: mean Dice of the ellipses in the boxes.
    """

    def __init__(self, slices: SyntheticSlices, count: int) -> None:
        self.slices = [slices.prepare(number) for number in range(count)]
        size = slices.size
        found = [ellipses(_boxes(truth).numpy(), size, size) for _, truth in self.slices]
        self.ellipse = _mean_dice(found, [truth for _, truth in self.slices])

    @torch.inference_mode()
    def score(self, model: Network, device: str) -> Scores:
        """Return the mean Dice of a SAM's masks, each limited to its box prompt."""
        assert isinstance(model, PromptableSam)
        place = choose_device(device).device
        found = []
        for image, truth in self.slices:
            size = image.shape[-1]
            boxes = _boxes(truth).to(place)
            with mixed_precision(place):
                embedding = model.encode(image[None].to(place)).float()
            cells = model.prompt_encoder.mask_input_size[0]
            prompts = Prompts(boxes=boxes, masks=filled_box_logits(boxes, size, cells))
            logits = model.predict(embedding, prompts)[0][:, :1]
            masks = F.interpolate(logits, (size, size), mode="bilinear")[:, 0] > 0
            found.append(masks.cpu().numpy() & filled_boxes(boxes.cpu().numpy(), size, size))
        return Scores({"box": _mean_dice(found, [truth for _, truth in self.slices])})


def pretrain(
    options: PretrainOptions,
    report: Callable[[str], None] = print,
    settings_changes: Mapping[str, Any] | None = None,
) -> float:
    """Train a SAM until the budget is spent.

    Args:
        options: choices of the user.
        report: function that receives lines of text for the user.
        settings_changes: hyperparameters that the user has chosen; with ``resume`` they must be
            those of the run.

    Returns:
        Best mean Dice on the validation slices.

    Raises:
        MaskSAMError: a labelmap cannot be used, the run exists or cannot be resumed, the device is
            not available, or the loss is no longer finite.
    """
    if options.max_minutes is not None and options.iterations is not None:
        raise MaskSAMError("--max-minutes and --iterations are two budgets: choose one")
    kind = accelerator(options.device)
    changes = settings_changes or {}
    record = _resumed(options, changes) if options.resume else _begun(options, changes, kind)
    train = read_labelmaps(record.labelmaps)
    held_out = read_labelmaps(record.validation) if record.validation else train
    lightning.seed_everything(record.seed, verbose=False)
    model = PromptableSam(record.config)
    module = MaskSAMModule(model, record.settings, record.max_minutes, record.seed)
    checkpoint = resumed_checkpoint(options.run) if options.resume else None
    size = record.config.window[1]
    unseen = SyntheticSlices(held_out, size, record.objects, record.seed + _VALIDATION_SEED)
    validation = BoxValidation(unseen, options.validation_slices)
    seed = record.seed + _RESTART * next_restart(checkpoint)
    slices = SyntheticSlices(train, size, record.objects, seed)
    slices.numbers = WindowNumbers(record.settings.batch)
    options.run.mkdir(parents=True, exist_ok=True)
    record.save(options.run)
    module.best_dice = best_dice(options.run)
    count = sum(p.numel() for p in model.parameters())
    budget = (
        f"{record.settings.iterations} iterations"
        if record.max_minutes is None
        else f"{record.max_minutes:g} minutes"
    )
    report(
        f"{count / 1e6:.2f} M parameters, {len(train)} labelmaps, {record.settings.batch} slices"
        f" with {record.objects} objects in a step, seed {record.seed}, {budget}, on {kind} in"
        f" {precision(kind)}"
    )
    ellipse = validation.ellipse
    report(f"ellipses in the true boxes of the validation slices have Dice {ellipse:.4f}")
    early_stop = EarlyStop(options.stop_after)
    trainer = _trainer(options, record, validation, kind, early_stop, report)
    with warnings.catch_warnings(), interruptible():
        warnings.simplefilter("ignore")
        loader: DataLoader[Any] = DataLoader(slices, record.settings.batch)
        trainer.fit(module, loader, ckpt_path=checkpoint_path(checkpoint), weights_only=True)
    best = max(best_dice(options.run), 0.0)
    if module.stopped:
        report(f"stopped at iteration {trainer.global_step}: continue with --resume")
        if early_stop.interrupted:
            raise KeyboardInterrupt
    else:
        report(f"best validation Dice {best:.4f}; weights and curves are in {options.run}")
    return best


def read_labelmaps(paths: Sequence[str]) -> list[Labelmap]:
    """Read labelmaps with any labels for the synthesis.

    Raises:
        MaskSAMError: a file is no labelmap, has no label, or has too many.
    """
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> Labelmap:
    volume = read_labelmap(path)
    values, indices = np.unique(volume.array, return_inverse=True)
    if len(values) > _MOST_LABELS:
        raise MaskSAMError(
            f"{path} has {len(values)} values: merge labels, for at most {_MOST_LABELS} are used"
        )
    if not values.any():
        raise MaskSAMError(f"{path} has no label: leave it out")
    # Index 0 means the background, which a labelmap may lack.
    shift = 0 if values[0] == 0 else 1
    array = (indices + shift).reshape(volume.shape).astype(np.uint8)
    return Labelmap.from_volume(replace(volume, array=array), "SAR")


def _begun(
    options: PretrainOptions, settings_changes: Mapping[str, Any], kind: str
) -> PretrainRecord:
    """Return the record of a new training."""
    if (options.run / RUN_FILE).exists():
        raise MaskSAMError(
            f"{options.run} already holds a training: add --resume to continue it, or choose"
            " another folder"
        )
    if not options.labelmaps:
        raise MaskSAMError("a training needs labelmaps: give their files")
    labelmaps, validation = _absolute(options.labelmaps), _absolute(options.validation)
    both = sorted(set(labelmaps) & set(validation))
    if both:
        raise MaskSAMError(
            f"{len(both)} labelmap(s) would be trained on and validate, such as {both[0]}: leave"
            " them out of one of the two"
        )
    record = PretrainRecord(
        config=options.config,
        settings=options.settings.replace(**settings_changes),
        seed=options.seed,
        objects=_OBJECTS if options.objects is None else options.objects,
        labelmaps=labelmaps,
        validation=validation,
        facts={
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
            "device": kind,
            "precision": precision(kind),
            "max_minutes": None,
        },
    )
    return record.with_budget(options.max_minutes, options.iterations)


def _resumed(options: PretrainOptions, settings_changes: Mapping[str, Any]) -> PretrainRecord:
    """Return the record of a training to continue.

    Raises:
        MaskSAMError: a choice of the user differs from that of the run, or labelmaps of the run
            were moved.
    """
    record = PretrainRecord.load(options.run)
    record = replace(
        record,
        labelmaps=_same_labelmaps(options.run, options.labelmaps, record.labelmaps),
        validation=_same_labelmaps(options.run, options.validation, record.validation),
    )
    others = [
        name for name, value in settings_changes.items() if getattr(record.settings, name) != value
    ]
    others += ["objects"] if options.objects not in (None, record.objects) else []
    if others:
        raise MaskSAMError(
            f"{options.run} was begun with another --{others[0].replace('_', '-')}: leave it out,"
            " or give that of its first command"
        )
    return record.with_budget(options.max_minutes, options.iterations)


def _same_labelmaps(run: Path, given: Sequence[Path], own: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labelmaps of a run at the paths where they are now.

    Args:
        run: folder of the run.
        given: labelmaps that the user gave again, or none.
        own: labelmaps in the run's record.

    Raises:
        MaskSAMError: other labelmaps were given, or none although those of the run were moved.
    """
    if not given:
        moved = [path for path in own if not Path(path).exists()]
        if moved:
            raise MaskSAMError(
                f"{len(moved)} labelmap(s) of {run} are no longer where they were, such as"
                f" {moved[0]}: give all of them at their new place with --resume"
            )
        return own
    if [path.name for path in given] != [Path(path).name for path in own]:
        raise MaskSAMError(
            f"{run} was trained on other labelmaps: leave them out with --resume, or start another"
            " run"
        )
    return _absolute(given)


def _absolute(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(str(path.resolve()) for path in paths)


def _boxes(masks: Tensor) -> Tensor:
    """Return the tight boxes (N, 4) of masks (N, size, size) in pixels."""
    return mask_boxes(masks.bool())[0] * masks.shape[-1]


def _mean_dice(found: Sequence[np.ndarray], truths: Sequence[Tensor]) -> float:
    """Return the mean Dice over the objects of all slices."""
    scores = []
    for masks, truth in zip(found, truths, strict=True):
        true = truth.numpy().astype(bool)
        both, sizes = (masks & true).sum((1, 2)), masks.sum((1, 2)) + true.sum((1, 2))
        scores.append(2 * both / sizes)
    return float(np.concatenate(scores).mean())


def _trainer(
    options: PretrainOptions,
    record: PretrainRecord,
    validation: BoxValidation,
    kind: str,
    early_stop: EarlyStop,
    report: Callable[[str], None],
) -> lightning.Trainer:
    settings = record.settings
    checkpoints = ResumableCheckpoints(options.run, options.checkpoint_seconds)
    return build_trainer(
        kind,
        options.run,
        [
            Budget(),
            early_stop,
            checkpoints,
            Validation(
                settings.validation_share,
                settings.validation_minutes,
                validation.score,
                BestWeightsSaver(options.run, report),
                checkpoints,
            ),
            ProgressLogger(report, options.report_seconds),
        ],
        settings.clip,
        logger=CSVLogger(options.run / "logs", name="csv", flush_logs_every_n_steps=20),
        log_every_n_steps=_LOG_STEPS,
    )
