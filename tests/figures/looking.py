"""Look at a figure that was saved."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def read(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def has(pixels: Pixels, colour: str) -> bool:
    return bool((pixels == tuple(bytes.fromhex(colour[1:]))).all(axis=-1).any())


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return all that is written, and where."""
    figure.draw_without_rendering()
    written = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        written += axes.texts
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            written += [axis.label, axis.offsetText, *(tick.label1 for tick in axis._update_ticks())]  # type: ignore[union-attr]
    return [(text.get_text(), text.get_window_extent()) for text in written if text.get_visible() and text.get_text()]


def words(figure: Figure) -> str:
    return "\n".join(text for text, _ in texts(figure))


def assert_readable(figure: Figure) -> None:
    """Fail if texts overlap each other or the edge of the page, or are small."""
    written = texts(figure)
    for index, (text, box) in enumerate(written):
        assert figure.bbox.padded(1).count_contains(box.corners()) == 4, f"{text!r} leaves the page"
        others = [other for other, place in written[:index] if box.padded(-1).overlaps(place.padded(-1))]
        assert not others, f"{text!r} overlaps {others}"
    assert figure.get_figwidth() * 72 == 800
