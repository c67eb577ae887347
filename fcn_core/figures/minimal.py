"""Minimal images: what is left of an image when all that its class can do without is gone."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fcn_core.figures.page import BLUE, DARK, GREY, MARGIN, VERMILLION, Page
from fcn_core.figures.unit import Pixels, dimmed_outside, fitted

_COLUMN, _LEFTS, _CURVE = 188, (12, 208, 404), 650


class Reduced(NamedTuple):
    """An image and what is left of it."""

    name: str
    label: str
    """What people call its class."""
    image: Pixels
    """(H, W, 3) RGB."""
    segments: NDArray[np.int64]
    """(H, W)."""
    kept: NDArray[np.bool_]
    """(H, W)."""
    scores: Sequence[float]
    """Of the whole image, and after each removal."""
    lost: bool
    """Whether the last removal cost the class."""


def minimal_images(rows: Sequence[Reduced], path: Path, title: str = "", rule: str = "", score: str = "score") -> None:
    """Draw each image, its segments, what is left, and the score by the number of removed segments, as PNG."""
    if not rows:
        raise ValueError("a sheet of minimal images needs at least one")
    page, top = Page(), float(MARGIN) + 22
    places = []
    for row in reversed(rows):
        height = _COLUMN * min(1.25, row.image.shape[0] / row.image.shape[1])
        places.append((row, top, height))
        top += max(height, 110) + 52
    page.head(top + 4, title, rule, MARGIN)
    for left, heading in zip((*_LEFTS, _CURVE), ("image", "segments", "what is left", score), strict=True):
        page.write(left, top - 14, heading, 12, va="bottom", weight="bold")
    for row, bottom, height in places:
        _draw(page, row, bottom, height)
    page.save(path)


def outlined(image: Pixels, segments: NDArray[np.int64]) -> Pixels:
    """Return an image (H, W, 3) with the borders of its segments (H, W) white."""
    border = np.zeros(segments.shape, np.bool_)
    border[:-1] |= segments[:-1] != segments[1:]
    border[:, :-1] |= segments[:, :-1] != segments[:, 1:]
    return np.where(border[..., None], np.uint8(255), image)


def _draw(page: Page, row: Reduced, bottom: float, height: float) -> None:
    panels = (row.image, outlined(row.image, row.segments), dimmed_outside(row.image, row.kept))
    for left, panel in zip(_LEFTS, panels, strict=True):
        drawn = fitted(panel, round(height * page.unit), round(_COLUMN * page.unit))
        page.figure.figimage(drawn, round(left * page.unit), round(bottom * page.unit), origin="upper")
    end = page.write(MARGIN, bottom + height + 4, page.fit(row.name, 280, 11), 11, va="bottom")
    num_left = int(row.segments.max()) + 1 - len(row.scores) + 1 + row.lost
    remains = f"{row.kept.mean():.0%} of the pixels, {num_left} segments are left"
    said = f"{row.label}: {remains if row.lost else 'kept when all segments are gone'}"
    page.write(end + 12, bottom + height + 4, page.fit(said, 330, 11), 11, va="bottom", color=GREY)
    axes = page.axes(bottom + 20, max(height, 110) - 20, left=_CURVE, right=MARGIN)
    axes.plot(range(len(row.scores)), row.scores, color=BLUE, linewidth=1.6)
    if row.lost:
        axes.plot(len(row.scores) - 1, row.scores[-1], "x", color=VERMILLION, markersize=7, markeredgewidth=2)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("segments removed", fontsize=10, color=DARK)
