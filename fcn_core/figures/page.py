"""What all figures share: a page as wide as a README shows it, its colours, and its title, axes and key."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Affine2D, Bbox

WIDTH, MARGIN, LEFT = 800, 12, 52
"""Units of a page, of its empty edge, and from its left edge to the axes; a unit is a pixel of a README."""
KEY = 690
"""Units that the text of a key may take."""

DARK, GREY, PALE = "#222222", "#707070", "#e4e4e4"
BLUE, VERMILLION = "#0072B2", "#D55E00"
OKABE_ITO = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES: list[tuple[Any, str]] = [(style, colour) for style in ("-", "--", ":") for colour in OKABE_ITO]
"""Style and colour of the lines of one plot: 21 that can be told apart without seeing colour well."""

_PNG: dict[str, Any] = {"format": "png", "dpi": "figure", "metadata": {"Software": None}}


class Page:
    """A figure `WIDTH` units wide, as a README shows it; a unit is 1/72 inch and `unit` pixels."""

    def __init__(self, unit: float = 2) -> None:
        self.unit = unit
        self.figure = Figure(dpi=72 * unit, facecolor="white")
        self.units = Affine2D().scale(1 / 72) + self.figure.dpi_scale_trans
        FigureCanvasAgg(self.figure)

    def write(self, x: float, y: float, text: str, size: float, color: str = DARK, **style: Any) -> float:  # noqa: ANN401
        """Write `text` and return where it ends."""
        written = self.figure.text(x, y, text, size=size, color=color, transform=self.units, parse_math=False, **style)
        return float(written.get_window_extent().x1) / self.unit

    def head(self, top: float, title: str, rule: str, left: float = LEFT) -> None:
        """End the page above `top`, where its content ends, with a title and a sentence on how scores are taken."""
        notes = textwrap.wrap(rule, 120)
        height = top + 14 * len(notes) + (40 if title else 14)
        self.figure.set_size_inches(WIDTH / 72, height / 72)
        title = self.fit(title, WIDTH - MARGIN - left, 14, weight="bold")
        self.write(left, height - 12, title, 14, va="top", weight="bold")
        self.write(left, height - (33 if title else 12), "\n".join(notes), 10, va="top", color=GREY)

    def axes(self, bottom: float, height: float, label: str = "", left: float = LEFT, right: float = MARGIN) -> Axes:
        """Add axes after the page has its height; `left` and `right` are what they leave free on either side."""
        full = self.figure.get_figheight() * 72
        place = (left / WIDTH, bottom / full, (WIDTH - left - right) / WIDTH, height / full)
        axes = self.figure.add_axes(place, axisbelow=True)
        axes.set_ylabel(label, fontsize=11, color=DARK)
        axes.tick_params(labelsize=10, color=GREY, labelcolor=DARK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.grid(color=PALE)
        return axes

    def legend(self, keys: Sequence[Patch | Line2D], left: float = LEFT) -> float:
        """Put the keys at the foot, in as few rows as fit and even columns, and return their upper edge."""
        style = {"frameon": False, "borderpad": 0, "borderaxespad": 0, "columnspacing": 1.6, "labelcolor": DARK}
        style |= {"fontsize": 11, "bbox_to_anchor": (left, MARGIN), "bbox_transform": self.units}
        box = Bbox.null()
        for rows in range(1, len(keys) + 1):
            self.figure.legends.clear()
            columns = math.ceil(len(keys) / rows)
            box = self.figure.legend(handles=keys, ncols=columns, loc="lower left", **style).get_window_extent()
            if box.x1 <= (WIDTH - MARGIN) * self.unit:
                break
        return max(MARGIN, float(box.y1) / self.unit)

    def width(self, text: str, size: float, **style: Any) -> float:  # noqa: ANN401
        """Return how many units `text` takes."""
        end = self.write(0, 0, text, size, **style)
        self.figure.texts[-1].remove()
        return end

    def fit(self, text: str, width: float, size: float, **style: Any) -> str:  # noqa: ANN401
        """Return `text`, or as much of its beginning as is `width` units wide with an ellipsis."""
        if self.width(text, size, **style) <= width:
            return text
        shorter = (f"{text[:length]}…" for length in range(len(text) - 1, -1, -1))
        return next((cut for cut in shorter if self.width(cut, size, **style) <= width), "")

    def save(self, path: Path) -> None:
        """Write the page as PNG."""
        self.figure.savefig(path, **_PNG)


def sentences(*parts: str) -> str:
    """Return the parts that say something, as one text."""
    return " ".join(filter(None, parts))


def literal(text: str) -> str:
    """Return `text` for a label that matplotlib would search for formulas."""
    return text.replace("$", r"\$")
