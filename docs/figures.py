#!/usr/bin/env python
"""Draw the figures of docs/assignment.md into docs/images/.

    python docs/figures.py [--data CAMVID] [--run RUN ...]

`--data` is the folder of CamVid, of which class frequencies are drawn and nothing else. `--run` takes the folders of
three trained runs on the street scenes, of FCN-32s, 16s and 8s: `python jobs/train_fcn32s.py streets`, and so on.
What is not given is not drawn.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from fcn_core.ceiling import best_through_grid, through_grid
from fcn_core.data.audit import audit
from fcn_core.data.files import CAMVID, camvid
from fcn_core.data.streets import CLASSES, StreetScenes
from fcn_core.figures.page import BLUE, DARK, GREY, MARGIN, VERMILLION, WIDTH, Page
from fcn_core.figures.predictions import ERROR, colourise, error_map
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.rules import scores
from fcn_core.models.upsampling import bilinear_kernel
from fcn_core.predict import Predictor
from fcn_core.settings import Streets

IMAGES = Path(__file__).parent / "images"
SCENE = 24
"""Of the validation scenes, the one shown: it has signs, pedestrians and cars."""
KERNELS = ("sky", "sign", "road")
_ROW = 164  # Units from one row of scenes to the next.
Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]


def main() -> None:
    """Draw what the arguments have the data for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="CAMVID")
    parser.add_argument("--run", metavar="RUN", nargs="+", default=[])
    arguments = parser.parse_args()
    # The search for the best scores works on small tensors, on which threads wait for each other.
    torch.set_num_threads(1)
    networks = sorted(map(Predictor.load, arguments.run), key=lambda network: -network.model.stride)
    if networks and [network.model.stride for network in networks] != [32, 16, 8]:
        parser.error("--run takes three runs: of FCN-32s, FCN-16s and FCN-8s")
    if networks:
        kernels(networks[-1], IMAGES / "learned-kernels.png")
        skips(networks, IMAGES / "what-skips-add.png")
    if arguments.data:
        frequencies(arguments.data, IMAGES / "camvid-frequencies.png")


def kernels(network: Predictor, path: Path) -> None:
    """Draw the bilinear kernel beside learned ones of FCN-8s, and below these how far they have moved."""
    weight = network.network.get_parameter("upscores.upscore2.weight").detach()
    start = bilinear_kernel(4, 2)
    labels = [network.classes.names.index(name) for name in KERNELS]
    page = Page()
    page.head(
        434,
        "The upsampling kernel before and after training",
        "upscore2 of FCN-8s, from stride 32 to 16: what one unit adds to the 4 x 4 finer units around it, from a class "
        "to itself. Trained for 384 steps on the built-in street scenes.",
        MARGIN,
    )
    for column, (name, kernel) in enumerate(
        [
            ("bilinear, as all start", start),
            *((f"{CLASSES.names[label]}, learned", weight[label, label]) for label in labels),
        ]
    ):
        left = MARGIN + 198 * column
        _cells(page, (left, 226), kernel.double().numpy(), ("Blues", 0, 0.75), "{:.3f}")
        page.write(left, 412, name, 12, weight="bold", va="bottom")
        if column:
            _cells(page, (left, MARGIN), _signed(100 * (kernel - start)), ("PuOr_r", -9, 9), "{:+.1f}")
    page.write(MARGIN, 104, "change,\nin hundredths", 12, weight="bold", va="center")
    page.write(MARGIN, 64, "orange: more, purple: less", 10, GREY, va="center")
    page.save(path)


def _signed(change: Tensor) -> Matrix:
    """Round so that nothing is shown as -0.0."""
    return change.double().numpy().round(1) + 0.0


def _cells(
    page: Page, place: tuple[float, float], values: Matrix, colours: tuple[str, float, float], form: str
) -> None:
    """Draw a 4 x 4 matrix, 180 units a side, with its values."""
    (left, bottom), (name, low, high) = place, colours
    axes = page.axes(bottom, 180, left=left, right=WIDTH - left - 180)
    axes.set_axis_off()
    axes.pcolormesh(values[::-1], cmap=name, vmin=low, vmax=high, edgecolors="white", linewidth=1)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.65 * high else DARK
        at = left + 45 * column + 22.5, bottom + 180 - 45 * row - 22.5
        page.write(*at, form.format(value), 11, colour, ha="center", va="center_baseline")


class _Column(NamedTuple):
    heading: str
    labels: Callable[[int, Any], Pixels]
    """From the row and a sample."""


