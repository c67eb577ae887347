"""How a population trained: scores and settings of its members from generation to generation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fcn_core.figures.page import GREY, LEFT, VERMILLION, Page, literal, sentences
from fcn_core.figures.searched import Dimension, is_number

_SCORES, _SETTING, _GAP, _FOOT = 240, 80, 30, 46

WIDE = 1.2
"""Decades from which on only powers of ten are marked."""


class Segment(NamedTuple):
    """A member of a population in one generation."""

    member: int
    parent: "Segment | None"
    """From whose last epoch it went on; None in the first generation."""
    point: Mapping[str, Any]
    """Its settings."""
    epochs: Sequence[int]
    """That it trained, counted from 1."""
    scores: Sequence[float]
    """After each of them, from 0 to 1."""

    @property
    def line(self) -> list[tuple[int, float]]:
        """Epochs and scores in %, from those that it began with."""
        before = self.parent.line[-1:] if self.parent is not None else []
        return [*before, *zip(self.epochs, (100 * score for score in self.scores), strict=True)]


def population(
    generations: Sequence[Sequence[Segment]],
    path: Path,
    dimensions: Sequence[Dimension],
    metric: str = "mean IoU",
    title: str = "",
    rule: str = "",
) -> None:
    """Draw scores, and each setting that is a number, by epoch, as PNG; the line that led to the best is marked.

    Args:
        generations: the members of each generation; of the last one the best by its last score is followed back.
        path: of the file.
        dimensions: the settings that changed.
        metric: what was scored.
        title: of the figure.
        rule: by which scores are counted.

    Raises:
        ValueError: no member has a score.
    """
    segments = [segment for members in generations for segment in members if segment.epochs]
    if not segments:
        raise ValueError("no member of the population has a score")
    last = max(segments, key=lambda segment: (segment.epochs[-1:], segment.line[-1][1], -segment.member))
    led = _ancestry(last)
    shown = [one for one in dimensions if all(is_number(segment.point[one.name]) for segment in segments)]
    page = Page()
    bottom = page.legend(_keys()) + _FOOT
    places = [bottom + index * (_SETTING + _GAP) for index in range(len(shown))]
    top = bottom + len(shown) * (_SETTING + _GAP)
    note = "Members that did badly went on from the weights of ones that did well, with settings changed a little."
    page.head(top + _SCORES, title, sentences(note, rule))
    panels = [page.axes(place, _SETTING) for place in places]
    scores = page.axes(top, _SCORES, f"{literal(metric)}, %")
    for segment in segments:
        _draw(scores, segment.line, led=segment in led, copied=_copied(segment))
        for axes, one in zip(panels, shown[::-1], strict=True):
            value = segment.point[one.name]
            epochs = [segment.line[0][0] if segment.parent else segment.epochs[0] - 1, segment.epochs[-1]]
            _draw(axes, [(epoch, value) for epoch in epochs], led=segment in led, copied=False)
    for axes, one, place in zip(panels, shown[::-1], places, strict=True):
        page.write(LEFT, place + _SETTING + 6, one.name, 11)
        if one.log:
            _logarithmic(axes, [segment.point[one.name] for segment in segments])
    last_epoch = max(segment.epochs[-1] for segment in segments)
    for axes in [*panels, scores]:
        axes.set_xlim(0, last_epoch)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=axes is (panels or [scores])[0])
    page.write(LEFT, bottom - 32, "epoch", 11)
    page.save(path)


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    decades = math.log10(max(values) / min(values))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < WIDE else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _ancestry(last: Segment) -> list[Segment]:
    line = [last]
    while line[-1].parent is not None:
        line.append(line[-1].parent)
    return line


def _copied(segment: Segment) -> bool:
    return segment.parent is not None and segment.parent.member != segment.member


def _draw(axes: Axes, line: Sequence[tuple[float, float]], *, led: bool, copied: bool) -> None:
    colour, width, order = (VERMILLION, 2.4, 3) if led else (GREY, 1.0, 2)
    axes.plot(*zip(*line, strict=True), color=colour, lw=width, zorder=order, solid_capstyle="round")
    if copied:
        axes.plot(*line[0], "o", ms=5, mfc="white", mec=colour, zorder=order + 1)


def _keys() -> list[Line2D]:
    return [
        Line2D([], [], color=VERMILLION, lw=2.4, label="led to the best"),
        Line2D([], [], color=GREY, lw=1.0, label="other members"),
        Line2D([], [], color=GREY, lw=0, marker="o", ms=5, mfc="white", label="went on from another"),
    ]
