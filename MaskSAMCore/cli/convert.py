"""``masksam convert``: turn a public dataset's archive into an nnU-Net folder."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared


class Kind(str, Enum):
    """Datasets of the MaskSAM and MA-SAM papers, and tasks of the decathlon."""

    acdc = "acdc"
    amos22 = "amos22"
    btcv = "btcv"
    synapse = "synapse"
    msd = "msd"
    prostate = "prostate"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("convert")(convert)


def convert(
    kind: Kind = typer.Argument(
        ...,
        help="acdc; amos22; btcv (13 organs) and synapse (8 organs), both from BTCV's RawData.zip;"
        " msd (a task of the decathlon); prostate (six sites).",
    ),
    source: Path = typer.Argument(
        ..., help="The archive as its owner gives it (zip or tar), or its extracted folder."
    ),
    dataset: Path = typer.Argument(..., help="New dataset folder."),
    partial: bool = typer.Option(
        False, "--partial", help="Convert what there is of an incomplete archive."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a dataset that exists."),
) -> None:
    """Turn a public dataset's archive into an nnU-Net folder with the papers' split."""
    from MaskSAMCore.research.conversion.convert import convert, summary

    given = Inputs((source,), closed=(source,) if source.is_dir() else ())
    with prepared(Outputs(replaced=(dataset,)), given, overwrite):
        found = convert(
            kind.value,
            source,
            dataset,
            partial=partial,
            overwrite=overwrite,
            report=lambda line: typer.echo(line, err=True),
        )
    typer.echo(f"{dataset}: {summary(found)}")
