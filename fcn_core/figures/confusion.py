"""Which class is taken for which."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcn_core.figures.page import DARK, GREY, MARGIN, PALE, WIDTH, Page, sentences
from fcn_core.settings import Classes

_NAME, _FREQUENCY = 160, 50  # Units for names, at most, and for the column of frequencies.
_CAPTION = "Each row is where the pixels of one true class went, in %: from white (0) to dark blue (100)."


class _Grid(NamedTuple):
    """Where the cells are on the page, in units."""

    num: int
    left: float
    width: float
    height: float
    header: float

    @classmethod
    def of(cls, page: Page, names: Sequence[str]) -> "_Grid":
        longest = max(page.width(name, 10) for name in names)
        left = MARGIN + 28 + longest
        width = min(max(64, longest + 8), (WIDTH - left - _FREQUENCY - MARGIN) / len(names))
        return cls(len(names), left, width, min(width, 28), 12 if longest < width - 6 else longest)

    @property
    def right(self) -> float:
        return self.left + self.num * self.width

    @property
    def top(self) -> float:
        return MARGIN + self.num * self.height

    @property
    def upright(self) -> bool:
        return self.header > 12

    @property
    def labels(self) -> range:
        """Those whose names fit."""
        return range(0, self.num, math.ceil(12 / self.height))

    def centre(self, row: int, column: int) -> tuple[float, float]:
        return self.left + (column + 0.5) * self.width, self.top - (row + 0.5) * self.height


def confusion_matrix(matrix: NDArray[np.int64], classes: Classes, path: Path, title: str = "", rule: str = "") -> None:
    """Draw where the pixels of each true class went, in %, and how frequent the class is, as PNG.

    Args:
        matrix: pixels (C + 1, C); rows are the truth, void last; columns the prediction.
        classes: C of them.
        path: of the PNG.
        title: above the figure.
        rule: how pixels were counted.
    """
    num = len(classes)
    if matrix.shape != (num + 1, num):
        raise ValueError(f"the matrix of {num} classes is ({num + 1}, {num}), void last, not {matrix.shape}")
    page = Page()
    names = [page.fit(name, _NAME, 10) for name in classes.names]
    grid = _Grid.of(page, names)
    void = f"Void, {_percent(matrix[-1].sum(), matrix.sum())} % of all pixels, is left out." if matrix[-1].any() else ""
    page.head(grid.top + grid.header + 30, title, sentences(_CAPTION, void, rule), MARGIN)
    truth = matrix[:-1].sum(1)
    shares = 100 * matrix[:-1] / np.where(truth, truth, np.nan)[:, None]
    _paint(page, grid, shares)
    _write_shares(page, grid, shares)
    _write_names(page, grid, names)
    _write_frequencies(page, grid, truth)
    page.save(path)


def _percent(part: float, whole: float) -> str:
    """Return a share in words, of something that is there."""
    return f"{100 * part / whole:.1f}" if part >= 0.0005 * whole else "<0.1"


def _paint(page: Page, grid: _Grid, shares: NDArray[np.float64]) -> None:
    axes = page.axes(MARGIN, grid.top - MARGIN, left=grid.left, right=WIDTH - grid.right)
    axes.set_axis_off()
    edges = PALE if grid.height > 8 else "none"
    axes.pcolormesh(shares[::-1], cmap="Blues", vmin=0, vmax=100, edgecolors=edges, linewidth=min(1, grid.height / 28))


def _write_shares(page: Page, grid: _Grid, shares: NDArray[np.float64]) -> None:
    """Write the shares where they fit; off the diagonal only those that do not round to 0."""
    size, decimals = min(11, 0.42 * grid.width), int(grid.width > 40)
    if size < 8:
        return
    for (row, column), share in np.ndenumerate(shares):
        text = "-" if math.isnan(share) else f"{share:.{decimals}f}"
        if row == column or text == "-" or float(text):
            style = {"ha": "center", "va": "center_baseline", "weight": "bold" if row == column else "normal"}
            x, y = grid.centre(row, column)
            page.write(x, y, text, size, "white" if share > 65 else DARK, **style)


def _write_names(page: Page, grid: _Grid, names: Sequence[str]) -> None:
    middle = (grid.left + grid.right) / 2, (grid.top + MARGIN) / 2
    page.write(middle[0], grid.top + grid.header + 12, "prediction", 10, GREY, ha="center")
    page.write(MARGIN, middle[1], "truth", 10, GREY, rotation=90, va="center")
    for label in grid.labels:
        x, y = grid.centre(label, label)
        page.write(grid.left - 6, y, names[label], 10, ha="right", va="center_baseline")
        page.write(x, grid.top + 6, names[label], 10, ha="center", va="bottom", rotation=90 if grid.upright else 0)


def _write_frequencies(page: Page, grid: _Grid, truth: NDArray[np.int64]) -> None:
    page.write(grid.right + _FREQUENCY, grid.top + 6, "% of\npixels", 10, GREY, ha="right")
    for label in grid.labels:
        frequency = _percent(truth[label], truth.sum()) if truth[label] else "-"
        y = grid.centre(label, 0)[1]
        page.write(grid.right + _FREQUENCY, y, frequency, 10, GREY, ha="right", va="center_baseline")
