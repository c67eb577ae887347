"""Validation and training by epoch: of one run, of several, and of repeats pooled."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from fcn_core.figures.page import DARK, KEY, LINES, Page, literal, sentences

_AROUND = [(0, 17), (0, -17), (-41, 17), (41, 17), (-41, -17), (41, -17), (0, 34), (0, -34)]
_POOLED = (
    "Repeats are drawn as the mean of the runs at epochs that all of them measured, in a band of one standard "
    "deviation (n-1) either way, and as thin lines."
)


class CurvePoint(NamedTuple):
    """What one epoch came to; NaN where it was not measured."""

    epoch: int
    mean_iou: float
    train_loss: float


class _Series(NamedTuple):
    """One measure of the runs of a label: each run (E, 2) epoch and value, pooled (E, 3) with standard deviation."""

    runs: list[NDArray[np.float64]]
    pooled: NDArray[np.float64]

    @property
    def best(self) -> tuple[float, float, float] | None:
        """Epoch, value and standard deviation where the value is highest."""
        if not len(self.pooled):
            return None
        epoch, value, deviation = self.pooled[self.pooled[:, 1].argmax()].tolist()
        return epoch, value, deviation


def curves(histories: Mapping[str, Sequence[Sequence[CurvePoint]]], path: Path, rule: str = "") -> None:
    """Draw validation mean IoU and training loss by epoch as PNG, a line a label.

    Args:
        histories: of each label, its runs; several runs, repeats with other seeds, are drawn as mean and deviation.
        path: of the PNG.
        rule: how mean IoU is taken.
    """
    page = Page()
    scores = [_series(runs, "mean_iou") for runs in histories.values()]
    losses = [_series(runs, "train_loss") for runs in histories.values()]
    keys = [_line_key(page, *args) for args in zip(itertools.cycle(LINES), histories, scores, strict=False)]
    bottom = page.legend(keys) + 46
    repeats = any(len(runs) > 1 for runs in histories.values())
    page.head(bottom + 400, "Validation mean IoU", sentences(_POOLED if repeats else "", rule))
    upper, lower = page.axes(bottom + 110, 290, "mean IoU"), page.axes(bottom, 90, "training loss")
    upper.tick_params(labelbottom=False)
    upper.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    lower.set_xlabel("epoch", fontsize=11, color=DARK)
    lower.ticklabel_format(axis="y", scilimits=(-2, 4))  # A sum over pixels is large.
    lower.sharex(upper)
    for key, score, loss in zip(keys, scores, losses, strict=True):
        _draw(upper, key, score)
        _draw(lower, key, loss)
    upper.margins(x=0.04, y=0.14)
    upper.set(xlim=upper.get_xlim(), ylim=(max(0, upper.get_ylim()[0]), None))
    _mark(upper, [(series.best[:2], key) for series, key in zip(scores, keys, strict=True) if series.best])
    page.save(path)


def _series(runs: Sequence[Sequence[CurvePoint]], measure: str) -> _Series:
    # Epochs that were not measured are left out: a run validated every few epochs still shows a line.
    pairs = [[(point.epoch, getattr(point, measure)) for point in run] for run in runs]
    finite = [np.array([pair for pair in run if math.isfinite(pair[1])]).reshape(-1, 2) for run in pairs]
    return _Series(finite, _pool(finite))


def _pool(runs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    if len(runs) < 2:
        run = runs[0] if runs else np.empty((0, 2))
        return np.column_stack([run, np.zeros(len(run))])
    by_epoch = [dict(run.tolist()) for run in runs]
    epochs = sorted(set.intersection(*map(set, by_epoch)))
    values = np.array([[run[epoch] for run in by_epoch] for epoch in epochs]).reshape(-1, len(runs))
    return np.column_stack([epochs, values.mean(1), values.std(1, ddof=1)])


def _line_key(page: Page, line: tuple[Any, str], label: str, series: _Series) -> Line2D:
    said = ": no mean IoU yet"
    if series.best:
        epoch, value, deviation = series.best
        spread, over = (f" ± {deviation:.3f}", f", {len(series.runs)} runs") if len(series.runs) > 1 else ("", "")
        said = f": best {value:.3f}{spread} at epoch {epoch:.0f}{over}"
    text = page.fit(label, KEY - page.width(said, 11), 11) + said
    style, colour = line
    key = Line2D([], [], color=colour, linewidth=1.8, marker="o", label=literal(text))
    key.set(linestyle=style, markersize=7, markerfacecolor="white", markeredgewidth=2)
    return key


def _draw(axes: Axes, key: Line2D, series: _Series) -> None:
    epochs, values, deviation = series.pooled.T
    colour = key.get_color()
    if len(series.runs) > 1:
        axes.fill_between(epochs, values - deviation, values + deviation, color=colour, alpha=0.18, linewidth=0)
        for run in series.runs:
            axes.plot(*run.T, color=colour, linestyle=key.get_linestyle(), linewidth=0.7, alpha=0.6)
    marker = "o" if len(epochs) == 1 else ""
    axes.plot(epochs, values, color=colour, linestyle=key.get_linestyle(), linewidth=1.8, marker=marker)


def _mark(axes: Axes, bests: Sequence[tuple[tuple[float, float], Line2D]]) -> None:
    """Ring the best epoch of each line; write its value beside it where there is room, as the key has it anyway."""
    lines = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    for best, key in bests:
        axes.plot(*best, "o", markersize=8, color="white", markeredgecolor=key.get_color(), markeredgewidth=2)
    rings = axes.transData.transform([best for best, _ in bests])
    taken = [Bbox([ring, ring]).padded(10) for ring in rings]
    for index, (best, key) in sorted(enumerate(bests), key=lambda pair: -pair[1][0][1]):
        text = axes.annotate(f"{best[1]:.3f}", best, _AROUND[0], textcoords="offset points")
        text.set(ha="center", va="center", fontsize=11, weight="bold", color=key.get_color())
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        places = []
        for preference, text.xyann in enumerate(_AROUND):
            box = text.get_window_extent()
            if _is_free(axes, box, taken) and _nearest(box, rings, index):
                places.append((sum(line.intersects_bbox(box, filled=False) for line in lines), preference, box))
        if places:
            _, preference, box = min(places)
            text.xyann = _AROUND[preference]
            taken.append(box)
        text.set_visible(bool(places))


def _is_free(axes: Axes, box: Bbox, taken: Sequence[Bbox]) -> bool:
    return axes.bbox.count_contains(box.corners()) == 4 and not box.count_overlaps(taken)


def _nearest(box: Bbox, rings: NDArray[np.float64], index: int) -> bool:
    """Tell whether no ring is nearer than its own: it would be read as the value of that one."""
    away = np.hypot(*(rings - (box.p0 + box.p1) / 2).T)
    return bool(away[index] <= away.min() + 1)
