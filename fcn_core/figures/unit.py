"""What one unit sees: its strongest images, where occlusion changes it, the mean field and what it covers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from fcn_core.figures.page import BLUE, DARK, GREY, LEFT, MARGIN, VERMILLION, WIDTH, Page, literal

Pixels = NDArray[np.uint8]
Field = NDArray[np.float64]

_BELOW, _ABOVE = ("#00304d", BLUE, "#9cc8e4"), ("#f2b98a", VERMILLION, "#7a2b00")
SIGNED = LinearSegmentedColormap.from_list("signed", [*_BELOW, "#ffffff", *_ABOVE])
"""Blue below 0, white at 0, vermillion above."""
UNSEEN = (216, 216, 216)
_COLUMNS, _GAP, _SIDE = 5, 9, 148
_PANEL = 300  # Units of the side of the mean field.
_ROOM = 0.6  # Of the theoretical field that is shown on either side of its middle.


class Shown(NamedTuple):
    """One of the strongest images of a unit."""

    name: str
    image: Pixels
    """(H, W, 3) RGB."""
    activation: float
    falls: Field
    """(H, W): by how much the activation falls where a pixel is occluded."""
    box: tuple[float, float, float, float]
    """Theoretical field on the image: first row, first column, height and width in pixels."""
    covered: NDArray[np.bool_]
    """(H, W): what the mean field covers of the image."""


class MeanField(NamedTuple):
    """A map around where the unit looks, which is the middle pixel of (2 a + 1, 2 b + 1)."""

    name: str
    values: Field
    counts: NDArray[np.int64]
    """How many images have a pixel there; 0 is shown as not seen."""
    mask: NDArray[np.bool_]
    """Its extent, drawn as an outline."""
    box: tuple[float, float, float, float] | None
    """Theoretical field relative to the middle pixel: first row, first column, height and width."""


def unit_sheet(
    images: Sequence[Shown], fields: Sequence[MeanField], path: Path, title: str = "", rule: str = "", unit: float = 2
) -> None:
    """Draw one or two mean fields above the strongest images, their maps and what the field covers, as PNG.

    Args:
        images: the strongest first.
        fields: at most two.
        path: of the PNG.
        title: above the figure.
        rule: how it was measured.
        unit: pixels for a unit of the page.
    """
    if not images or not 0 < len(fields) <= 2:
        raise ValueError("a sheet of a unit needs at least one image and one or two fields")
    page = Page(unit)
    top = float(MARGIN)
    for first in reversed(range(0, len(images), _COLUMNS)):
        top = _group(page, images[first : first + _COLUMNS], top)
    bottom = top + 44
    page.head(bottom + max(_panel(field)[1] for field in fields) + 26, title, rule, MARGIN)
    for place, field in enumerate(fields):
        _draw_field(page, field, bottom, LEFT + place * (WIDTH - LEFT) / 2)
    page.save(path)


def signed_colours(values: Field, counts: NDArray[np.int64] | None = None) -> Pixels:
    """Map values (H, W) to RGB (H, W, 3): 0 is white and the largest size full colour; not seen is grey."""
    peak = np.abs(values).max() or 1.0
    colours: Pixels = SIGNED(0.5 + values / (2 * peak), bytes=True)[..., :3]
    if counts is not None:
        colours[counts == 0] = UNSEEN
    return colours


def dimmed_outside(image: Pixels, covered: NDArray[np.bool_]) -> Pixels:
    """Return an image (H, W, 3) with what is not covered (H, W) pale and grey."""
    grey = 150 + 0.4 * image.mean(-1, keepdims=True)
    return np.where(covered[..., None], image, grey.astype(np.uint8))


def fitted(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an image (H, W, 3) to as much as fits into a box, its sides in proportion."""
    factor = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(
        Image.fromarray(image).resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)
    )


def visible(field: MeanField) -> tuple[slice, slice]:
    """Return the rows and columns to show, as many on either side of the middle: as far as any pixel is seen.

    What is far outside the theoretical field is left out.
    """
    found = []
    for axis in (1, 0):
        seen = np.flatnonzero(field.counts.any(axis))
        middle = field.counts.shape[1 - axis] // 2
        reach = max(middle - seen[0], seen[-1] - middle) if len(seen) else middle
        if field.box is not None:
            reach = min(reach, math.ceil(_ROOM * field.box[3 - axis]))
        found.append(slice(middle - reach, middle + reach + 1))
    return found[0], found[1]


