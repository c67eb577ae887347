"""Pictures of runs. Each has its own canvas, without pyplot: any thread may draw, and equal input gives equal bytes."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D, Bbox
from numpy.typing import NDArray
from PIL import Image

from fcn_core.settings import VOID, Classes

Pixels = NDArray[np.uint8]
ERROR = (255, 80, 0)  # Of wrongly labelled pixels.
PANEL_PX = 384  # The longest side of an image on a sheet.
_PAGE, _MARGIN, _COLUMN, _COLUMNS = 800, 12, 188, (12, 208, 404, 600)
_PNG: dict[str, Any] = {"format": "png", "dpi": "figure", "metadata": {"Software": None}}
_VOID_STRIPES = np.array([[64, 64, 64], [104, 104, 104]], np.uint8)
_DARK, _GREY, _PALE = "#222222", "#707070", "#e4e4e4"
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = [(style, colour) for style in ("-", "--", ":") for colour in _OKABE_ITO]
_AROUND = [(0, 17), (0, -17), (-41, 17), (41, 17), (-41, -17), (41, -17), (0, 34), (0, -34)]


class CurvePoint(NamedTuple):
    """What one epoch came to; NaN where it was not measured."""

    epoch: int
    mean_iou: float
    train_loss: float


class PredictionRow(NamedTuple):
    """One image of a sheet: RGB (H, W, 3) and labels (H, W), `VOID` where there is no truth; `caption`: its scores."""

    name: str
    image: Pixels
    truth: Pixels
    prediction: Pixels
    caption: str = ""


def curves(histories: Mapping[str, Sequence[CurvePoint]], path: Path, rule: str = "") -> None:
    """Draw validation mean IoU and training loss by epoch as PNG, a line a label; `rule` says how mean IoU is taken."""
    page = _Page(2)
    bests = [_best(points) for points in histories.values()]
    keys = [_line_key(index, label, best) for index, (label, best) in enumerate(zip(histories, bests, strict=True))]
    bottom = page.legend(keys, 52) + 46
    notes = textwrap.wrap(rule, 120)
    height = bottom + 440 + 14 * len(notes)
    page.figure.set_size_inches(_PAGE / 72, height / 72)
    page.write(52, height - 12, "Validation mean IoU", 14, va="top", weight="bold")
    page.write(52, height - 33, "\n".join(notes), 10, va="top", color=_GREY)
    upper, lower = page.axes(bottom + 110, 290, "mean IoU"), page.axes(bottom, 90, "training loss")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("epoch", fontsize=11, color=_DARK)
    lower.sharex(upper)
    for key, points in zip(keys, histories.values(), strict=True):
        _draw_line(upper, key, [(point.epoch, point.mean_iou) for point in points])
        _draw_line(lower, key, [(point.epoch, point.train_loss) for point in points])
    upper.margins(x=0.04, y=0.14)
    upper.set(xlim=upper.get_xlim(), ylim=(max(0, upper.get_ylim()[0]), None))
    _mark(upper, [(best, key) for best, key in zip(bests, keys, strict=True) if best])
    page.figure.savefig(path, **_PNG)


def predictions(rows: Sequence[PredictionRow], classes: Classes, path: Path, title: str = "") -> None:
    """Draw image, truth, prediction and errors of each row, above a key to the classes that occur, as PNG."""
    if not rows:
        raise ValueError("a sheet of predictions needs at least one row")
    shown = [_at_display_size(row) for row in rows]
    page = _Page(max(_COLUMN, *(row.truth.shape[1] for row in shown)) / _COLUMN)
    top = page.legend(_class_keys(shown, classes), _MARGIN)
    for row in reversed(shown):
        end = page.write(_MARGIN, top + 16, f"{row.name:.50}", 11, va="bottom")
        page.write(end + 12, top + 16, f"{row.caption:.60}", 11, va="bottom", color=_GREY)
        masks = colourise(row.truth, classes), colourise(row.prediction, classes)
        for left, panel in zip(_COLUMNS, (row.image, *masks, error_map(*row[1:4])), strict=True):
            page.figure.figimage(panel, round(left * page.unit), round((top + 34) * page.unit), origin="upper")
        top += 34 + row.truth.shape[0] / page.unit
    for left, heading in zip(_COLUMNS, ("image", "truth", "prediction", "errors"), strict=True):
        page.write(left, top + 4, heading, 12, va="bottom", weight="bold")
    page.write(_MARGIN, top + 32, title, 14, va="bottom", weight="bold")
    page.figure.set_size_inches(_PAGE / 72, (top + (58 if title else 28)) / 72)
    page.figure.savefig(path, **_PNG)


def colourise(mask: Pixels, classes: Classes) -> Pixels:
    """Map labels (H, W) to the colours of their classes (H, W, 3), void to black; a ValueError names a label beyond."""
    strange = np.setdiff1d(mask, [*range(len(classes)), VOID])
    if strange.size:
        raise ValueError(f"label {strange[0]} is neither void ({VOID}) nor one of the {len(classes)} classes from 0")
    palette = np.zeros((VOID + 1, 3), np.uint8)
    palette[: len(classes)] = classes.colours
    return palette[mask]


def error_map(image: Pixels, truth: Pixels, prediction: Pixels) -> Pixels:
    """Dim the image to grey, paint labelled pixels that were predicted wrong in `ERROR`, and hatch void; (H, W, 3)."""
    grey = 90 + 0.5 * image @ np.array([0.299, 0.587, 0.114])
    errors = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    stripes = np.add.outer(*map(np.arange, truth.shape)) // 4 % 2
    errors[truth == VOID] = _VOID_STRIPES[stripes[truth == VOID]]
    errors[(truth != VOID) & (truth != prediction)] = ERROR
    return errors


class _Page:
    """A figure `_PAGE` units wide, as a README shows it; a unit is 1/72 inch and `unit` pixels."""

    def __init__(self, unit: float) -> None:
        self.unit = unit
        self.figure = Figure(dpi=72 * unit, facecolor="white")
        self.units = Affine2D().scale(1 / 72) + self.figure.dpi_scale_trans
        FigureCanvasAgg(self.figure)

    def write(self, x: float, y: float, text: str, size: float, color: str = _DARK, **style: Any) -> float:  # noqa: ANN401
        """Write `text` and return where it ends."""
        written = self.figure.text(x, y, text, size=size, color=color, transform=self.units, parse_math=False, **style)
        return float(written.get_window_extent().x1) / self.unit

    def axes(self, bottom: float, height: float, label: str) -> Axes:
        full = self.figure.get_figheight() * 72
        axes = self.figure.add_axes((52 / _PAGE, bottom / full, (_PAGE - 64) / _PAGE, height / full), axisbelow=True)
        axes.set_ylabel(label, fontsize=11, color=_DARK)
        axes.tick_params(labelsize=10, color=_GREY, labelcolor=_DARK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GREY)
        axes.grid(color=_PALE)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        return axes

    def legend(self, keys: Sequence[Patch | Line2D], left: float) -> float:
        """Put the keys at the foot, in as few rows as fit and even columns, and return their upper edge."""
        style = {"frameon": False, "borderpad": 0, "borderaxespad": 0, "columnspacing": 1.6, "labelcolor": _DARK}
        style |= {"fontsize": 11, "bbox_to_anchor": (left, _MARGIN), "bbox_transform": self.units}
        box = Bbox.null()
        for rows in range(1, len(keys) + 1):
            self.figure.legends.clear()
            columns = math.ceil(len(keys) / rows)
            box = self.figure.legend(handles=keys, ncols=columns, loc="lower left", **style).get_window_extent()
            if box.x1 <= (_PAGE - _MARGIN) * self.unit:
                break
        return max(_MARGIN, float(box.y1) / self.unit)


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


def _class_keys(rows: Sequence[PredictionRow], classes: Classes) -> list[Patch]:
    seen = np.unique(np.concatenate([mask.ravel() for row in rows for mask in row[2:4]]))
    keys = [_patch(classes.names[label], classes.colours[label]) for label in seen if label < len(classes)]
    keys += [_patch("void", (0, 0, 0), hatch="////")] if VOID in seen else []
    return [*keys, _patch("error", ERROR)]


def _patch(name: str, colour: tuple[int, int, int], hatch: str = "") -> Patch:
    return Patch(fc=f"#{bytes(colour).hex()}", ec=_GREY, lw=0.6, hatch=hatch, label=name.replace("$", r"\$"))


def _best(points: Sequence[CurvePoint]) -> CurvePoint | None:
    return max((point for point in points if math.isfinite(point.mean_iou)), key=lambda p: p.mean_iou, default=None)


def _line_key(index: int, label: str, best: CurvePoint | None) -> Line2D:
    text = f"{label}: best {best.mean_iou:.3f} at epoch {best.epoch}" if best else f"{label}: no mean IoU yet"
    style, colour = _LINES[index % len(_LINES)]
    key = Line2D([], [], color=colour, linewidth=1.8, marker="o", label=text.replace("$", r"\$"))
    key.set(linestyle=style, markersize=7, markerfacecolor="white", markeredgewidth=2)
    return key


def _draw_line(axes: Axes, key: Line2D, points: Sequence[tuple[int, float]]) -> None:
    # Epochs that were not measured are left out: a run validated every few epochs still shows a line.
    finite = np.array([point for point in points if math.isfinite(point[1])]).reshape(-1, 2)
    marker = "o" if len(finite) == 1 else ""
    axes.plot(*finite.T, color=key.get_color(), linestyle=key.get_linestyle(), linewidth=1.8, marker=marker)


def _mark(axes: Axes, bests: Sequence[tuple[CurvePoint, Line2D]]) -> None:
    """Ring the best epoch of each line; write its value beside it where there is room, as the key has it anyway."""
    lines = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    taken = []
    for (epoch, mean_iou, _), key in bests:
        axes.plot(epoch, mean_iou, "o", markersize=8, color="white", markeredgecolor=key.get_color(), markeredgewidth=2)
        taken.append(Bbox(axes.transData.transform([(epoch, mean_iou)] * 2)).padded(10))
    for (epoch, mean_iou, _), key in sorted(bests, key=lambda pair: -pair[0].mean_iou):
        text = axes.annotate(f"{mean_iou:.3f}", (epoch, mean_iou), _AROUND[0], textcoords="offset points")
        text.set(ha="center", va="center", fontsize=11, weight="bold", color=key.get_color())
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        places = []
        for index, text.xyann in enumerate(_AROUND):
            box = text.get_window_extent()
            if axes.bbox.count_contains(box.corners()) == 4 and not box.count_overlaps(taken):
                places.append((sum(line.intersects_bbox(box, filled=False) for line in lines), index, box))
        if places:
            _, index, box = min(places)
            text.xyann = _AROUND[index]
            taken.append(box)
        text.set_visible(bool(places))
