"""The score against one setting, for each value of another: as learning rates of FCN-32s, 16s and 8s."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from fcn_core.figures.page import DARK, KEY, LEFT, MARGIN, OKABE_ITO, WIDTH, Page, literal, sentences
from fcn_core.figures.searched import Axis, Dimension, as_text, cut, is_number, wrapped

_HEIGHT, _SIDES = 340, (-0.05, 1.05)
_UNITS = (WIDTH - LEFT - MARGIN) / (_SIDES[1] - _SIDES[0])  # Of the axis from 0 to 1.
_APART, _ALL_APART = 7 / _UNITS, 48 / _UNITS  # Between groups that were tried at the same values, and all of them.
_MARKS = "osD^vPX*"  # One more than colours: 56 groups look unlike each other.
_FAR = (16, 26, 40, 60, 85, 115)  # Units from a ring to its name, at best and at worst.
_AROUND = ((0, 1), (-0.7, 0.7), (0.7, 0.7), (-1, 0), (1, 0), (0, -1), (-0.7, -0.7), (0.7, -0.7))


class ScorePoint(NamedTuple):
    """What one value of a setting came to in a group: mean IoU from 0 to 1 of each seed, NaN where there is none."""

    value: Any
    group: str
    scores: Sequence[float]

    @property
    def scored(self) -> list[float]:
        """The scores that there are, in %."""
        return [100 * score for score in self.scores if math.isfinite(score)]

    @property
    def complete(self) -> bool:
        """Whether every seed has a score."""
        return len(self.scored) == len(self.scores)

    @property
    def mean(self) -> float:
        """Mean of the scores that there are, in %."""
        return mean(self.scored) if self.scored else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds, in percentage points; 0 for one seed."""
        return stdev(self.scored) if len(self.scored) > 1 else 0.0


class _Group(NamedTuple):
    """The points of one group, where they lie along the axis, and what they look like."""

    name: str
    colour: str
    marker: str
    points: list[tuple[float, ScorePoint]]

    @property
    def scored(self) -> list[tuple[float, float, float]]:
        """Place, mean and standard deviation of points that have a score."""
        return sorted((place, point.mean, point.deviation) for place, point in self.points if point.scored)

    @property
    def best(self) -> tuple[float, ScorePoint] | None:
        """The highest point, of equals the first; one that all seeds measured if there is any."""
        scored = [pair for pair in self.points if pair[1].scored]
        return max(scored, key=lambda pair: (pair[1].complete, pair[1].mean), default=None)


def score_by_setting(
    points: Sequence[ScorePoint], path: Path, setting: Dimension, by: str = "", title: str = "", rule: str = ""
) -> None:
    """Draw scores against a setting, a colour and mark a group, as PNG; the best of each group is ringed and named.

    Args:
        points: groups look as they come first; one may have several points at a value, if other settings differ.
        path: of the PNG.
        setting: along the page; if its choices are numbers, they lie where numbers do, joined by lines.
        by: what the groups differ in, as "skip configuration".
        title: above the figure.
        rule: how mean IoU is taken.
    """
    if not points:
        raise ValueError("a figure of scores needs at least one point")
    page, choices = Page(), setting.choices or ()
    joined = bool(choices) and all(map(is_number, choices))
    values = [*(point.value for point in points), *choices]
    axis = Axis.of(setting._replace(choices=None) if joined else setting, values)
    groups = _groups(points, axis)
    ticks = _ticks(page, [(axis.at(value), as_text(value)) for value in choices] if joined else axis.ticks())
    lines = max((text.count("\n") for _, text in ticks), default=0)
    bottom = page.legend([_key(page, group) for group in groups]) + 50 + 13 * lines
    page.head(bottom + _HEIGHT, title, sentences(*_notes(points, by, joined=joined), rule))
    axes = page.axes(bottom, _HEIGHT, "mean IoU, %")
    axes.set_xlabel(page.fit(setting.name, WIDTH - LEFT - MARGIN, 11), fontsize=11, color=DARK, parse_math=False)
    axes.set(xlim=_SIDES, ylim=_limits(points))
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    for group in groups:
        _draw(axes, group, joined=joined)
    _ring_bests(page, axes, groups)
    page.save(path)


def _groups(points: Sequence[ScorePoint], axis: Axis) -> list[_Group]:
    by_name: dict[str, list[ScorePoint]] = {}
    for point in points:
        by_name.setdefault(point.group, []).append(point)
    places = [{axis.at(point.value) for point in ours} for ours in by_name.values()]
    shared = sum(map(len, places)) > len(set.union(*places))
    step = min(_APART, _ALL_APART / len(by_name)) if shared else 0
    colours, marks, offset = itertools.cycle(OKABE_ITO), itertools.cycle(_MARKS), step * (len(by_name) - 1) / 2
    return [
        _Group(name, next(colours), next(marks), [(axis.at(one.value) + step * index - offset, one) for one in ours])
        for index, (name, ours) in enumerate(by_name.items())
    ]


def _key(page: Page, group: _Group) -> Line2D:
    said = ": no score"
    if group.best:
        best = group.best[1]
        several = len(best.scored) > 1
        spread, seeds = (f" ± {best.deviation:.1f}", f", {len(best.scored)} seeds") if several else ("", "")
        said = f": best {best.mean:.1f}{spread} at {cut(page, as_text(best.value), 200, 11)}{seeds}"
    text = cut(page, group.name, KEY - page.width(said, 11), 11) + said
    style: dict[str, Any] = {"marker": group.marker, "markersize": 7, "linestyle": ""}
    return Line2D([], [], color=group.colour, label=literal(text), **style)