def _group(page: Page, images: Sequence[Shown], bottom: float) -> float:
    """Draw the images of one row, each above its map and above what is covered; return the upper edge."""
    shape = max(_height(shown) for shown in images)
    for column, shown in enumerate(images):
        left = MARGIN + column * (_SIDE + _GAP)
        strips = (dimmed_outside(shown.image, shown.covered), signed_colours(shown.falls), shown.image)
        for row, strip in enumerate(strips):
            low = bottom + row * (shape + 4) + (shape - _height(shown))
            panel = fitted(strip, round(_height(shown) * page.unit), round(_SIDE * page.unit))
            page.figure.figimage(panel, round(left * page.unit), round(low * page.unit), origin="upper")
        _frame(page, shown, left, bottom + 2 * (shape + 4) + (shape - _height(shown)))
        above = bottom + 3 * (shape + 4) + 2
        page.write(left, above + 13, page.fit(shown.name, _SIDE, 9), 9, va="bottom")
        page.write(left, above, f"{shown.activation:.4g}", 9, va="bottom", color=GREY)
    return bottom + 3 * (shape + 4) + 32


def _height(shown: Shown) -> float:
    """Return the height of an image as wide as a column; what is higher than wide is as high as the column is wide."""
    return float(min(_SIDE, _SIDE * shown.image.shape[0] / shown.image.shape[1]))


def _frame(page: Page, shown: Shown, left: float, low: float) -> None:
    """Draw the theoretical field on an image, as far as it is on it."""
    height, width = shown.image.shape[:2]
    scale = min(_height(shown) / height, _SIDE / width)
    first, last = np.clip([shown.box[:2], np.add(shown.box[:2], shown.box[2:])], 0, (height, width))
    place = (left + first[1] * scale, low + (height - last[0]) * scale)
    size = (last[1] - first[1]) * scale, (last[0] - first[0]) * scale
    for colour, line in (("white", 2.4), (DARK, 1.0)):
        page.figure.add_artist(Rectangle(place, *size, fill=False, ec=colour, lw=line, transform=page.units))


def _draw_field(page: Page, field: MeanField, bottom: float, left: float) -> None:
    rows, columns = visible(field)
    mask = field.mask[rows, columns]
    height, width = mask.shape
    across, up = _panel(field)
    axes = page.axes(bottom, up, left=left, right=WIDTH - left - across)
    edges = (-width / 2, width / 2, height / 2, -height / 2)
    colours = signed_colours(field.values, field.counts)[rows, columns]
    axes.imshow(colours, extent=edges, interpolation="nearest", aspect="auto")
    axes.grid(visible=False)
    if mask.any() and not mask.all():
        lines, places = np.arange(height) - height // 2, np.arange(width) - width // 2
        axes.contour(places, lines, mask, levels=[0.5], colors=[DARK], linewidths=1.4)
    if field.box is not None:
        _outline(axes, field.box, edges)
    axes.plot(0, 0, "+", color=DARK, markersize=9, markeredgewidth=1.4)
    axes.set(xlim=edges[:2], ylim=edges[2:])
    axes.set_title(literal(field.name), fontsize=11, color=DARK, loc="left")
    axes.set_xlabel("pixels from where the unit looks", fontsize=10, color=DARK, loc="left")


def _panel(field: MeanField) -> tuple[float, float]:
    """Return the width and height of the panel of a field, in units."""
    rows, columns = visible(field)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return _PANEL * min(1.0, width / height), _PANEL * min(1.0, height / width)


def _outline(axes: Axes, box: tuple[float, float, float, float], edges: tuple[float, float, float, float]) -> None:
    """Draw a box, or as much of its sides as there is room for."""
    top, left, height, width = box
    if math.isinf(height) or math.isinf(width):
        return
    place = (max(left - 0.5, edges[0]), max(top - 0.5, edges[3]))
    end = (min(left - 0.5 + width, edges[1]), min(top - 0.5 + height, edges[2]))
    style = {"fill": False, "ec": DARK, "lw": 1.2, "ls": (0, (5, 3))}
    axes.add_patch(Rectangle(place, end[0] - place[0], end[1] - place[1], **style))  # type: ignore[arg-type]
