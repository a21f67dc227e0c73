"""nnU-Net's own trainer with the budget of a comparison.

nnU-Net imports this file in its own environment, so the file must not import MaskSAMCore.
"""

from __future__ import annotations

import json
import math
import os
import time
from importlib.metadata import version
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

# Iterations of an epoch under a time budget: a tenth of nnU-Net's, so that training ends on time.
_SHORT_EPOCH = 25
_MANY_EPOCHS = 1_000_000
# nnU-Net has a validation iteration for every five of training.
_VALIDATION_SHARE = 5


class BudgetSpent(Exception):
    """Exception that ends a training when its time budget is spent."""


class MaskSAMBudgetTrainer(nnUNetTrainer):
    """Trainer whose learning rate schedule spans a given number of iterations or of minutes.

    The environment variable MASKSAM_ITERATIONS or MASKSAM_MINUTES holds the budget. Everything else
    is nnU-Net's. ``masksam.json`` in the output folder has facts about the training.
    """

    num_epochs: int
    num_iterations_per_epoch: int

    def initialize(self) -> None:
        """Set the budget before the schedule is built."""
        # The constructor cannot be extended: its parameters differ between nnU-Net's versions.
        self.minutes = float(os.environ.get("MASKSAM_MINUTES", "0"))
        iterations = int(os.environ.get("MASKSAM_ITERATIONS", "0"))
        epochs, length = self.num_epochs, self.num_iterations_per_epoch
        if iterations:
            epochs = math.ceil(iterations / length)
            length = math.ceil(iterations / epochs)
        elif self.minutes:
            epochs, length = _MANY_EPOCHS, _SHORT_EPOCH
        self.num_epochs, self.num_iterations_per_epoch = epochs, length
        self.num_val_iterations_per_epoch = max(1, length // _VALIDATION_SHARE)
        super().initialize()

    def run_training(self) -> None:
        """Train until the budget is spent, and write facts about the training."""
        self.started = time.monotonic()
        try:
            super().run_training()
        except BudgetSpent:
            self.on_train_end()
        facts = {
            "version": version("nnunetv2"),
            "tunable": sum(p.numel() for p in self.network.parameters()),
            "iterations": self.current_epoch * self.num_iterations_per_epoch,
            "minutes": (time.monotonic() - self.started) / 60,
        }
        text = json.dumps(facts)
        (Path(self.output_folder) / "masksam.json").write_text(text, encoding="utf-8")

    def on_train_epoch_start(self) -> None:
        """Start an epoch; under a time budget, the elapsed time sets the learning rate."""
        super().on_train_epoch_start()
        if self.minutes:
            rest = max(0.0, 1 - (time.monotonic() - self.started) / (60 * self.minutes))
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * rest**0.9

    def on_epoch_end(self) -> None:
        """End an epoch, and the training after the last one."""
        super().on_epoch_end()
        if self.minutes and time.monotonic() - self.started >= 60 * self.minutes:
            raise BudgetSpent
