"""What one run has over another, with intervals."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from fcn_core.figures.page import BLUE, DARK, GREY, MARGIN, VERMILLION, WIDTH, Page

_NAME, _ROW = 180, 22  # Units for a name, at most, and for the height of a row.
_MINUS = "\N{MINUS SIGN}"


class Difference(NamedTuple):
    """Of two runs in one score, with its interval, in percentage points; NaN where there is none."""

    name: str
    value: float
    low: float
    high: float

    @property
    def colour(self) -> str:
        """Strong if the whole interval is on one side of 0."""
        return BLUE if self.low > 0 else VERMILLION if self.high < 0 else GREY


def differences(
    rows: Sequence[Difference], path: Path, sides: tuple[str, str], title: str = "", rule: str = ""
) -> None:
    """Draw differences and their intervals as PNG.

    Args:
        rows: from top to bottom; the first one, the score that counts, is set apart.
        path: of the PNG.
        sides: what a negative and what a positive difference means, as "A is better", "B is better".
        title: above the figure.
        rule: how the intervals were found.
    """
    if not rows:
        raise ValueError("a figure of differences needs at least one row")
    page = Page()
    names = [page.fit(row.name, _NAME, 11, weight="bold") for row in rows]
    left = MARGIN + 10 + max(page.width(name, 11, weight="bold") for name in names)
    right = WIDTH - MARGIN - 14 - max(page.width(_numbers(row), 10, weight="bold") for row in rows)
    places = [index + 0.5 * (index > 0) for index in range(len(rows))]
    bottom, height = MARGIN + 46, _ROW * (places[-1] + 1)
    page.head(bottom + height + 30, title, rule, MARGIN)
    axes = page.axes(bottom, height, left=left, right=WIDTH - right)
    axes.set_xlabel("difference in percentage points", fontsize=11, color=DARK)
    _draw(axes, rows, places)
    _write_sides(page, sides, (left, right), bottom + height + 10)
    for row, name, place in zip(rows, names, places, strict=True):
        y, style = bottom + height - _ROW * (place + 0.5), {"ha": "right", "va": "center_baseline"}
        style["weight"] = "normal" if place else "bold"
        page.write(left - 10, y, name, 11, **style)
        page.write(WIDTH - MARGIN, y, _numbers(row), 10, row.colour, **style)
    page.save(path)


def _draw(axes: Axes, rows: Sequence[Difference], places: Sequence[float]) -> None:
    for row, place in zip(rows, places, strict=True):
        style: dict[str, Any] = {"color": row.colour, "linewidth": 1.8 if place else 3}
        axes.plot([row.low, row.high], [place, place], solid_capstyle="butt", **style)
        axes.plot(row.value, place, "o", markersize=7 if place else 10, color=row.colour)
    axes.margins(x=0.04)
    low, high = axes.get_xlim()
    axes.axvline(0, color=DARK, linewidth=1.2, zorder=1)
    axes.axhline(0.75, color=GREY, linewidth=0.8, zorder=1)
    axes.set(xlim=(min(low, -0.04 * high, -0.5), max(high, -0.04 * low, 0.5)), ylim=(places[-1] + 0.5, -0.5), yticks=[])
    axes.spines["left"].set_visible(False)


def _write_sides(page: Page, sides: tuple[str, str], ends: tuple[float, float], y: float) -> None:
    room = (ends[1] - ends[0]) / 2 - 28
    page.write(ends[0], y, f"← {page.fit(sides[0], room, 11)}", 11, VERMILLION)
    page.write(ends[1], y, f"{page.fit(sides[1], room, 11)} →", 11, BLUE, ha="right")


def _numbers(row: Difference) -> str:
    value, low, high = (f"{number:+.1f}" if math.isfinite(number) else "-" for number in row[1:])
    return value if low == high == "-" else f"{value} ({low} to {high})".replace("-", _MINUS)
