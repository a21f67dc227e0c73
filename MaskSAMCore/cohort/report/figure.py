"""Figure of the volumes of a cohort, as SVG whose outliers link to their cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np

from MaskSAMCore.cohort.report.outliers import OUTLIER, ClassVolumes

# Volumes beyond this percentage of the median are shown at the edge.
_LARGEST = 250
# Placeholder for the colour of the surrounding text (currentColor), which Matplotlib lacks.
_TEXT_COLOR = "#010203"


def distribution_svg(
    classes: Sequence[ClassVolumes], colors: Sequence[str], numbers: Mapping[str, int]
) -> str:
    """Return a figure of all classes: boxes of quartiles, whiskers from 5 to 95 %, and outliers.

    Args:
        classes: volumes of the classes; classes with a median of 0 are left out.
        colors: colour of each class, "#rrggbb".
        numbers: number of each case on the page.

    Returns:
        SVG element; empty if no class is left.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = [pair for pair in zip(classes, colors, strict=True) if pair[0].median > 0]
    if not shown:
        return ""
    figure = Figure(figsize=(12.2, 0.6 + 0.2 * len(shown)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.axvline(100, color=_TEXT_COLOR, linewidth=0.6, linestyle=":")
    for place, (one, color) in enumerate(shown):
        percent = {case: 100 * ml / one.median for case, ml in one.ml.items()}
        whiskers = [100 * one.low / one.median, 100 * one.high / one.median]
        low, high = np.percentile(list(percent.values()), (25, 75))
        # The fill may have the colour of the page, so bars and points have edges.
        edge: dict[str, Any] = {"edgecolor": _TEXT_COLOR, "linewidth": 0.5}
        axes.plot(whiskers, [place] * 2, color=_TEXT_COLOR, linewidth=0.9, alpha=0.6)
        axes.barh(place, high - low, 0.62, low, color=color, zorder=2, **edge)
        outside = [case for case, score in one.scores.items() if abs(score) > OUTLIER]
        if outside:
            points = axes.scatter(
                [min(percent[case], _LARGEST) for case in outside],
                [place] * len(outside),
                s=26,
                color=color,
                clip_on=False,
                zorder=3,
                **edge,
            )
            points.set_urls([f"#case-{numbers[case]}" for case in outside])
        axes.text(
            _LARGEST + 15,
            place,
            f"{one.median:.3g} ml",
            ha="right",
            va="center",
            fontsize=9,
            color=_TEXT_COLOR,
        )
    axes.set(xlim=(0, _LARGEST + 16), ylim=(len(shown) - 0.4, -0.6))
    axes.set_xticks(range(0, _LARGEST + 1, 50))
    axes.set_xticklabels([f"{n} %" for n in range(0, _LARGEST, 50)] + [f"≥ {_LARGEST} %"])
    axes.set_yticks(range(len(shown)))
    for text in axes.set_yticklabels([one.name for one, _ in shown]):
        text.set_parse_math(False)  # a dollar sign would begin a formula
    axes.tick_params(colors=_TEXT_COLOR, labelsize=9, length=0, pad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(axis="x", color=_TEXT_COLOR, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)
    buffer = StringIO()
    # Text stays text, which takes less space and can be searched.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "masksam"}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(_TEXT_COLOR, "currentColor")