def _notes(points: Sequence[ScorePoint], by: str, *, joined: bool) -> list[str]:
    bars = any(len(point.scored) > 1 for point in points)
    crosses = not all(point.complete for point in points)
    return [
        f"Colour and mark: {by}." if by else "",
        "Lines join the best at each value." if joined else "",
        "Bars: mean and one standard deviation (n-1) over seeds either way." if bars else "",
        "Crosses at the foot: runs without a score." if crosses else "",
    ]


def _limits(points: Sequence[ScorePoint]) -> tuple[float, float]:
    """Return the range of %, with room for names above and crosses below."""
    scored = [point for point in points if point.scored]
    if not scored:
        return 0, 100
    low = min(point.mean - point.deviation for point in scored)
    high = max(point.mean + point.deviation for point in scored)
    spare = max(0.0, 2 - (high - low)) / 2  # At least two points: less would look like more than it is.
    room = high - low + 2 * spare
    return low - spare - 0.14 * room, high + spare + 0.16 * room


def _ticks(page: Page, ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return as many ticks as there is room for."""
    room = max(60.0, _UNITS / max(1, len(ticks)) - 12)
    free, kept = -math.inf, []
    for place, text in sorted(ticks):
        lines = wrapped(page, text, room, 10)
        half = max(page.width(line, 10) for line in lines.split("\n")) / 2
        if place * _UNITS - half >= free:
            free = place * _UNITS + half + 8
            kept.append((place, literal(lines)))
    return kept


def _draw(axes: Axes, group: _Group, *, joined: bool) -> None:
    style: dict[str, Any] = {"color": group.colour, "linewidth": 1.4}
    if joined:
        tops = {place: value for place, value, _ in group.scored}  # Sorted: the last at a place is the highest.
        axes.plot(list(tops), list(tops.values()), **style)
    for place, value, deviation in group.scored:
        if deviation:
            ends = [value - deviation, value + deviation]
            axes.plot([place, place], ends, marker="_", markersize=7, markeredgewidth=1.4, **style)
    marks: dict[str, Any] = {"linestyle": "", "marker": group.marker, "markersize": 7, "markeredgecolor": "white"}
    axes.plot([place for place, _, _ in group.scored], [value for _, value, _ in group.scored], **style, **marks)
    missing = [place for place, point in group.points if not point.complete]
    foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "linestyle": "", "markeredgewidth": 2}
    axes.plot(missing, [0.04] * len(missing), marker="x", markersize=7, **style, **foot)


def _ring_bests(page: Page, axes: Axes, groups: Sequence[_Group]) -> None:
    """Ring the best of each group; write its name beside it where there is room, as the key has it anyway."""
    bests = [(group, *group.best) for group in groups if group.best]
    busy = np.concatenate([_along(line) / page.unit for line in axes.lines])
    for group, place, point in bests:
        style: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": group.colour, "markeredgewidth": 2}
        axes.plot(place, point.mean, "o", markersize=15, **style)
        axes.plot(place, point.mean, group.marker, markersize=7, color=group.colour, markeredgecolor="white")
    rings = [axes.transData.transform((place, point.mean)) / page.unit for _, place, point in bests]
    taken = [Bbox([ring, ring]).padded(9) for ring in rings]
    inside = Bbox(axes.bbox.get_points() / page.unit)
    for ring, (group, _, point) in sorted(zip(rings, bests, strict=True), key=lambda pair: -pair[0][1]):
        text = f"{cut(page, group.name, 200, 11, weight='bold')} {point.mean:.1f}"
        box = _room(ring, page.width(text, 11, weight="bold"), inside, taken, busy)
        if box:
            taken.append(box)
            _name(page, ring, box, text, group.colour)


def _along(line: Line2D) -> NDArray[np.float64]:
    """Return points (N, 2) that a line or its marks cover, in pixels."""
    path = line.get_path().transformed(line.get_transform())
    return np.asarray((path if line.get_linestyle() == "None" else path.interpolated(12)).vertices).reshape(-1, 2)


def _room(
    ring: NDArray[np.float64], width: float, inside: Bbox, taken: Sequence[Bbox], busy: NDArray[np.float64]
) -> Bbox | None:
    """Return where to write something `width` units wide: near, and over as little as possible."""
    found = []
    for order, (far, (right, up)) in enumerate(itertools.product(_FAR, _AROUND)):
        x, y = ring[0] + right * (far + width / 2), ring[1] + up * far
        box = Bbox.from_extents(x - width / 2, y - 7, x + width / 2, y + 7)
        if inside.count_contains(box.corners()) == 4 and not box.count_overlaps(taken):
            hidden = int(((busy > box.p0 - 4) & (busy < box.p1 + 4)).all(axis=1).sum())
            found.append((12 * hidden + far, order, box))
    return min(found)[2] if found else None


def _name(page: Page, ring: NDArray[np.float64], box: Bbox, text: str, colour: str) -> None:
    x, y = np.clip(ring, box.p0, box.p1)
    if math.dist(ring, (x, y)) > 14:
        style: dict[str, Any] = {"color": colour, "linewidth": 0.8, "transform": page.units}
        page.figure.add_artist(Line2D([ring[0], x], [ring[1], y], **style))
    halo = [withStroke(linewidth=3, foreground="white")]
    x, y = (box.p0 + box.p1) / 2
    page.write(x, y, text, 11, colour, ha="center", va="center_baseline", weight="bold", path_effects=halo)
