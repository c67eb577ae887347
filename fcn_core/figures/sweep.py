"""The trials of a sweep: what each was set to, and what it came to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from fcn_core.figures.page import DARK, GREY, LEFT, MARGIN, WIDTH, Page, sentences
from fcn_core.figures.searched import Dimension, cut, wrapped
from fcn_core.figures.trials import Column, State, Trial, score_column, setting_column

_HEIGHT, _LINE = 320, 14  # Units of the axes, and of a line of text.
_VALUE, _LABEL = 110, 90  # Units at most for values beside the first axis, and for the label of a trial.
_STRIP, _LEADER = 14, 24  # Units from the last axis to the end of its colours, and on to the marks of the best.
_MARKS = "os^"  # Of the best, the second and the third.
_FINE = 80  # Trials from which on lines are thinner.
_DULL, _BAND = "#9a9a9a", "#d6d6d6"
_STYLES: dict[State, tuple[str, Any]] = {
    "finished": ("finished", "-"),
    "stopped": ("stopped early", (0, (5, 2))),
    "diverged": ("diverged", (0, (1, 1.5))),
    "failed": ("failed", (0, (4, 1.5, 1, 1.5))),
}
_CAPTION = "A line is a trial, the darker the higher its mean IoU; the {} thick, with name and score."
# Without the yellow end, which would not be seen on white.
_SHADES = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, 256)))


class _Grid(NamedTuple):
    """Where axes are on the page, in units."""

    page: Page
    left: float
    step: float
    bottom: float

    @classmethod
    def of(cls, page: Page, columns: Sequence[Column], names: Sequence[str], bottom: float) -> "_Grid":
        values = max((page.width(text, 10) for _, text in columns[0].ticks), default=0)
        left = max(LEFT, MARGIN + 10 + min(values, _VALUE))
        named = max((10 + page.width(name, 11, weight="bold") for name in names), default=0)
        right = MARGIN + _STRIP + _LEADER + named
        return cls(page, left, (WIDTH - left - right) / (len(columns) - 1), bottom)

    def at(self, column: int, share: float) -> tuple[float, float]:
        return self.left + column * self.step, self.bottom + share * _HEIGHT

    def line(self, points: Sequence[tuple[float, float]], color: Any, width: float, **style: Any) -> None:  # noqa: ANN401
        line = Line2D(*np.transpose(points), color=color, linewidth=width, transform=self.page.units, **style)
        self.page.figure.add_artist(line)


def parallel_coordinates(
    dimensions: Sequence[Dimension], trials: Sequence[Trial], path: Path, title: str = "", rule: str = ""
) -> None:
    """Draw each trial as a line through its settings to its score, as PNG.

    Args:
        dimensions: the settings that were searched, an axis each, from left to right.
        trials: any number; the best three of those that finished or were stopped are named, of equals the earliest.
        path: of the PNG.
        title: above the figure.
        rule: how mean IoU is taken.
    """
    if not dimensions or not trials:
        raise ValueError("parallel coordinates need at least one setting and one trial")
    page = Page()
    ranked = sorted(trials, key=lambda trial: trial.rank, reverse=True)[::-1]  # The best are drawn last.
    columns = [*(setting_column(dimension, ranked) for dimension in dimensions), score_column(ranked)]
    names = [_name(page, trial) for trial in reversed(ranked[-len(_MARKS) :]) if trial.counts]
    grid = _Grid.of(page, columns, names, page.legend(_keys(ranked)) + 20)
    top = _write_headings(grid, [column.name for column in columns])
    caption = _CAPTION.format(f"best {len(names)} are" if len(names) > 1 else "best one is") if names else ""
    page.head(top, title, sentences(caption, rule), MARGIN)
    for index, column in enumerate(columns):
        _draw_axis(grid, index, column)
    _draw_shades(grid, len(dimensions), columns[-1], ranked)
    lines = list(zip(*(column.heights for column in columns), strict=True))
    _draw_trials(grid, ranked, lines)
    _write_names(grid, names, [line[-1] for line in reversed(lines)][: len(names)], len(dimensions))
    page.save(path)


def _name(page: Page, trial: Trial) -> str:
    return f"{cut(page, trial.label, _LABEL, 11, weight='bold')}: {100 * trial.score:.1f}"


def _keys(trials: Sequence[Trial]) -> list[Line2D]:
    keys = []
    for state, (name, style) in _STYLES.items():
        num = sum(trial.state == state for trial in trials)
        colour = _SHADES(0.7) if state in ("finished", "stopped") else _DULL
        if num:
            keys.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.6, label=f"{name}: {num}"))
    return keys


def _shares(trials: Sequence[Trial]) -> list[float]:
    """Return where the score of each trial is between the lowest (0) and the highest (1) of those that count."""
    counting = [trial.score for trial in trials if trial.counts]
    low, high = min(counting, default=0), max(counting, default=0)
    return [(trial.score - low) / (high - low) if high > low else 1.0 for trial in trials]


def _write_headings(grid: _Grid, names: Sequence[str]) -> float:
    """Write the names of settings above their axes, each below its group, and return where they end."""
    top = 0.0
    for index, name in enumerate(names):
        x, y = grid.at(index, 1)
        y += 14
        room = grid.step - 8 if index else min(grid.step - 8, 2 * (grid.left - MARGIN))
        group, _, leaf = name.rpartition(".")
        for text, colour in ((leaf, DARK), (group, GREY)):
            for line in reversed(wrapped(grid.page, text, room, 10).split("\n") if text else []):
                grid.page.write(x, y, line, 10, colour, ha="center")
                y += _LINE
        top = max(top, y)
    return top


def _draw_axis(grid: _Grid, index: int, column: Column) -> None:
    for band in column.bands:
        grid.line([grid.at(index, share) for share in band], _BAND, 7, solid_capstyle="round", zorder=1)
    for part in column.parts:
        grid.line([grid.at(index, share) for share in part], GREY, 1, zorder=1.5)
    room = grid.step - 18 if index else _VALUE
    free = -1.0
    for share, text in sorted(column.ticks):
        (x, y), lines = grid.at(index, share), wrapped(grid.page, text, room, 10)
        half = _LINE * (lines.count("\n") + 1) / 2
        if y - half >= free:
            free = y + half
            grid.line([(x - 6, y), (x, y)], GREY, 1, zorder=1.5)
            halo = [withStroke(linewidth=3, foreground="white")]
            grid.page.write(x - 9, y, lines, 10, ha="right", va="center", linespacing=1.2, path_effects=halo)


def _draw_shades(grid: _Grid, index: int, column: Column, trials: Sequence[Trial]) -> None:
    """Draw the colours of scores beside their axis."""
    counting = [height for height, trial in zip(column.heights, trials, strict=True) if trial.counts]
    if not counting or min(counting) == max(counting):
        return
    (left, low), (_, high) = grid.at(index, min(counting)), grid.at(index, max(counting))
    axes = grid.page.axes(low, high - low, left=left + 6, right=WIDTH - left - _STRIP)
    axes.set_axis_off()
    axes.imshow(np.linspace(0, 1, 256)[:, None], cmap=_SHADES, aspect="auto", origin="lower")


def _draw_trials(grid: _Grid, trials: Sequence[Trial], lines: Sequence[Sequence[float]]) -> None:
    for index, (trial, share, line) in enumerate(zip(trials, _shares(trials), lines, strict=True)):
        points = [grid.at(*place) for place in enumerate(line)]
        style = {"linestyle": _STYLES[trial.state][1], "gid": trial.label}
        place = len(trials) - 1 - index
        if trial.counts and place < len(_MARKS):
            grid.line(points, "white", 4.6)
            marked = {"marker": _MARKS[place], "markersize": 8, "markeredgecolor": "white"}
            grid.line(points, _SHADES(share), 2.6, **style, **marked)
        else:
            grid.line(points, _SHADES(share) if trial.counts else _DULL, 1.2 if len(trials) < _FINE else 0.8, **style)


def _write_names(grid: _Grid, names: Sequence[str], shares: Sequence[float], column: int) -> None:
    """Write the names of the best at their scores, the best above."""
    free = float("inf")
    for index, (name, share) in enumerate(zip(names, shares, strict=True)):
        x, y = grid.at(column, share)
        free = max(min(y, free), grid.bottom + 16 * (len(names) - 1 - index))
        end = x + _STRIP + _LEADER
        grid.line([(x + _STRIP + 2, y), (end - 6, free)], GREY, 0.8)
        grid.line([(end, free)], DARK, 0, marker=_MARKS[index], markersize=7)
        grid.page.write(end + 8, free, name, 11, va="center_baseline", weight="bold")
        free -= 16
