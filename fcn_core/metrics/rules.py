"""Scores of confusion matrices, and the rule by which they are counted: no score is shown without it.

The same predictions score anywhere from 62 to 90 % mean IoU by the rules that papers and libraries use. `Rule()` is the
one of this software; the others of `RULES` compute from the same stored matrices what somebody else would print.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from fcn_core.settings import Value

Floats = NDArray[np.float64]


class Scores(Value):
    """Scores over a set of images, as shares from 0 to 1; None where there is nothing to score."""

    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_iou: float | None
    frequency_weighted_iou: float | None
    mean_dice: float | None
    class_accuracy: tuple[float | None, ...]
    class_iou: tuple[float | None, ...]
    class_dice: tuple[float | None, ...]
    labelled_pixels: int


class Rule(Value):
    """How scores are counted."""

    void: Literal["excluded", "false_positive", "class"] = Field(
        "excluded",
        description="pixels whose truth is void: not counted, counted as wrongly predicted, or a class never predicted",
    )
    over: Literal["set", "image", "batch"] = Field(
        "set", description="matrices are summed over this before they are scored; the mean of the scores is taken"
    )
    batch_size: int = Field(8, ge=1, description="consecutive images that are summed when over is 'batch'")
    absent: Literal["left_out", "zero", "one"] = Field(
        "left_out", description="what a class absent from truth and prediction scores"
    )
    average: Literal["classes", "pixels"] = Field(
        "classes", description="mean over classes, or of all classes' pixels at once (micro)"
    )

    def describe(self, num_classes: int, protocol: str = "no test-time augmentation") -> str:
        """Say the rule in words; `protocol` is how predictions are made."""
        return ", ".join([*_words(self, num_classes), protocol])

    def differences(self) -> str:
        """Say in words how the rule differs from `Rule()`."""
        ordinary = _words(Rule(), 0)
        return ", ".join(words for words in _words(self, 0) if words not in ordinary)


RULES: dict[str, Rule] = {
    "set": Rule(),
    "void_false_positive": Rule(void="false_positive"),
    "void_class": Rule(void="class"),
    "per_batch": Rule(over="batch"),
    "per_image": Rule(over="image"),
    "per_image_absent_zero": Rule(over="image", absent="zero"),
    "per_image_absent_one": Rule(over="image", absent="one"),
    "micro": Rule(average="pixels"),
}
"""Rules in use. "set" is that of Pascal VOC, Cityscapes and the FCN papers, and the headline here."""


def scores(matrices: ArrayLike, rule: Rule | None = None) -> Scores:
    """Return scores as Long, Shelhamer and Darrell (CVPR 2015) define them, under a rule.

    Under `Rule()` a class absent from truth and prediction is left out of every mean, and one that is predicted though
    absent from the truth has the IoU and Dice 0.

    Args:
        matrices: confusion matrices (N, C + 1, C) or one (C + 1, C), integers; rows are the truth, void last.
        rule: the headline rule where left out.

    Raises:
        ValueError: the matrices have not this shape.
    """
    counts = np.asarray(matrices, dtype=np.int64)
    if counts.shape[-2] != counts.shape[-1] + 1:
        raise ValueError(f"confusion matrices are (C + 1, C), void last, not {counts.shape[-2:]}")
    counts = counts.reshape(-1, *counts.shape[-2:])
    found = _Parts.of(counts, rule or Rule(), np.ones((1, len(counts))))
    return Scores(
        pixel_accuracy=_number(found.pixel_accuracy[0]),
        mean_accuracy=_number(found.mean_accuracy[0]),
        mean_iou=_number(found.mean_iou[0]),
        frequency_weighted_iou=_number(found.frequency_weighted_iou[0]),
        mean_dice=_number(found.mean_dice[0]),
        class_accuracy=tuple(map(_number, found.accuracy[0])),
        class_iou=tuple(map(_number, found.iou[0])),
        class_dice=tuple(map(_number, found.dice[0])),
        labelled_pixels=int(counts[:, :-1].sum()),
    )


def resampled_iou(matrices: ArrayLike, rule: Rule, weights: ArrayLike) -> tuple[Floats, Floats]:
    """Return mean IoU (B,) and IoU of each class (B, C) of B sets in which image n occurs `weights[b, n]` times.

    Args:
        matrices: confusion matrices (N, C + 1, C); rows are the truth, void last.
        rule: any but one over batches, since a batch drawn anew is no batch of before.
        weights: (B, N) whole numbers.

    Raises:
        ValueError: the rule is over batches.
    """
    if rule.over == "batch":
        raise ValueError("images cannot be drawn anew under a rule over batches")
    found = _Parts.of(np.asarray(matrices, dtype=np.int64), rule, np.asarray(weights, dtype=np.float64))
    return found.mean_iou, found.iou


class _Parts(NamedTuple):
    """What scores are made of, for each of B sets; NaN where there is nothing to score."""

    accuracy: Floats
    """(B, classes)."""
    iou: Floats
    """(B, classes)."""
    dice: Floats
    """(B, classes)."""
    mean_accuracy: Floats
    """(B,), as all below."""
    mean_iou: Floats
    mean_dice: Floats
    pixel_accuracy: Floats
    frequency_weighted_iou: Floats

    @classmethod
    def of(cls, counts: NDArray[np.int64], rule: Rule, weights: Floats) -> "_Parts":
        # Counts are whole numbers below 2 ** 53: their sums are exact in float64.
        matrices = _with_void(counts.astype(np.float64), rule)
        if rule.over == "set":
            return _parts(np.tensordot(weights, matrices, axes=1), rule)
        if rule.over == "batch":
            starts = range(0, len(matrices), rule.batch_size)
            matrices = np.stack([matrices[start : start + rule.batch_size].sum(0) for start in starts])
            weights = np.ones((len(weights), len(matrices)))
        each = _parts(matrices, rule)
        return cls(*(_weighted_nanmean(part, weights) for part in each))


def _words(rule: Rule, num_classes: int) -> list[str]:
    void = {
        "excluded": [f"{num_classes} classes", "void excluded"],
        "false_positive": [f"{num_classes} classes", "void pixels are false positives"],
        "class": [f"{num_classes} classes", "void as one more class"],
    }[rule.void]
    over = {
        "set": "accumulated over the set",
        "image": "mean over images",
        "batch": f"mean over batches of {rule.batch_size} images",
    }[rule.over]
    absent = {"left_out": "left out", "zero": "count as 0", "one": "count as 1"}[rule.absent]
    average = ["micro average over classes"] if rule.average == "pixels" else []
    own_size = "at each image's own size"
    return [*void, over, own_size, f"classes absent from truth and prediction {absent}", *average]


def _with_void(matrices: Floats, rule: Rule) -> Floats:
    """Return (N, R, C') matrices whose rows beyond the classes count as predicted in the wrong place only."""
    if rule.void == "excluded":
        return matrices[:, :-1]
    if rule.void == "false_positive":
        return matrices
    # Void as a class: it has a truth, and no network predicts it.
    return np.concatenate([matrices, np.zeros((*matrices.shape[:2], 1))], axis=2)


def _parts(matrices: Floats, rule: Rule) -> _Parts:
    num_classes = matrices.shape[2]
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    truth, predicted = matrices[:, :num_classes].sum(2), matrices.sum(1)
    union = truth + predicted - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, dice = hits / union, 2 * hits / (truth + predicted)
        if rule.absent != "left_out":
            iou, dice = (np.where(union == 0, float(rule.absent == "one"), part) for part in (iou, dice))
        accuracy, micro = hits / truth, rule.average == "pixels"
        return _Parts(
            accuracy=accuracy,
            iou=iou,
            dice=dice,
            mean_accuracy=hits.sum(1) / truth.sum(1) if micro else _nanmean(accuracy),
            mean_iou=hits.sum(1) / union.sum(1) if micro else _nanmean(iou),
            mean_dice=2 * hits.sum(1) / (truth + predicted).sum(1) if micro else _nanmean(dice),
            pixel_accuracy=hits.sum(1) / matrices.sum((1, 2)),
            frequency_weighted_iou=np.where(truth > 0, truth * iou, 0).sum(1) / truth.sum(1),
        )


def _nanmean(values: Floats) -> Floats:
    mean: Floats = _weighted_nanmean(values.T, np.ones((1, values.shape[1])))[0]
    return mean


def _weighted_nanmean(values: Floats, weights: Floats) -> Floats:
    """Return the means (B, ...) of values (N, ...) with weights (B, N), leaving out NaN."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.tensordot(weights, np.where(there, values, 0), axes=1) / np.tensordot(weights, there, axes=1)
    return np.asarray(mean, dtype=np.float64)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
