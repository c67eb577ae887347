"""Mask average precision (AP) of objects, as COCO defines it (Lin et al., ECCV 2014), for label maps.

Objects are the 8-connected components of each class. Their number in an image is bounded by `MOST` for each class, so
what is kept of an image does not grow with its pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fcn_core.settings import VOID, Value

Labels = NDArray[np.uint8]

THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""IoU from which on a predicted object is a hit. As pycocotools makes them: the last bits decide ties."""
MOST = 100
"""Predicted objects that count for each image and class, by score."""
_RECALLS: NDArray[np.float64] = np.linspace(0, 1, 101)
"""Recall at which precision is read off."""


class Objects(NamedTuple):
    """The objects of one image: M predicted ones by class and falling score, and the number of true ones."""

    labels: Labels
    """(M,)."""
    scores: NDArray[np.float64]
    """(M,), mean confidence."""
    matches: NDArray[np.bool_]
    """(M, 10), whether it matches a true object at each of `THRESHOLDS`."""
    num_truth: NDArray[np.int64]
    """(C,), true objects of each class."""


class MaskPrecision(Value):
    """Mask average precision, from 0 to 1; a class without a true object has none and is left out of means."""

    mean: float | None
    """Over classes and `THRESHOLDS`: what COCO calls AP."""
    mean50: float | None
    """At IoU 0.5."""
    mean75: float | None
    """At IoU 0.75."""
    class_precision: tuple[float | None, ...]
    """Each over `THRESHOLDS`."""


class _Components(NamedTuple):
    numbers: NDArray[np.int32]
    """(H, W), the component of each pixel, from 1 by class and then from the top down; 0 is void."""
    labels: Labels
    """(n + 1,), the class of each component; that of 0 means nothing."""


def match_objects(predicted: Labels, confidence: NDArray[np.float32], truth: Labels, num_classes: int) -> Objects:
    """Find the objects of one image and match the predicted ones to the true ones.

    COCO matches greedily, by falling score. Here no two objects can claim the same match, so order does not matter:
    objects of one map do not overlap, hence at most one has an IoU above 0.5 with an object of the other map (Kirillov
    et al., CVPR 2019). Two could have exactly 0.5 only as its two halves; but as it is connected, these would touch and
    be one object.

    Args:
        predicted: (H, W) labels below `num_classes`.
        confidence: (H, W), of the prediction; the score of an object is its mean.
        truth: (H, W) labels below `num_classes`, or `VOID`, whose pixels belong to no object of either map.
        num_classes: C.

    Raises:
        ValueError: the shapes differ.
    """
    if not predicted.shape == confidence.shape == truth.shape:
        raise ValueError(
            f"shapes differ: {predicted.shape} predicted, {confidence.shape} confidence, {truth.shape} truth"
        )
    ours = _components(np.where(truth == VOID, truth, predicted), num_classes)
    theirs = _components(truth, num_classes)
    areas = np.bincount(ours.numbers.ravel(), minlength=len(ours.labels))
    sums = np.bincount(ours.numbers.ravel(), weights=confidence.ravel(), minlength=len(ours.labels))
    scores = sums[1:] / areas[1:]
    kept = _most_confident(ours.labels[1:], scores)
    return Objects(
        labels=ours.labels[1:][kept],
        scores=scores[kept],
        matches=_best_iou(ours, theirs)[1:][kept, None] >= THRESHOLDS,
        num_truth=np.bincount(theirs.labels[1:], minlength=num_classes),
    )


def _components(mask: Labels, num_classes: int) -> _Components:
    numbers = np.zeros(mask.shape, np.int32)
    counts: list[int] = []
    # Each class is looked for in its bounding box only. Boxes count labels from 1.
    boxes = ndimage.find_objects(mask.astype(np.int32) + 1, num_classes)  # type: ignore[attr-defined]
    for label, box in enumerate(boxes):
        count = 0
        if box is not None:
            found, count = ndimage.label(mask[box] == label, np.ones((3, 3)))  # type: ignore[attr-defined]
            np.add(found, sum(counts), out=numbers[box], where=found > 0)
        counts.append(count)
    labels = np.repeat(np.arange(num_classes, dtype=np.uint8), counts)
    return _Components(numbers, np.concatenate([np.zeros(1, np.uint8), labels]))


def _best_iou(ours: _Components, theirs: _Components) -> NDArray[np.float64]:
    """Return the best IoU of each of our components with theirs of its class, (n + 1,); entry 0 means nothing."""
    same = ours.labels[ours.numbers] == theirs.labels[theirs.numbers]
    pairs = ours.numbers[same].astype(np.int64) * len(theirs.labels) + theirs.numbers[same]
    pairs, shared = np.unique(pairs, return_counts=True)
    rows, columns = np.divmod(pairs, len(theirs.labels))
    our_areas, their_areas = (np.bincount(some.numbers.ravel(), minlength=len(some.labels)) for some in (ours, theirs))
    best = np.zeros(len(ours.labels))
    np.maximum.at(best, rows, shared / (our_areas[rows] + their_areas[columns] - shared))
    return best


def _most_confident(labels: Labels, scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the places of the `MOST` highest scores of each class, by class and falling score."""
    # Stable, as COCO's sort is: which of equal scores comes first changes the result.
    order = np.lexsort((-scores, labels))
    by_class = labels[order]
    rank = np.arange(len(order)) - np.searchsorted(by_class, by_class)
    return order[rank < MOST]


def mask_average_precision(objects: Sequence[Objects], num_classes: int) -> MaskPrecision:
    """Return the mask average precision over images, for objects of any area.

    Args:
        objects: of each image; equal scores rank in this order, so it has to be that of the data set.
        num_classes: C.
    """
    found = np.full((num_classes, len(THRESHOLDS)), np.nan)
    for label in range(num_classes):
        num_truth = sum(int(image.num_truth[label]) for image in objects)
        if num_truth:
            own = [image.labels == label for image in objects]
            scores = np.concatenate([image.scores[there] for image, there in zip(objects, own, strict=True)])
            matches = np.concatenate([image.matches[there] for image, there in zip(objects, own, strict=True)])
            found[label] = _average_precision(matches[np.argsort(-scores, kind="stable")], num_truth)
    there = found[~np.isnan(found[:, 0])]
    return MaskPrecision(
        mean=_mean(there),
        mean50=_mean(there[:, 0]),
        mean75=_mean(there[:, 5]),
        class_precision=tuple(None if np.isnan(each[0]) else float(each.mean()) for each in found),
    )


def _average_precision(matches: NDArray[np.bool_], num_truth: int) -> NDArray[np.float64]:
    """Return the average precision at each threshold, (10,), of detections (n, 10) by falling score."""
    hits = matches.cumsum(0)
    # The last bits are COCO's.
    precision = hits / (np.arange(1, len(hits) + 1)[:, None] + np.spacing(1))
    # The best precision at this recall or a higher one; beyond the last detection it is 0.
    envelope = np.vstack([np.maximum.accumulate(precision[::-1])[::-1], np.zeros(len(THRESHOLDS))])
    places = [np.searchsorted(recall, _RECALLS) for recall in (hits / num_truth).T]
    return np.array([best[place].mean() for best, place in zip(envelope.T, places, strict=True)])


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None
