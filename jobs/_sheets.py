"""The figures of an evaluation, and sheets of chosen predictions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fcn_core.data.base import Dataset
from fcn_core.evaluation import Evaluation, image_iou, wrong_pixels
from fcn_core.figures.confusion import confusion_matrix
from fcn_core.figures.precision_recall import PrecisionRecall, precision_recall
from fcn_core.figures.predictions import PredictionRow, predictions
from fcn_core.figures.reliability import reliability
from fcn_core.metrics import precision
from fcn_core.metrics.calibration import MOST_PIXELS
from fcn_core.metrics.rules import scores
from fcn_core.settings import Classes
from fcn_core.stored import Stored
from jobs._console import percent
from jobs._evaluations import file_name

Predict = Callable[[Sequence[int]], list[NDArray[np.uint8]]]
"""Returns the predicted labels of the images at some places."""


class Sheet(NamedTuple):
    """Which images to draw."""

    name: str
    places: list[int]
    """Among the images that were evaluated."""
    label: int | None = None
    """The class that it is about."""

    def title(self, classes: Classes) -> str:
        """Return the name, with that of the class."""
        return self.name if self.label is None else f"{self.name} {classes.names[self.label]}"


def spread(name: str, places: Sequence[int], count: int, label: int | None = None) -> Sheet:
    """Return a sheet of images evenly spread over those at some places."""
    chosen = np.linspace(0, len(places) - 1, min(count, len(places)), dtype=int)
    return Sheet(name, [places[number] for number in chosen], label)


def ranked(
    evaluation: Evaluation, classes: Classes, ends: Sequence[str], class_name: str | None, count: int
) -> list[Sheet]:
    """Return a sheet for each of `ends`, "worst" and "best", by IoU; images spread evenly if there is none.

    Args:
        evaluation: of all images.
        classes: of the data.
        ends: any of "worst" and "best".
        class_name: the class whose IoU counts and whose images are shown; all classes if None.
        count: images on a sheet.

    Raises:
        ValueError: no image shows the class.
    """
    label = None if class_name is None else classes.names.index(class_name)
    iou = image_iou(evaluation, label)
    # Images where the class is only imagined have an IoU of 0: they are among the worst.
    shown = np.flatnonzero(np.isfinite(iou))
    if not len(shown):
        raise ValueError(f"no image shows the class {class_name!r}, and none is taken for it")
    # Of images with the same IoU, such as 0, that with the most wrong pixels is the worst.
    wrong = wrong_pixels(evaluation, label)
    order = shown[np.lexsort((-wrong[shown], iou[shown]))].tolist()
    places = {"worst": order[:count], "best": order[::-1][:count]}
    sheets = [Sheet(end, places[end], label) for end in ends]
    return sheets or [spread("class", shown.tolist(), count, label)]


def draw_figures(made: Stored, folder: Path) -> None:
    """Draw confusion matrix, reliability and precision against recall into a local folder."""
    evaluation, report = made.evaluation, made.report
    subject, fit = report.subject, report.calibration
    first, *more = (checkpoint.run_id for checkpoint in subject.checkpoints)
    title = f"{first}{f' and {len(more)} more folds' if more else ''} on {subject.split}"
    confusion_matrix(evaluation.confusion.sum(0), subject.classes, folder / "confusion.png", title, report.rule)
    fitted = f"at temperature {fit.temperature:.2f}, fitted on {fit.fitted_on}"
    labels = (
        f"as it is: calibration error {percent(fit.expected_error)}",
        f"{fitted}: {percent(fit.expected_error_at_temperature)}",
    )
    after = evaluation.bins_at(fit.temperature) if fit.temperature != 1 else None
    measured = (
        f"Void excluded, at most {MOST_PIXELS} evenly spread pixels of each image, {subject.inference.describe()}."
    )
    reliability(evaluation.bins_at(1.0), after, folder / "reliability.png", labels, title, measured)
    lines = {
        one.name: PrecisionRecall(*precision.precision_recall(torch.from_numpy(counts)), one.average_precision)
        for one, counts in zip(report.classes, evaluation.sums.scores, strict=True)
    }
    measured = f"All pixels of the set, void excluded, at each image's own size, {subject.inference.describe()}."
    precision_recall(lines, folder / "precision_recall.png", title, measured)


def draw_sheet(sheet: Sheet, made: Stored, dataset: Dataset, predict: Predict, folder: Path) -> Path:
    """Draw images of the evaluated data set with truth, prediction and errors; return the path of the PNG."""
    subject, checkpoint = made.report.subject, made.report.subject.checkpoints[0]
    rows = []
    for place, labels in zip(sheet.places, predict(sheet.places), strict=True):
        sample = dataset.read(place)
        caption = _caption(made.evaluation.confusion[place], subject.classes, sheet.label)
        rows.append(PredictionRow(dataset.names[place], sample.image, sample.mask, labels, caption))
    about = sheet.title(subject.classes)
    path = folder / f"{file_name(about)}.png"
    title = f"{checkpoint.run_id}, step {checkpoint.step}: {about}"
    predictions(rows, subject.classes, path, title=title, highlight=sheet.label)
    return path


def _caption(matrix: ArrayLike, classes: Classes, label: int | None) -> str:
    found = scores(matrix)
    if label is not None:
        return f"IoU of {classes.names[label]} {percent(found.class_iou[label])}"
    return f"mean IoU {percent(found.mean_iou)}, pixel accuracy {percent(found.pixel_accuracy)}"
