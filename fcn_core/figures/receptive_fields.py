"""What units see of an image: in theory layer by layer, and by gradient beside the theory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fcn_core.figures.page import BLUE, DARK, GREY, LEFT, MARGIN, PALE, VERMILLION, WIDTH, Page, literal, sentences

_ROW, _NAMES, _NUMBERS = 18, 200, 130  # Units of a row, and of its columns on either side of the bars.
_SEEN, _ALWAYS = "#c6dcec", "#8fbcdb"
_MAP, _CURVE = 360, 330  # Units of the longer side of a map, and of the curve's height.
_HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#9ecae1", BLUE, "#00223a"])


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


def effective_map(
    field: NDArray[np.float64],
    box: tuple[tuple[int, int], tuple[int, int]],
    sides: Sequence[tuple[str, float]],
    path: Path,
    title: str = "",
    rule: str = "",
) -> None:
    """Draw how much each pixel counts for a unit, and how much of it lies near the middle, as PNG.

    Args:
        field: (H, W) mean size of the gradient.
        box: first and one past the last of the rows, and of the columns, that the unit sees in theory; it may begin
            before 0 and end after the image, and its middle is the unit's.
        sides: of squares that say how large the field is, in pixels, each with what it says.
        path: of the PNG.
        title: above the figure.
        rule: which unit and images these are.
    """
    page, marks = Page(), [*zip(sides, (BLUE, "#009E73", "#CC79A7"), strict=False)]
    heights = _length(box[0]), _length(box[1])
    keys = [Line2D([], [], color=VERMILLION, linestyle="--", label=f"theory: {heights[0]} x {heights[1]} px")]
    keys += [Line2D([], [], color=colour, label=literal(f"{said}: {side:.0f} px")) for (said, side), colour in marks]
    bottom = page.legend(keys) + 46
    page.head(bottom + _CURVE + 10, title, sentences("Darkness: the root of the gradient's size.", rule))
    middle = (box[0][0] + box[0][1] - 1) / 2, (box[1][0] + box[1][1] - 1) / 2
    scale = min(_MAP / field.shape[1], _CURVE / field.shape[0])
    axes = _image(page, bottom + _CURVE, field, scale)
    curve = page.axes(bottom, _CURVE, "% of the gradient inside", left=2 * LEFT + _MAP + 30)
    curve.plot(*_within(field, middle), color=DARK, linewidth=1.8)
    for lengths, colour, style in [
        (heights, VERMILLION, "--"),
        *(((side, side), one, "-") for (_, side), one in marks),
    ]:
        _square(axes, middle, lengths, colour, style)
        curve.axvline(max(lengths), color=colour, linestyle=style, linewidth=1.4)
    curve.set(xlim=(0, 1.1 * max(*heights, *(side for _, side in sides))), ylim=(0, 101))
    curve.set_xlabel("side of a square around the unit, pixels", fontsize=11, color=DARK)
    page.save(path)


def _image(page: Page, top: float, field: NDArray[np.float64], scale: float) -> Axes:
    height, width = field.shape[0] * scale, field.shape[1] * scale
    axes = page.axes(top - height, height, "row", right=WIDTH - LEFT - width)
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=PALE)
    axes.imshow(np.sqrt(field), cmap=_HEAT, interpolation="nearest", aspect="auto")
    axes.set_xlabel("column", fontsize=11, color=DARK)
    for axis, units in ((axes.xaxis, width), (axes.yaxis, height)):
        axis.set_major_locator(MaxNLocator(max(1, units // 60), integer=True))
    return axes


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


def _square(axes: Axes, middle: tuple[float, float], sides: tuple[float, float], colour: str, style: str) -> None:
    corner = middle[1] - sides[1] / 2, middle[0] - sides[0] / 2
    look: dict[str, Any] = {"fill": False, "edgecolor": colour, "linestyle": style, "linewidth": 1.6}
    axes.add_patch(Rectangle(corner, sides[1], sides[0], **look))


def _within(field: NDArray[np.float64], middle: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sides of squares around the middle, and which % of the field lies in them."""
    rows, columns = (abs(np.arange(extent) - centre) for extent, centre in zip(field.shape, middle, strict=True))
    sides = 2 * np.maximum.outer(rows, columns) + 1
    found, places = np.unique(sides, return_inverse=True)
    shares = np.bincount(places.ravel(), field.ravel()).cumsum()
    return found, 100 * shares / max(shares[-1], np.finfo(float).tiny)


def _length(ends: tuple[int, int]) -> int:
    return ends[1] - ends[0]
