"""Scores of a segmentation, each a function of a confusion matrix; matrices of images and workers add up."""

import torch
from torch import Tensor

from fcn_core.settings import VOID, Value


class Scores(Value):
    """Scores over a set of images, as shares from 0 to 1; a class absent from truth and prediction has none."""

    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_iou: float | None
    frequency_weighted_iou: float | None
    mean_dice: float | None
    class_accuracy: tuple[float | None, ...]
    class_iou: tuple[float | None, ...]
    class_dice: tuple[float | None, ...]
    labelled_pixels: int


def confusion(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Return one confusion matrix per image, (N, C, C) int64: rows are the truth, columns the prediction.

    Args:
        predicted: (N, H, W) integer labels below `num_classes`.
        truth: (N, H, W) integer labels below `num_classes`, or `VOID`, which is not counted.
        num_classes: C.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction of shape {tuple(predicted.shape)} but truth of shape {tuple(truth.shape)}")
    images = torch.arange(len(truth), device=truth.device).view(-1, 1, 1)
    cells = (images * num_classes + truth.to(torch.int64)) * num_classes + predicted.to(torch.int64)
    # Void pixels go to a cell of their own, which is dropped: a boolean index would make the host wait.
    cells = cells.where(truth != VOID, len(truth) * num_classes**2)
    counts = torch.bincount(cells.flatten(), minlength=len(truth) * num_classes**2 + 1)[:-1]
    return counts.view(len(truth), num_classes, num_classes)


def scores(matrix: Tensor) -> Scores:
    """Return the scores of a confusion matrix (C, C), as Long, Shelhamer and Darrell (CVPR 2015) define them.

    A class absent from truth and prediction is left out of every mean; one absent from the truth but predicted has the
    IoU and Dice 0.
    """
    counts = matrix.to("cpu", torch.float64)
    hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    total = counts.sum()
    union = truth + predicted - hits
    accuracy, iou, dice = hits / truth, hits / union, 2 * hits / (truth + predicted)
    return Scores(
        pixel_accuracy=_number(hits.sum() / total),
        mean_accuracy=_number(accuracy.nanmean()),
        mean_iou=_number(iou.nanmean()),
        frequency_weighted_iou=_number((truth * iou).nansum() / total),
        mean_dice=_number(dice.nanmean()),
        class_accuracy=tuple(map(_number, accuracy)),
        class_iou=tuple(map(_number, iou)),
        class_dice=tuple(map(_number, dice)),
        labelled_pixels=int(total),
    )


def rule(num_classes: int) -> str:
    """Describe how scores are counted; no score is shown without it."""
    return (
        f"{num_classes} classes, void excluded, accumulated over the set, at each image's own size, "
        "classes absent from truth and prediction left out, no test-time augmentation"
    )


def _number(value: Tensor) -> float | None:
    return float(value) if torch.isfinite(value) else None
