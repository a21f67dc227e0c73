"""``masksam submission``: write the zip file that a challenge's server takes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer

from MaskSAMCore.cli.outputs import Inputs, Outputs, prepared


class Challenge(str, Enum):
    """Challenges whose servers take labelmaps."""

    amos22 = "amos22"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("submission")(submission)


def submission(
    challenge: Challenge = typer.Argument(..., help="amos22."),
    labelmaps: Path = typer.Argument(..., help="Folder of the predicted labelmaps."),
    output: Path = typer.Option(..., "-o", "--output", help="Zip file to write."),
    images: Path = typer.Option(
        ..., "--images", help="Folder of the phase's images, each of which needs a labelmap."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace a file that exists."),
) -> None:
    """Check labelmaps against their images and write the zip file of a challenge."""
    from MaskSAMCore.research.submission import write_amos_submission

    given = Inputs((labelmaps, images), closed=(labelmaps, images))
    with prepared(Outputs((output,)), given, overwrite):
        count = write_amos_submission(labelmaps, images, output, overwrite)
    typer.echo(f"{output}: {count} labelmaps for {challenge.value}")