def skips(networks: Sequence[Predictor], path: Path) -> None:
    """Draw a street scene, what the grids of strides 32, 16 and 8 can hold of it, and what networks make of it."""
    scenes = StreetScenes(Streets(), "val")
    samples = [scenes.read(index) for index in range(len(scenes.names))]
    columns = [
        _Column("averages on the grid", lambda row, sample: through_grid(sample.mask, _stride(row), len(CLASSES))),
        _Column(
            "best scores on the grid", lambda row, sample: best_through_grid(sample.mask, _stride(row), len(CLASSES))
        ),
        _Column("trained network", lambda row, sample: networks[row].labels(sample.image).numpy()),
    ]
    image, truth = samples[SCENE]
    page = Page(384 / 188)
    keys = [_key(CLASSES.names[label], CLASSES.colours[label]) for label in np.unique(truth) if label < len(CLASSES)]
    bottom = page.legend([*keys, _key("void", (0, 0, 0)), _key("error", ERROR)], MARGIN) + 12
    page.head(
        bottom + 4 * _ROW + 18,
        "What the skips add",
        f"One of {len(samples)} validation scenes; below each picture the mean IoU over all of them, {len(CLASSES)} "
        "classes, void excluded, accumulated over the set.",
        MARGIN,
    )
    for row in range(3):
        y = bottom + _ROW * (2 - row)
        for number, column in enumerate(columns):
            found = [column.labels(row, sample) for sample in samples]
            score = _mean_iou(found, [sample.mask for sample in samples])
            _panel(page, number, y, colourise(found[SCENE], CLASSES), f"{_name(row, number)}: {100 * score:.1f} %")
            if number == 2:
                _panel(page, 3, y, error_map(image, truth, found[SCENE]), "its errors")
    for number, column in enumerate(columns):
        page.write(MARGIN + 196 * number, bottom + 3 * _ROW + 2, column.heading, 12, weight="bold", va="bottom")
    _panel(page, 0, bottom + 3 * _ROW + 22, image, "image")
    _panel(page, 1, bottom + 3 * _ROW + 22, colourise(truth, CLASSES), "truth")
    page.save(path)


def _stride(row: int) -> int:
    return (32, 16, 8)[row]


def _name(row: int, column: int) -> str:
    return f"FCN-{_stride(row)}s" if column == 2 else f"1/{_stride(row)}"


def _mean_iou(found: Sequence[Pixels], truth: Sequence[Pixels]) -> float:
    ours, theirs = (torch.from_numpy(np.stack(masks)) for masks in (found, truth))
    return scores(confusion(ours, theirs, len(CLASSES)).numpy()).mean_iou or 0.0


def _panel(page: Page, column: int, bottom: float, pixels: Pixels, caption: str) -> None:
    large = np.kron(pixels, np.ones((3, 3, 1), np.uint8))
    left = MARGIN + 196 * column
    page.figure.figimage(large, round(left * page.unit), round((bottom + 18) * page.unit), origin="upper")
    page.write(left, bottom + 14, caption, 11, GREY, va="top")


def _key(name: str, colour: tuple[int, int, int]) -> Patch:
    return Patch(fc=f"#{bytes(colour).hex()}", ec=GREY, lw=0.6, label=name)


def frequencies(data: str, path: Path) -> None:
    """Draw how frequent the classes of CamVid are, and two predictions whose pixel accuracy hides what they miss."""
    pixels = np.array(audit(camvid(data, "train"), camvid(data, "val"), "fail").train.class_pixels)
    order = np.argsort(pixels)
    truth = np.arange(len(pixels))
    predictions = (
        ("everything is road", np.full_like(truth, CAMVID.names.index("road")), VERMILLION),
        (
            "the five rarest are building",
            np.where(np.isin(truth, order[:5]), CAMVID.names.index("building"), truth),
            BLUE,
        ),
    )
    page = Page()
    page.head(372, "Pixel accuracy is the score of frequent classes", "CamVid, training set, labelled pixels.", MARGIN)
    left, right = page.axes(52, 290, left=110, right=430), page.axes(52, 290, left=400)
    shares = 100 * pixels[order] / pixels.sum()
    left.barh(truth, shares, color=GREY)
    left.set_xlabel("% of labelled pixels", fontsize=11, color=DARK)
    left.set_yticks(truth, [CAMVID.names[label].replace("_", " ") for label in order])
    for y, share in enumerate(shares):
        left.annotate(
            f"{share:.1f}", (share, y), (4, 0), textcoords="offset points", va="center", fontsize=10, color=DARK
        )
    for number, (name, predicted, colour) in enumerate(predictions):
        matrix = np.zeros((len(pixels) + 1, len(pixels)), np.int64)
        np.add.at(matrix, (truth, predicted), pixels)
        found = scores(matrix)
        iou = np.array([value or 0.0 for value in found.class_iou])[order]
        accuracy, mean_iou = 100 * (found.pixel_accuracy or 0), 100 * (found.mean_iou or 0)
        label = f"{name}: pixel accuracy {accuracy:.1f} %, mean IoU {mean_iou:.1f} %"
        right.barh(truth + 0.2 - 0.4 * number, 100 * iou, 0.4, color=colour, label=label)
    right.set_xlabel("IoU of two predictions, %", fontsize=11, color=DARK)
    right.set_yticks(truth, [""] * len(truth))
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        axes.set_ylim(-0.6, len(truth) - 0.4)
    right.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=10, borderaxespad=0.2)
    page.save(path)


if __name__ == "__main__":
    main()
