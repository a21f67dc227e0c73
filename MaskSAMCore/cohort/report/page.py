"""The page of a report, made from the table of a run and the files that it names."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from MaskSAMCore.cohort.case import picture_of
from MaskSAMCore.cohort.report.figure import distribution_svg
from MaskSAMCore.cohort.report.outliers import (
    FEWEST_VALUES,
    OUTLIER,
    ClassVolumes,
    class_volumes,
)
from MaskSAMCore.cohort.report.pictures import draw_picture
from MaskSAMCore.cohort.table import Row, RowVolume, paths_of, volumes_of_row
from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.io.files import write_text
from MaskSAMCore.labels import Label, default_colors
from MaskSAMCore.volumetry import INTRACRANIAL

# Column of the table with the lower bound of the expected Dice, which not all models have.
EXPECTED_DICE = "expected_dice_low"
# Outliers of a case that are named beside its picture.
_NAMED_OUTLIERS = 6
# Threads that read images at the same time.
_READERS = 4
_PACKAGES = ("jinja2", "matplotlib", "PIL")
_HERE = Path(__file__).parent
# Line at the beginning of each page, which identifies a file as a report.
_MARK = '<meta name="generator" content="MaskSAM report">'
_MARKED_BYTES = 1024
# Parts of the beginning of pages that earlier versions wrote.
_EARLIER_MARKS = ("default-src 'none'; img-src data:", "<title>Segmentations in ")


@dataclass(frozen=True)
class Finding:
    """A class whose volume is an outlier.

    Attributes:
        name: class name.
        ml: volume in ml.
        median: median of the cohort in ml.
        score: robust z-score.
    """

    name: str
    ml: float
    median: float
    score: float


@dataclass(frozen=True)
class Link:
    """A file of a case.

    Attributes:
        text: text of the link.
        href: address relative to the page; empty if the file does not exist.
    """

    text: str
    href: str


@dataclass(frozen=True)
class ReportCase:
    """A case as the page shows it.

    Attributes:
        number: place in the order of the page, from 0.
        name: name of the case.
        status: status in the table.
        reason: reason why the case is skipped or failed.
        notes: messages for the user.
        links: files of the case.
        outliers: outliers in volume, the strongest first.
        score: largest distance of a volume from the cohort's median, in robust standard deviations;
            None if unknown.
        dice: lower bound of the expected Dice; None if unknown.
        seconds: time for the case; None if unknown.
        memory: peak memory in MB; None if unknown.
        total: volume of all classes in ml; None if unknown.
    """

    number: int
    name: str
    status: str
    reason: str
    notes: str
    links: tuple[Link, ...]
    outliers: tuple[Finding, ...]
    score: float | None
    dice: float | None
    seconds: float | None
    memory: float | None
    total: float | None

    @property
    def kind(self) -> str:
        """Name of the filter on the page that shows the case."""
        return "outlier" if self.outliers else self.status

    @property
    def empty(self) -> bool:
        """True if the case was segmented and no class was found."""
        return self.status == "done" and self.total == 0


def check_installed() -> None:
    """Check that the packages that reports need are installed.

    Raises:
        MaskSAMError: a package is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MaskSAMError(f"reports need {', '.join(missing)}: pip install 'masksam[report]'")


