"""Results of a comparison as Markdown, CSV and a figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MaskSAMCore.io import atomic_file, write_text
from MaskSAMCore.research.comparison.statistics import Pair, Row

SPREAD = (
    'Dice: mean (standard deviation) over the cases; "mean" first averages the classes of each'
    " case."
)
SPREAD_OF_SEEDS = (
    "Dice: mean over the cases and the seeds (standard deviation of the seeds' means), and the mean"
    " of each seed, a dash for one that failed. The tests compare the means over the seeds of each"
    " case."
)
NOTES = (
    " Surface Dice at 1 mm and the 95 % Hausdorff distance (HD95) are means over cases and"
    " classes; HD95 is infinite if a class was missed. Parameters are in millions."
    ' "minutes" and "iterations" are those until the best weights. The time is that of one volume'
    " from memory to labelmap, the memory is the peak of the segmenting process."
    ' "-box" systems receive one box in space around each class of the reference, "-boxes" systems'
    " one on each slice.\n"
)


def write_tables(
    folder: Path,
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    classes: Sequence[str],
    facts: Mapping[str, str],
    held_out: bool,
) -> None:
    """Write ``comparison.md``, ``comparison.csv``, ``cases.csv``, ``tests.csv`` and
    ``comparison.png``, each complete or not at all.

    Args:
        folder: the comparison's folder.
        rows: one row for each system, in order.
        pairs: tests of the pairs of systems.
        classes: names of the classes, in order.
        facts: descriptions of the terms of the comparison, by name.
        held_out: True if no training chose its weights on the cases.
    """
    write_text(folder / "comparison.md", markdown(rows, pairs, classes, facts, held_out))
    heading, lines = plain_table(rows, classes)
    write_text(folder / "comparison.csv", _csv([heading, *lines]))
    cases = sorted({case for row in rows for case in row.per_case})
    measured = [row for row in rows if not row.problem]
    write_text(
        folder / "cases.csv",
        _csv(
            [
                ["case", *(row.system for row in measured)],
                *([case, *(row.per_case.get(case, "") for row in measured)] for case in cases),
            ]
        ),
    )
    write_text(
        folder / "tests.csv",
        _csv(
            [
                ["first", "second", "cases", "difference", "p", "p_holm"],
                *([p.first, p.second, p.cases, p.difference, p.p, p.p_holm] for p in pairs),
            ]
        ),
    )
    draw(rows, classes, facts, folder / "comparison.png")


def markdown(
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    classes: Sequence[str],
    facts: Mapping[str, str],
    held_out: bool,
) -> str:
    """Return the report; arguments as for :func:`write_tables`."""
    parts = ["# Comparison\n"]
    parts.append("\n".join(f"- {name}: {text}" for name, text in facts.items() if text) + "\n")
    if not held_out:
        parts.append(
            "Each training chose its best weights on these cases, so figures of trained systems"
            ' are slightly too high. A split file with "test" cases avoids that.\n'
        )
    parts.append(_markdown_table(*shown_table(rows, classes)))
    parts.append((SPREAD_OF_SEEDS if any(row.seeds for row in rows) else SPREAD) + NOTES)
    left_out = [f"- {row.system}: {row.problem}" for row in rows if row.problem]
    left_out += [
        f"- {row.system}, seed {seed}: {problem}"
        for row in rows
        for seed, problem in row.seed_problems.items()
    ]
    if left_out:
        parts.append("## Left out\n\n" + "\n".join(left_out) + "\n")
    if pairs:
        lines = [
            [p.first, p.second, str(p.cases), f"{p.difference:+.4f}", _p(p.p), _p(p.p_holm)]
            for p in pairs
        ]
        heading = ["first", "second", "cases", "mean difference", "p", "p (Holm)"]
        parts.append("## Differences of mean Dice\n")
        parts.append(
            "First minus second on the same cases; Wilcoxon's signed-rank test, two-sided.\n"
        )
        parts.append(_markdown_table(heading, lines))
    return "\n".join(parts)


def shown_table(rows: Sequence[Row], classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the lines of the table with rounded figures."""
    heading = ["system", "network", *classes, "mean", "surface Dice", "HD95 mm"]
    heading += ["tunable M", "total M", "minutes", "iterations", "s a volume", "memory GiB"]
    seeded = any(row.seeds for row in rows)
    if seeded:
        heading.append("seeds")
    lines = []
    for row in rows:
        dice = [row.dice.get(name, (math.nan, math.nan)) for name in classes]
        lines.append(
            [
                row.system,
                Path(row.network).name,
                *(_with_spread(mean, spread) for mean, spread in dice),
                _with_spread(row.mean, row.spread),
                _number(row.surface_dice, 4),
                _number(row.hd95, 2),
                _number(row.tunable / 1e6, 2),
                _number(row.total / 1e6, 2),
                _number(row.minutes, 1),
                _number(row.iterations, 0),
                _number(row.seconds, 2),
                _number(row.memory / 2**30, 2),
                *([" ".join(_number(dice, 4) for dice in row.seeds.values())] if seeded else []),
            ]
        )
    return heading, lines


