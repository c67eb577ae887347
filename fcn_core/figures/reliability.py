"""Whether confidence is earned: accuracy against confidence (Guo, Pleiss, Sun and Weinberger, ICML 2017)."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from fcn_core.figures.page import BLUE, DARK, GREY, KEY, VERMILLION, Page, literal, sentences

_UNIT = 2.0**-24  # In which confidence is summed.
_FEW = 0.001  # Of all pixels; a bin that has fewer says little.


def reliability(
    before: NDArray[np.int64],
    after: NDArray[np.int64] | None,
    path: Path,
    labels: tuple[str, str],
    title: str = "",
    rule: str = "",
) -> None:
    """Draw accuracy against confidence before and after calibration, above how many pixels have it, as PNG.

    Args:
        before: (B, 3) of B equal bins of confidence from 0 to 1: pixels, correct ones, sum of confidence in 2 ** -24.
        after: the same at the fitted temperature, or None.
        path: of the PNG.
        labels: of both in the key, with temperature and calibration error.
        title: above the figure.
        rule: how pixels were counted.
    """
    tables = [before] if after is None else [before, after]
    for table in tables:
        if table.shape != (len(before), 3):
            raise ValueError(f"bins are (B, 3), equally many before and after, not {[one.shape for one in tables]}")
    page = Page()
    keys = [
        _key(page.fit(label, KEY, 11), colour, marker)
        for label, colour, marker in zip(labels, (VERMILLION, BLUE), "os", strict=True)
    ]
    keys = keys[: len(tables)]
    perfect = Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="confidence = accuracy; bars: the gap")
    bottom = page.legend([*keys, perfect]) + 46
    page.head(bottom + 470, title, sentences("Hollow marks: bins with fewer than 0.1 % of pixels.", rule))
    upper, lower = page.axes(bottom + 120, 350, "accuracy"), page.axes(bottom, 100, "% of pixels")
    lower.set_xlabel("confidence", fontsize=11, color=DARK)
    # Most pixels are in the last bin: others would not be seen beside it.
    lower.set(ylim=(0.01, 100), yscale="log", yticks=(0.01, 0.1, 1, 10, 100), yticklabels=("0.01", "", "1", "", "100"))
    lower.yaxis.set_minor_locator(NullLocator())
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    for index, (table, key) in enumerate(zip(tables, keys, strict=True)):
        _draw(upper, table, key)
        _draw_shares(lower, table, key, (index / len(tables), (index + 1) / len(tables)))
    upper.set(xlim=(0, 1), ylim=(0, 1))
    upper.tick_params(labelbottom=False)
    lower.sharex(upper)
    page.save(path)


def _key(label: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], color=colour, linewidth=1.8, marker=marker, markersize=7, label=literal(label))


def _draw(axes: Axes, table: NDArray[np.int64], key: Line2D) -> None:
    filled = table[table[:, 0] > 0]
    pixels, correct, confidence = filled.T
    mean, accuracy = confidence * _UNIT / pixels, correct / pixels
    axes.vlines(mean, mean, accuracy, color=key.get_color(), alpha=0.3, linewidth=7)
    axes.plot(mean, accuracy, color=key.get_color(), linewidth=1.8)
    style: dict[str, Any] = {
        "color": key.get_color(),
        "marker": key.get_marker(),
        "markersize": 7,
        "linestyle": "",
        "clip_on": False,
    }
    few = pixels < _FEW * pixels.sum()
    axes.plot(mean[~few], accuracy[~few], **style)
    axes.plot(mean[few], accuracy[few], markerfacecolor="white", **style)


def _draw_shares(axes: Axes, table: NDArray[np.int64], key: Line2D, part: tuple[float, float]) -> None:
    """Draw a bar in `part` of the width of each bin."""
    shares = 100 * table[:, 0] / max(1, table[:, 0].sum())
    starts = (np.arange(len(table)) + 0.1 + 0.8 * part[0]) / len(table)
    axes.bar(starts, shares, 0.8 * (part[1] - part[0]) / len(table), align="edge", color=key.get_color())
