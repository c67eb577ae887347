"""What each class would give at another threshold of its probability."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fcn_core.figures.page import DARK, LINES, Page, literal, sentences


class PrecisionRecall(NamedTuple):
    """One class against all others: recall and precision (N,) by falling threshold; None and empty without a pixel."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    average_precision: float | None


def precision_recall(curves: Mapping[str, PrecisionRecall], path: Path, title: str = "", rule: str = "") -> None:
    """Draw precision against recall as PNG, a line a class; the area below it is its average precision.

    Args:
        curves: of each class, by its name.
        path: of the PNG.
        title: above the figure.
        rule: how pixels were counted.
    """
    page = Page()
    lines = dict(zip(curves, itertools.cycle(LINES), strict=False))
    scored = [(curve.average_precision, name) for name, curve in curves.items() if curve.average_precision is not None]
    order = [name for _, name in sorted(scored, key=lambda pair: -pair[0])]
    keys = [_key(f"{curves[name].average_precision:.3f}  {page.fit(name, 180, 11)}", lines[name]) for name in order]
    bottom = page.legend(keys) + 46
    absent = [name for name in curves if name not in order]
    missing = f"Without a pixel: {', '.join(absent)}." if absent else ""
    page.head(bottom + 400, title, sentences("Numbers in the key: average precision.", missing, rule))
    axes = page.axes(bottom, 400, "precision")
    axes.set_xlabel("recall", fontsize=11, color=DARK)
    for name, key in reversed(list(zip(order, keys, strict=True))):
        steps = np.append(0, curves[name].recall), np.append(curves[name].precision[:1], curves[name].precision)
        style: dict[str, Any] = {"color": key.get_color(), "linestyle": key.get_linestyle(), "linewidth": 1.6}
        axes.plot(*steps, drawstyle="steps-pre", **style)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    page.save(path)


def _key(label: str, line: tuple[Any, str]) -> Line2D:
    style, colour = line
    return Line2D([], [], color=colour, linestyle=style, linewidth=1.8, label=literal(label))
