"""Images beside their truth, prediction and errors, for all classes or with one class highlighted."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from fcn_core.figures.page import GREY, MARGIN, WIDTH, Page, literal
from fcn_core.settings import VOID, Classes

Pixels = NDArray[np.uint8]
ERROR = (255, 80, 0)  # Of wrongly labelled pixels; of those of the highlighted class that were missed.
FALSE_ALARM = (86, 180, 233)  # Of pixels that were taken for the highlighted class.
PANEL_PX = 384  # The longest side of an image on a sheet.
_COLUMN, _COLUMNS = 188, (12, 208, 404, 600)
_VOID_STRIPES = np.array([[64, 64, 64], [104, 104, 104]], np.uint8)
_LUMINANCE = np.array([0.299, 0.587, 0.114])


class PredictionRow(NamedTuple):
    """One image of a sheet: RGB (H, W, 3) and labels (H, W), `VOID` where there is no truth; `caption`: its scores."""

    name: str
    image: Pixels
    truth: Pixels
    prediction: Pixels
    caption: str = ""


def predictions(
    rows: Sequence[PredictionRow], classes: Classes, path: Path, title: str = "", highlight: int | None = None
) -> None:
    """Draw image, truth, prediction and errors of each row, above a key to the classes that occur, as PNG.

    With `highlight`, the label of a class, the others are dim, and errors are its missed pixels and its false alarms.
    """
    if not rows:
        raise ValueError("a sheet of predictions needs at least one row")
    shades = classes if highlight is None else dimmed(classes, highlight)
    shown = [_at_display_size(row) for row in rows]
    page = Page(max(_COLUMN, *(row.truth.shape[1] for row in shown)) / _COLUMN)
    top = page.legend(_keys(shown, shades, highlight), MARGIN)
    for row in reversed(shown):
        end = page.write(MARGIN, top + 16, f"{row.name:.50}", 11, va="bottom")
        page.write(end + 12, top + 16, f"{row.caption:.60}", 11, va="bottom", color=GREY)
        for left, panel in zip(_COLUMNS, _panels(row, shades, highlight), strict=True):
            page.figure.figimage(panel, round(left * page.unit), round((top + 34) * page.unit), origin="upper")
        top += 34 + row.truth.shape[0] / page.unit
    for left, heading in zip(_COLUMNS, ("image", "truth", "prediction", "errors"), strict=True):
        page.write(left, top + 4, heading, 12, va="bottom", weight="bold")
    page.write(MARGIN, top + 32, title, 14, va="bottom", weight="bold")
    page.figure.set_size_inches(WIDTH / 72, (top + (58 if title else 28)) / 72)
    page.save(path)


def colourise(mask: Pixels, classes: Classes) -> Pixels:
    """Map labels (H, W) to the colours of their classes (H, W, 3), void to black; a ValueError names a label beyond."""
    strange = np.setdiff1d(mask, [*range(len(classes)), VOID])
    if strange.size:
        raise ValueError(f"label {strange[0]} is neither void ({VOID}) nor one of the {len(classes)} classes from 0")
    palette = np.zeros((VOID + 1, 3), np.uint8)
    palette[: len(classes)] = classes.colours
    return palette[mask]


def dimmed(classes: Classes, highlight: int) -> Classes:
    """Move the colours of all classes but `highlight` towards a grey that is far from its own."""
    if not 0 <= highlight < len(classes):
        raise ValueError(f"highlight {highlight} is none of the {len(classes)} classes from 0")
    colours = np.array(classes.colours)
    grey = 40 if colours[highlight] @ _LUMINANCE > 131 else 225
    pale = (0.2 * colours + 0.8 * grey).astype(int)
    pale[highlight] = colours[highlight]
    return Classes(names=classes.names, colours=tuple(map(tuple, pale.tolist())))


def error_map(image: Pixels, truth: Pixels, prediction: Pixels) -> Pixels:
    """Dim the image to grey, paint labelled pixels that were predicted wrong in `ERROR`, and hatch void; (H, W, 3)."""
    errors = _backdrop(image, truth)
    errors[(truth != VOID) & (truth != prediction)] = ERROR
    return errors


def class_error_map(image: Pixels, truth: Pixels, prediction: Pixels, label: int) -> Pixels:
    """Like `error_map` for one class: what it missed in `ERROR`, what was taken for it in `FALSE_ALARM`."""
    errors = _backdrop(image, truth)
    errors[(truth == label) & (prediction != label)] = ERROR
    errors[(truth != label) & (truth != VOID) & (prediction == label)] = FALSE_ALARM
    return errors


def _backdrop(image: Pixels, truth: Pixels) -> Pixels:
    grey = 90 + 0.5 * image @ _LUMINANCE
    backdrop = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    stripes = np.add.outer(*map(np.arange, truth.shape)) // 4 % 2
    backdrop[truth == VOID] = _VOID_STRIPES[stripes[truth == VOID]]
    return backdrop


def _panels(row: PredictionRow, classes: Classes, highlight: int | None) -> tuple[Pixels, ...]:
    masks = colourise(row.truth, classes), colourise(row.prediction, classes)
    errors = error_map(*row[1:4]) if highlight is None else class_error_map(*row[1:4], highlight)
    return (row.image, *masks, errors)


def _at_display_size(row: PredictionRow) -> PredictionRow:
    """Fit into `PANEL_PX`; small images grow by a whole factor, so that each pixel stays a square."""
    if not row.image.shape == (*row.truth.shape, 3) == (*row.prediction.shape, 3):
        shapes = f"image {row.image.shape}, truth {row.truth.shape}, prediction {row.prediction.shape}"
        raise ValueError(f"{row.name}: shapes must be (H, W, 3), (H, W) and (H, W), not {shapes}")
    factor = PANEL_PX // max(row.truth.shape) or PANEL_PX / max(row.truth.shape)
    height, width = (max(1, round(side * factor)) for side in row.truth.shape)
    nearest, photo = Image.Resampling.NEAREST, Image.Resampling.BOX  # BOX averages when it shrinks, else it is nearest.
    ways = zip(row[1:4], (photo, nearest, nearest), strict=True)
    image, truth, prediction = (np.asarray(Image.fromarray(array).resize((width, height), way)) for array, way in ways)
    return row._replace(image=image, truth=truth, prediction=prediction)


def _keys(rows: Sequence[PredictionRow], classes: Classes, highlight: int | None) -> list[Patch]:
    seen = np.unique(np.concatenate([mask.ravel() for row in rows for mask in row[2:4]]))
    keys = [_patch(classes.names[label], classes.colours[label]) for label in seen if label < len(classes)]
    keys += [_patch("void", (0, 0, 0), hatch="////")] if VOID in seen else []
    if highlight is None:
        return [*keys, _patch("error", ERROR)]
    name = classes.names[highlight]
    return [*keys, _patch(f"{name}: missed", ERROR), _patch(f"{name}: false alarm", FALSE_ALARM)]


def _patch(name: str, colour: tuple[int, int, int], hatch: str = "") -> Patch:
    return Patch(fc=f"#{bytes(colour).hex()}", ec=GREY, lw=0.6, hatch=hatch, label=literal(name))
