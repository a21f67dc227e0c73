"""A small plot of the Dice over the minutes of learning."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import qt

# Size in pixels, which fits a narrow panel, and the margins, which hold the numbers.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 250, 90, 34, 16, 8, 8
# Readable on light and on dark backgrounds.
_LINE, _AXES = "#3584e4", "#808080"
# Smallest range of Dice that the axis shows.
_SMALLEST_SPAN = 0.05


def dice_plot(points: Sequence[tuple[float, float]]) -> Any:
    """Return a pixmap with a line through one or more points (minutes, Dice)."""
    dice = [value for _minute, value in points]
    middle = (min(dice) + max(dice)) / 2
    half = max((max(dice) - min(dice)) / 2, _SMALLEST_SPAN / 2)
    lower, upper = max(0.0, middle - half), min(1.0, middle + half)
    last = max(points[-1][0], 1e-6)

    def x(minute: float) -> int:
        return round(_LEFT + minute / last * (_WIDTH - _LEFT - _RIGHT))

    def y(value: float) -> int:
        return round(_TOP + (upper - value) / (upper - lower) * (_HEIGHT - _TOP - _BOTTOM))

    pixmap = qt.QPixmap(_WIDTH, _HEIGHT)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter()
    painter.begin(pixmap)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    font = painter.font()
    font.setPixelSize(10)
    painter.setFont(font)
    painter.setPen(qt.QPen(qt.QColor(_AXES)))
    painter.drawLine(_LEFT, _TOP, _LEFT, y(lower))
    painter.drawLine(_LEFT, y(lower), _WIDTH - _RIGHT, y(lower))
    painter.drawText(0, y(upper) + 8, f"{upper:.3f}")
    painter.drawText(0, y(lower), f"{lower:.3f}")
    painter.drawText(_LEFT, _HEIGHT - 2, "0")
    painter.drawText(_WIDTH - _RIGHT - 44, _HEIGHT - 2, f"{last:>5.1f} min")
    pen = qt.QPen(qt.QColor(_LINE))
    pen.setWidth(2)
    painter.setPen(pen)
    for (before, one), (minute, value) in itertools.pairwise(points):
        painter.drawLine(x(before), y(one), x(minute), y(value))
    for minute, value in points:
        painter.drawEllipse(x(minute) - 1, y(value) - 1, 3, 3)
    painter.end()
    return pixmap
