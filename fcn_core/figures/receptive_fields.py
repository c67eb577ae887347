"""What units see of an image, in theory, layer by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fcn_core.figures.page import BLUE, DARK, GREY, MARGIN, WIDTH, Page

_ROW, _NAMES, _NUMBERS = 18, 200, 130  # Units of a row, and of its columns on either side of the bars.
_SEEN, _ALWAYS = "#c6dcec", "#8fbcdb"


class FieldRow(NamedTuple):
    """The receptive field of a layer along one axis, in pixels."""

    name: str
    size: float
    stride: float
    """0 where each unit sees the whole image."""
    smallest: float
    """Size of the unit that sees least; `size` if all see as much."""


def field_sizes(rows: Sequence[FieldRow], path: Path, image: int = 0, title: str = "", rule: str = "") -> None:
    """Draw how much a unit of each layer sees, and how far away the next unit is, as PNG; a row a layer.

    Args:
        rows: from the first layer to the last.
        path: of the PNG.
        image: pixels of an image that is to be seen beside the fields; none if 0.
        title: above the figure.
        rule: of what network these are.
    """
    if not rows:
        raise ValueError("a figure of receptive fields needs at least one layer")
    page, vary = Page(), any(row.smallest < row.size for row in rows)
    keys: list[Patch | Line2D] = [Patch(color=BLUE, label="stride: from unit to unit")]
    keys += [Patch(color=_ALWAYS, label="receptive field"), Patch(color=_SEEN, label="of the unit that sees most")]
    keys = keys if vary else keys[:2]
    keys += [Line2D([], [], color=GREY, linestyle="--", label=f"an image of {image} px")] if image else []
    bottom = page.legend(keys) + 46
    height = _ROW * len(rows) + 6
    page.head(bottom + height + 14, title, rule)
    left, right = MARGIN + _NAMES, MARGIN + _NUMBERS
    axes = page.axes(bottom, height, left=left, right=right)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    half = max([image, *(row.size for row in rows if row.stride)]) / 2 * 1.02
    axes.set(xlim=(-half, half), ylim=(len(rows) - 0.5 + 1 / 6, -0.5 - 1 / 6), yticks=[])
    axes.set_xlabel("pixels from the centre of the unit", fontsize=11, color=DARK)
    if image:
        axes.vlines([-image / 2, image / 2], *axes.get_ylim(), color=GREY, linestyle="--", linewidth=1)
    page.write(WIDTH - MARGIN - 60, bottom + height + 2, "size", 10, GREY, ha="right")
    page.write(WIDTH - MARGIN, bottom + height + 2, "stride", 10, GREY, ha="right")
    for index, row in enumerate(rows):
        _bar(axes, index, row, half)
        y = bottom + height - 3 - (index + 0.5) * _ROW
        page.write(left - 8, y, page.fit(row.name, _NAMES - 8, 10), 10, ha="right", va="center_baseline")
        _numbers(page, y, row)
    page.save(path)


def _bar(axes: Axes, index: int, row: FieldRow, half: float) -> None:
    size, smallest = (row.size, row.smallest) if row.stride else (2 * half, 2 * half)
    for width, colour in ((size, _SEEN), (smallest, _ALWAYS), (row.stride, BLUE)):
        axes.barh(index, width, 0.72, left=-width / 2, color=colour)


def _numbers(page: Page, y: float, row: FieldRow) -> None:
    if not row.stride:
        page.write(WIDTH - MARGIN, y, "everything", 10, ha="right", va="center_baseline")
        return
    size = f"{row.size:g}" if row.smallest == row.size else f"{row.smallest:g} to {row.size:g}"
    page.write(WIDTH - MARGIN - 60, y, size, 10, ha="right", va="center_baseline")
    page.write(WIDTH - MARGIN, y, f"{row.stride:g}", 10, ha="right", va="center_baseline")
