"""``masksam quality``: fit and evaluate the estimator of a model's Dice."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from MaskSAMCore.cli.display import LastingConsole
from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared, present
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import write_json

if TYPE_CHECKING:
    from MaskSAMCore.quality.bundles import SampleRequest
    from MaskSAMCore.quality.evaluate import QualityMeasures

quality = typer.Typer(
    no_args_is_help=True, help="Fit and evaluate the expected Dice of a model's results."
)


class Side(str, Enum):
    """Side of a split."""

    train = "train"
    val = "val"
    test = "test"


class Suite(str, Enum):
    """Sets of image corruptions: those that the estimator is fitted on, or others."""

    fitted = "fitted"
    other = "other"


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.add_typer(quality, name="quality")


_MODEL = typer.Argument(..., help="A model's name or the folder of its bundle.")
_DATASET = typer.Argument(..., help="nnU-Net dataset folder, or one of labelmaps alone.")
_SPLITS = typer.Option(None, help="JSON file with the cases of each side.")
_TARGETS = typer.Option(None, help="JSON file that describes labelmaps without images.")
_SAMPLES = typer.Option(
    None, "--samples", help="File of the results so far; a run that was stopped continues there."
)
_DEVICE = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps.")


@quality.command()
def fit(
    model: str = _MODEL,
    dataset: Path = _DATASET,
    splits: Path | None = _SPLITS,
    side: Side = typer.Option(
        Side.val, help="Cases to fit on; the network should not have been trained on them."
    ),
    targets: Path | None = _TARGETS,
    results: int = typer.Option(240, min=1, help="Number of results to fit to."),
    samples: Path | None = _SAMPLES,
    seed: int = typer.Option(0, min=0, help="Seed of the corruptions."),
    device: str = _DEVICE,
) -> None:
    """Segment corrupted images with ground truth, and fit the estimator to their true Dice.

    The estimator is written as quality.json into the bundle's folder.
    """
    from MaskSAMCore.quality.bundles import fit_bundle

    request = _request(dataset, splits, side, targets, results, samples, seed, Suite.fitted)
    written = Outputs(extended=present(samples))
    with prepared(written, Inputs((dataset, *present(splits, targets))), overwrite=True):
        progress = ResultsProgress()
        file, estimator = fit_bundle(model, request, device, progress)
    facts = estimator.facts
    typer.echo(f"{file}: fitted to {facts['results']} results of {facts['cases']} cases")


@quality.command()
def evaluate(
    model: str = _MODEL,
    dataset: Path = _DATASET,
    splits: Path | None = _SPLITS,
    side: Side = typer.Option(Side.test, help="Cases to measure on."),
    targets: Path | None = _TARGETS,
    results: int = typer.Option(120, min=2, help="Number of results."),
    suite: Suite = typer.Option(
        Suite.other, "--corruptions", help="Corruptions of the fit, or others."
    ),
    samples: Path | None = _SAMPLES,
    seed: int = typer.Option(1, min=0, help="Seed of the corruptions."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="JSON file of the measures; a picture is written beside it."
    ),
    device: str = _DEVICE,
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace measures that exist."),
) -> None:
    """Compare expected and true Dice on images that the estimator was not fitted on."""
    from MaskSAMCore.quality.bundles import evaluate_bundle
    from MaskSAMCore.quality.evaluate import draw_scatter

    request = _request(dataset, splits, side, targets, results, samples, seed, suite)
    picture = None if output is None else output.with_suffix(".png")
    written = Outputs(present(output, picture), extended=present(samples))
    with prepared(written, Inputs((dataset, *present(splits, targets))), overwrite):
        estimator, found, measures = evaluate_bundle(model, request, device, ResultsProgress())
        if output is not None and picture is not None:
            write_json(output, measures.to_json())
            draw_scatter(estimator, found, f"{model}: {len(found)} results", picture)
    _print(measures)


class ResultsProgress:
    """Progress callback that prints a line on stderr after each tenth of the results."""

    def __init__(self) -> None:
        self._console = LastingConsole(stderr=True, markup=False)

    def __call__(self, done: int, total: int) -> None:
        """Print the number of results at each tenth.

        Args:
            done: number of results so far.
            total: number of results in all.
        """
        if done == total or done % max(total // 10, 1) == 0:
            self._console.print(f"{done} of {total} results", highlight=False)


def _request(
    folder: Path,
    splits: Path | None,
    side: Side,
    targets: Path | None,
    results: int,
    samples: Path | None,
    seed: int,
    suite: Suite,
) -> SampleRequest:
    from MaskSAMCore.data.dataset import examine_dataset
    from MaskSAMCore.data.splits import held_out_cases, split_cases
    from MaskSAMCore.quality.bundles import SampleRequest
    from MaskSAMCore.quality.corruptions import FITTED, HELD_OUT

    dataset, problems = examine_dataset(folder, targets)
    if problems:
        raise MaskSAMError("; ".join(problems))
    if side is Side.test:
        names = held_out_cases(dataset, splits)
    else:
        names = split_cases(dataset, splits)[side.value]
    if not names:
        raise MaskSAMError(f"the split has no cases under '{side.value}': choose another --side")
    corruptions = FITTED if suite is Suite.fitted else HELD_OUT
    return SampleRequest(dataset, names, results, seed, samples, corruptions)


def _print(measures: QualityMeasures) -> None:
    table = Table("class", "rank correlation")
    for name, value in measures.rank_correlation.items():
        table.add_row(name, f"{value:.3f}")
    table.add_row("mean", f"{measures.mean_rank_correlation:.3f}")
    Console(markup=False).print(table)
    typer.echo(
        f"{measures.results} results: the bound holds in {100 * measures.coverage:.1f} %, mean"
        f" error {measures.mean_error:.3f}; {measures.failed} failed,"
        f" {100 * measures.detected:.0f} % of them detected; false alarms"
        f" {100 * measures.false_alarms:.1f} %"
    )