def check_report_file(path: Path) -> None:
    """Check that a file is a report, so that a new report may replace it.

    Raises:
        MaskSAMError: the file is of another kind, or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_MARKED_BYTES)
    except OSError as error:
        raise MaskSAMError(f"{path} cannot be read: {(error.strerror or '').lower()}") from error
    earlier = all(mark.encode() in start for mark in _EARLIER_MARKS)
    if _MARK.encode() not in start and not earlier:
        raise MaskSAMError(f"{path} is no report that masksam wrote: name another file")


def write_report(
    path: Path,
    rows: Mapping[str, Row],
    folder: Path,
    labels: Sequence[Label] = (),
    overwrite: bool = False,
) -> None:
    """Write the page, complete or not at all.

    Failures come first, then cases in which no class was found, then those with the lowest expected
    Dice or, without it, the strongest outliers in volume. The pictures that the run has written are
    used; a picture that is missing, or older than its labelmap, is drawn from image and labelmap.

    Args:
        path: HTML file to write.
        rows: rows of the table of the run by case.
        folder: folder of the results.
        labels: classes of the model with their colours; other classes have default colours.
        overwrite: whether an existing file may be replaced.

    Raises:
        MaskSAMError: a package is missing, there are no rows, or the file exists or cannot be
            written.
    """
    check_installed()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if not rows:
        raise MaskSAMError(f"{folder} has no cases to report: segment some first")
    volumes = {name: volumes_of_row(row) for name, row in rows.items() if row["status"] == "done"}
    classes = class_volumes(
        {name: {c: one.ml for c, one in found.items()} for name, found in volumes.items()}
    )
    cases = _ordered([_case(row, classes, folder, path.parent) for row in rows.values()])
    numbers = {case.name: case.number for case in cases}
    colors = _colors(classes, labels)
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        # File names and messages may hold any characters.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        mark=_MARK,
        title=f"Segmentations in {folder.resolve().name}",
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        models=sorted({_model(row) for row in rows.values()} - {""}),
        counts=_counts(cases),
        cases=cases,
        pictures=_pictures(cases, rows, folder, labels),
        figure=distribution_svg(classes, colors, numbers),
        classes=list(zip((one.name for one in classes), colors, strict=True)),
        data={
            "limit": OUTLIER,
            "classes": _class_data(classes, colors),
            "cases": _data(cases, classes, volumes),
            "has_shares": any(
                one.share is not None for found in volumes.values() for one in found.values()
            ),
        },
        has_dice=any(case.dice is not None for case in cases),
        has_scores=any(one.scores for one in classes),
        limit=OUTLIER,
        fewest=FEWEST_VALUES,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=(_HERE / "report.css").read_text(encoding="utf-8"),
    )
    write_text(path, page, overwrite)


def _case(row: Row, classes: Sequence[ClassVolumes], folder: Path, base: Path) -> ReportCase:
    """Return a case with the preliminary number 0, and with links relative to ``base``."""
    name = row["case"]
    scores = {one.name: one.scores[name] for one in classes if name in one.scores}
    outliers = [
        Finding(one.name, one.ml[name], one.median, scores[one.name])
        for one in classes
        if abs(scores.get(one.name, 0.0)) > OUTLIER
    ]
    # The intracranial volume is a sum of classes.
    ml = [one.ml[name] for one in classes if name in one.ml and one.name != INTRACRANIAL]
    return ReportCase(
        number=0,
        name=name,
        status=row["status"],
        reason=row["reason"],
        notes=row["notes"],
        links=tuple(_links(row, folder, base)),
        outliers=tuple(sorted(outliers, key=lambda one: -abs(one.score))[:_NAMED_OUTLIERS]),
        score=max(map(abs, scores.values())) if scores else None,
        dice=_number(row.get(EXPECTED_DICE, "")),
        seconds=_number(row["seconds"]),
        memory=_number(row["peak_memory_mb"]),
        total=sum(ml) if ml else None,
    )


def _ordered(cases: Sequence[ReportCase]) -> list[ReportCase]:
    """Return the cases sorted and numbered, the cases to look at first in front."""
    statuses = {"failed": 0, "started": 1, "done": 2}
    has_dice = any(case.dice is not None for case in cases)

    def place(case: ReportCase) -> tuple[int, bool, float, float, str]:
        # A case without any class has no estimate; `case.empty` puts it first within its status.
        dice = case.dice if has_dice and case.dice is not None else math.inf
        status = statuses.get(case.status, 3)
        return (status, not case.empty, dice, -(case.score or 0.0), case.name)

    return [
        ReportCase(**{**vars(case), "number": number})
        for number, case in enumerate(sorted(cases, key=place))
    ]


def _links(row: Row, folder: Path, base: Path) -> list[Link]:
    inputs = _images(row)
    names = ["image"] if len(inputs) == 1 else [f"image {n + 1}" for n in range(len(inputs))]
    links = [Link(name, _href(path, base)) for name, path in zip(names, inputs, strict=True)]
    if row["status"] in ("done", "skipped"):
        for output in paths_of(row["output"]):
            found = find_output(output, row["case"], folder)
            links += [
                Link("labelmap", _href(found, base)),
                Link("folder", _href(found and found.parent, base)),
            ]
    return links


def find_output(path: Path, case: str, folder: Path) -> Path | None:
    """Return the current path of an output in a table; None if it does not exist.

    Args:
        path: path as stated in the table.
        case: name of the case, including the subfolders of its output.
        folder: folder of the results, which may have been moved.
    """
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for count in range(case.count("/") + 1, len(parts) + 1):
        tail = parts[-count:]
        if ".." in tail:
            break
        if folder.joinpath(*tail).exists():
            return folder.joinpath(*tail)
    return path if path.is_absolute() and path.exists() else None


def _images(row: Row) -> list[Path | None]:
    """Return the images of a case; None for relative paths.

    Earlier versions wrote relative paths. From any directory other than that of the run, they lead
    to other files, perhaps of another patient.
    """
    return [path if path.is_absolute() else None for path in paths_of(row["input"])]


def _href(path: Path | None, base: Path) -> str:
    """Return the address of a file relative to a folder; empty if there is no such file."""
    if path is None or not path.exists():
        return ""
    target = path.resolve()
    try:
        relative = Path(os.path.relpath(target, base.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return target.as_uri()
    return "./" + quote(os.fsencode(relative))


def _pictures(
    cases: Sequence[ReportCase], rows: Mapping[str, Row], folder: Path, labels: Sequence[Label]
) -> list[str]:
    """Return the picture of each case in base 64; empty if there is none."""

    def picture(case: ReportCase) -> str:
        row = rows[case.name]
        outputs = (find_output(path, case.name, folder) for path in paths_of(row["output"]))
        output = next(outputs, None)
        if case.status not in ("done", "skipped") or output is None:
            return ""
        written = picture_of(output)
        if _is_newer(written, output):
            content = written.read_bytes()
        else:
            # There is no picture, or the labelmap was segmented anew or corrected since.
            content = draw_picture(next(iter(_images(row)), None), output, labels)
        return base64.b64encode(content).decode()

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(picture, cases))


def _is_newer(picture: Path, output: Path) -> bool:
    """Return whether a picture exists that was written after the labelmap."""
    try:
        return picture.stat().st_mtime_ns >= output.stat().st_mtime_ns
    except OSError:
        return False


def _colors(classes: Sequence[ClassVolumes], labels: Sequence[Label]) -> list[str]:
    """Return the colour of each class as "#rrggbb"."""
    known = {label.name: label.color for label in labels}
    defaults = default_colors(len(classes))
    colors = [known.get(one.name, d) for one, d in zip(classes, defaults, strict=True)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in color) for color in colors]


def _class_data(classes: Sequence[ClassVolumes], colors: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "color": color,
            "low": round(one.low, 4),
            "median": round(one.median, 4),
            "high": round(one.high, 4),
        }
        for one, color in zip(classes, colors, strict=True)
    ]


def _data(
    cases: Sequence[ReportCase],
    classes: Sequence[ClassVolumes],
    volumes: Mapping[str, Mapping[str, RowVolume]],
) -> list[list[Any]]:
    """Return volume, confidence, score and share of the classes of each case; None if unknown."""
    found: list[list[Any]] = []
    for case in cases:
        own = volumes.get(case.name, {})
        found.append(
            [
                [
                    round(own[one.name].ml, 4),
                    _rounded(own[one.name].confidence, 3),
                    _rounded(one.scores.get(case.name), 2),
                    _rounded(own[one.name].share, 2),
                ]
                if one.name in own
                else None
                for one in classes
            ]
        )
    return found


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _counts(cases: Sequence[ReportCase]) -> list[tuple[str, str, int]]:
    """Return the filters of the page: kind, text and number of cases."""
    texts = {
        "failed": "failed",
        "started": "interrupted",
        "outlier": "outliers in volume",
        "done": "without outliers",
        "skipped": "skipped",
    }
    kinds = [case.kind for case in cases]
    return [(kind, text, kinds.count(kind)) for kind, text in texts.items() if kind in kinds]


def _model(row: Row) -> str:
    return " ".join(filter(None, (row["model"], row["model_version"], row["software"])))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
