"""Intervals by bootstrap: how far a score would move with other images of the same kind (Efron, 1979).

Images are drawn anew with replacement, and the score of each drawn set is taken; the interval is between percentiles.
Where images come from few video sequences they resemble each other, and an interval over images is too narrow: then
whole sequences are drawn.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fcn_core.metrics.rules import Rule, resampled_iou
from fcn_core.settings import Value

LEVEL = 0.95
NUM_SAMPLES = 2000
_CELLS = 2**24
"""Numbers held at once of drawn sets."""


class Interval(Value):
    """A score or difference with its percentile interval at `LEVEL` over drawn sets; None where it cannot be told."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Tell whether all of the interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Intervals(NamedTuple):
    """Of mean IoU, and of the IoU of each class."""

    mean_iou: Interval
    class_iou: tuple[Interval, ...]


def draws(
    num_images: int, groups: Sequence[str] | None = None, at_once: int = NUM_SAMPLES
) -> Iterator[NDArray[np.int64]]:
    """Yield how often each image occurs in each of `NUM_SAMPLES` drawn sets, (up to `at_once`, N) at a time.

    Equal images and groups give equal draws, so that two runs are compared on the same sets.

    Args:
        num_images: N.
        groups: the sequence of each image, if sequences are drawn rather than images.
        at_once: drawn sets that are yielded together; it changes no number.
    """
    members = np.unique(groups, return_inverse=True)[1] if groups is not None else np.arange(num_images)
    num_groups = int(members.max()) + 1
    generator = np.random.default_rng(0)
    for start in range(0, NUM_SAMPLES, at_once):
        size = min(at_once, NUM_SAMPLES - start)
        yield generator.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size)[:, members]


def intervals(runs: Sequence[ArrayLike], rule: Rule, groups: Sequence[str] | None = None) -> Intervals:
    """Return intervals of the scores of one run, or of the mean scores of several that differ in seed.

    Args:
        runs: confusion matrices (N, C + 1, C) of each run, of the same images; rows are the truth, void last.
        rule: any but one over batches.
        groups: the sequence of each image, if sequences are drawn; at least two.
    """
    return _intervals([(np.asarray(matrices), 1 / len(runs)) for matrices in runs], rule, groups)


def paired(
    ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike], rule: Rule, groups: Sequence[str] | None = None
) -> Intervals:
    """Return intervals of the difference ours - theirs, both scored on the same drawn images.

    Args:
        ours: confusion matrices (N, C + 1, C) of one run, or of several that differ in seed: the mean of their scores.
        theirs: those of the other side, of the same images in the same order.
        rule: any but one over batches.
        groups: the sequence of each image, if sequences are drawn; at least two.
    """
    terms = [(np.asarray(matrices), 1 / len(ours)) for matrices in ours]
    terms += [(np.asarray(matrices), -1 / len(theirs)) for matrices in theirs]
    return _intervals(terms, rule, groups)


def _intervals(terms: Sequence[tuple[NDArray[np.int64], float]], rule: Rule, groups: Sequence[str] | None) -> Intervals:
    num_images, _, num_classes = terms[0][0].shape
    value = _combined(terms, rule, np.ones((1, num_images)))[0]
    at_once = max(1, _CELLS // max(num_images, (num_classes + 1) ** 2))
    parts = [_combined(terms, rule, weights) for weights in draws(num_images, groups, at_once)]
    found = [_interval(one, drawn) for one, drawn in zip(value, np.concatenate(parts).T, strict=True)]
    return Intervals(found[0], tuple(found[1:]))


def _combined(terms: Sequence[tuple[NDArray[np.int64], float]], rule: Rule, weights: ArrayLike) -> NDArray[np.float64]:
    """Return (B, 1 + classes): mean IoU and IoU of each class, terms added up by their factors."""
    total = np.zeros(())
    for matrices, factor in terms:
        mean_iou, class_iou = resampled_iou(matrices, rule, weights)
        total = total + factor * np.column_stack([mean_iou, class_iou])
    return total


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    there = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(there):
        return Interval(value=None, low=None, high=None)
    low, high = np.percentile(there, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(value=float(value), low=float(low), high=float(high))