def plain_table(rows: Sequence[Row], classes: Sequence[str]) -> tuple[list[Any], list[list[Any]]]:
    """Return the heading and the lines of the table in full precision, unknown figures empty."""
    heading: list[Any] = ["system", "network"]
    for name in classes:
        heading += [f"dice {name}", f"dice {name} sd"]
    heading += ["dice mean", "dice mean sd", "surface dice 1 mm", "hd95 mm", "tunable", "total"]
    heading += ["minutes", "iterations", "seconds a volume", "peak memory bytes", "problem"]
    lines = []
    for row in rows:
        figures: list[float] = []
        for name in classes:
            figures += row.dice.get(name, (math.nan, math.nan))
        figures += [row.mean, row.spread, row.surface_dice, row.hd95, row.tunable, row.total]
        figures += [row.minutes, row.iterations, row.seconds, row.memory]
        known = ["" if math.isnan(value) else value for value in figures]
        failed = [f"seed {seed}: {problem}" for seed, problem in row.seed_problems.items()]
        lines.append([row.system, row.network, *known, row.problem or "; ".join(failed)])
    return heading, lines


def write_seeds(folder: Path, rows: Mapping[int, Sequence[Row]], classes: Sequence[str]) -> None:
    """Write ``seeds.csv`` with the Dice of every system and seed, or the reason why it has none.

    Args:
        folder: the comparison's folder.
        rows: rows of the systems by seed.
        classes: names of the classes, in order.
    """
    heading = ["system", "seed", *(f"dice {name}" for name in classes), "dice mean", "iterations"]
    lines: list[list[Any]] = []
    for seed, each in rows.items():
        for row in each:
            figures: list[Any] = [""] * (len(classes) + 2)
            if not row.problem:
                figures = [*(row.dice[name][0] for name in classes), row.mean, row.iterations]
            lines.append([row.system, seed, *figures, row.problem])
    write_text(folder / "seeds.csv", _csv([[*heading, "problem"], *lines]))


def draw(rows: Sequence[Row], classes: Sequence[str], facts: Mapping[str, str], path: Path) -> None:
    """Draw the Dice of every case for each system, with the table below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading, lines = shown_table(rows, classes)
    width = max(9.0, 1.05 * len(heading))
    figure = Figure(figsize=(width, 4.2 + 0.32 * (len(rows) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=[3.4, 0.3 * (len(rows) + 1)])
    rng = np.random.default_rng(0)
    for place, row in enumerate(rows):
        values = np.array([v for v in row.per_case.values() if math.isfinite(v)])
        if values.size:
            above.boxplot(values, positions=[place], widths=0.55, showfliers=False)
            jittered = place + rng.uniform(-0.16, 0.16, values.size)
            above.plot(jittered, values, ".", alpha=0.6, markersize=5)
    # Dollar signs in the names of classes and datasets must not start a formula.
    above.set_xticks(range(len(rows)), [row.system for row in rows], rotation=15, parse_math=False)
    above.set_xlim(-0.6, len(rows) - 0.4)
    above.set(ylabel="Dice of a case, mean over classes")
    title = ", ".join(facts[key] for key in ("dataset", "cases", "budget") if key in facts)
    above.set_title(title, parse_math=False)
    above.grid(axis="y", alpha=0.3)
    below.set_axis_off()
    table = below.table(lines, colLabels=heading, loc="center", cellLoc="center")
    for cell in table.get_celld().values():
        cell.get_text().set_parse_math(False)
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.25)
    table.auto_set_column_width(list(range(len(heading))))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _markdown_table(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join("| " + " | ".join(_cell(text) for text in row) + " |" for row in rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _with_spread(mean: float, spread: float) -> str:
    return "–" if math.isnan(mean) else f"{_number(mean, 4)} ({_number(spread, 3)})"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.1e}"


def _csv(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
