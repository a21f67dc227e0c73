"""``masksam models``: list, show, download, add, verify and remove models."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.models.catalog import DESCRIPTION, PREPARATIONS

if TYPE_CHECKING:
    from MaskSAMCore.models import Entry

Preparation = Enum("Preparation", {name: name for name in PREPARATIONS}, type=str)  # type: ignore[misc]

models = typer.Typer(no_args_is_help=True, help="List, show, download, add, verify, remove models.")


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.add_typer(models, name="models")


@models.command("list")
def list_models() -> None:
    """List all models and backbones, and which are installed."""
    from MaskSAMCore.models import catalog, installed

    table = Table("name", "title", "kind", "size", "licence", "installed")
    for entry in catalog():
        present = "yes" if installed(entry) else "no"
        size = f"{entry.size / 1e6:.0f} MB"
        table.add_row(entry.name, entry.title, entry.kind, size, entry.licence, present)
    Console(markup=False).print(table)


@models.command()
def info(
    model: str = typer.Argument(..., help="A name, or the path of a bundle (folder or zip)."),
) -> None:
    """Show the details of a model."""
    from MaskSAMCore.models import find, is_path, open_model

    console = Console(markup=False)
    entry = None if is_path(model) else find(model)
    if entry is not None and (entry.folder is None or entry.needs_boxes):
        typer.echo(_description(entry))
        return
    bundle, _ = open_model(model)
    console.print(f"{bundle.name}: {bundle.title}", highlight=False)
    table = Table("value", "class", "colour", "code")
    for label in bundle.labels:
        r, g, b = (round(255 * part) for part in label.color)
        meaning = ""
        if label.terminology is not None:
            codes = label.terminology.type, label.terminology.type_modifier
            meaning = ", ".join(f"{c.scheme} {c.value} {c.meaning}" for c in codes if c is not None)
        colour = Text(f"■ #{r:02x}{g:02x}{b:02x}", style=f"rgb({r},{g},{b})")
        table.add_row(str(label.value), label.name, colour, meaning)
    console.print(table)
    plan = bundle.plan
    console.print(
        f"grid {plan.orientation}, spacing {plan.spacing} mm, window {plan.window},"
        f" channels {', '.join(plan.channels)}",
        highlight=False,
    )
    console.print_json(json.dumps(bundle.card))


def _description(entry: Entry) -> str:
    """Return the source, size and licence of an entry, which the user needs before a download."""
    from MaskSAMCore.models import how_to_get, installed

    lines = [f"{entry.name}: {entry.title}, {entry.size / 1e6:.0f} MB, licence {entry.licence}"]
    if entry.url:
        lines.append(f"from {entry.url}")
    if entry.sha256:
        lines.append(f"SHA-256 {entry.sha256}")
    lines.append("installed" if installed(entry) else how_to_get(entry))
    if entry.needs_boxes:
        use = f"masksam predict VOLUME --boxes FILE.mrk.json -m {entry.name} -o OUT"
        lines.append(f"segments the object in each box; boxes may have any name: {use}")
    return "\n".join(lines)


@models.command()
def download(name: str = typer.Argument(..., help="A name of 'masksam models list'.")) -> None:
    """Download a model or backbone and verify it."""
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    from MaskSAMCore import models as store

    entry = store.find(name)
    if entry.url:
        typer.echo(_description(entry), err=True)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    with bar:
        task = bar.add_task(entry.name, total=entry.size, visible=False)
        path = store.download(
            entry, lambda done, total: bar.update(task, completed=done, total=total, visible=True)
        )
    typer.echo(str(path))


@models.command()
def add(
    path: Path = typer.Argument(..., help="A bundle (folder or zip), or the weights of a SAM."),
    name: str | None = typer.Option(
        None, help="Name of weights: sam_vit_b, sam_vit_l, sam_vit_h, medsam, or one of your own."
    ),
    sha256: str | None = typer.Option(
        None, "--sha256", help="SHA-256 that the source of weights outside the catalog gives."
    ),
    unverified: bool = typer.Option(
        False, "--unverified", help="Accept weights that cannot be verified."
    ),
    like: Preparation | None = typer.Option(
        None, help="Preprocessing of slices for your own weights: as for SAM or for MedSAM."
    ),
) -> None:
    """Verify a model from a file or folder, and keep a copy."""
    from MaskSAMCore import models as store

    for entry in store.catalog():
        official = entry.needs_boxes and entry.url
        if official and (entry.name == name or (name is None and path.name == entry.file.name)):
            if like is not None:
                raise MaskSAMError(f"--like is for your own weights, not for {entry.name}")
            typer.echo(str(store.add_file(entry, path)))
            return
    if name is None:
        if sha256 is not None or unverified or like is not None:
            raise MaskSAMError(
                "--sha256, --unverified and --like are for the weights of a SAM, which need --name;"
                " a bundle is verified by the SHA-256 in its description"
            )
        bundle = store.add_model(path)
        typer.echo(f"{bundle.name}: {bundle.folder}")
        return
    if (path / DESCRIPTION).exists():
        raise MaskSAMError(f"{path} is a bundle, which keeps its name: leave out --name")
    added = store.add_checkpoint(
        path,
        name,
        preparation=like.value if like else None,
        expected_sha256=sha256,
        unverified=unverified,
    )
    typer.echo(f"{added.name}: {added.file}\nSHA-256 {added.sha256}")


@models.command()
def verify(
    model: str = typer.Argument(..., help="A name, or the path of a bundle (folder or zip)."),
) -> None:
    """Verify the files of a model."""
    from MaskSAMCore import models as store

    typer.echo(store.verify(model))


@models.command()
def remove(
    name: str = typer.Argument(..., help="A name of 'masksam models list'."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Remove a downloaded or added model from this machine."""
    from MaskSAMCore import models as store

    entry = store.find(name)
    if not yes and not typer.confirm(f"Remove {entry.name} ({entry.size / 1e6:.0f} MB)?"):
        raise MaskSAMError("nothing was removed")
    store.remove(name)
    typer.echo(f"{name} was removed")
