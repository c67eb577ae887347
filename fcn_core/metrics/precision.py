"""Average precision of the scores of pixels: how well a class is told from the others, whatever the threshold.

Sorting the scores of all pixels of a data set needs memory that grows with it. Here scores are counted in bins, and the
counts of images and workers add up exactly. Pixels of one bin share a threshold, which lowers average precision: by
less than 0.001 where the standard deviation of the log-odds is from 1 to 9, by up to 0.01 where it is 0.1.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcn_core.settings import VOID

BINS = 4096
"""Bins of log-odds, from -`RANGE` to `RANGE`: a step of 1 / 128."""
RANGE = 16
"""Largest log-odds that are told apart, a probability of 1 - 1e-7."""


def score_counts(scores: Tensor, truth: Tensor) -> Tensor:
    """Return how often each score occurs in an image, (C, BINS, 2) int64 on the device of `scores`.

    For each class and bin of its log-odds, the labelled pixels that are [not of the class, of the class]. Log-odds
    order pixels as probabilities do, and stay apart where probabilities are near 0 and 1.

    Args:
        scores: (C, H, W) float32, logits or log-probabilities.
        truth: (H, W) uint8 labels below C, or `VOID`, which is not counted.

    Raises:
        ValueError: the shapes differ.
    """
    if scores.shape[1:] != truth.shape:
        raise ValueError(f"scores of shape {tuple(scores.shape)} but truth of shape {tuple(truth.shape)}")
    num_classes = len(scores)
    classes = torch.arange(num_classes, dtype=torch.int32, device=scores.device).view(-1, 1, 1)
    cells = (log_odds(scores).clamp_(-RANGE, RANGE) + RANGE).mul_(BINS / (2 * RANGE)).to(torch.int32)
    cells = cells.clamp_(max=BINS - 1).add_(classes * BINS)
    # Void pixels go to a cell of their own, which is dropped: a boolean index would make the host wait.
    labelled, dropped = truth != VOID, num_classes * BINS
    of_class = cells.gather(0, truth.where(labelled, 0).to(torch.int64)[None])
    total, hits = (
        torch.bincount(some.where(labelled, dropped).flatten(), minlength=dropped + 1)[:-1].view(num_classes, BINS)
        for some in (cells, of_class)
    )
    return torch.stack([total - hits, hits], dim=2)


def log_odds(scores: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the softmax p of scores (C, ...) float32, by class; +inf where there is one class."""
    top, winner = scores.max(0, keepdim=True)
    relative = scores - top
    # 1 - p of the most probable class is the sum of the others; taken from 1 it would have few digits left, or none.
    others = relative.exp().scatter_(0, winner, 0)
    # One by one: the order in which `Tensor.sum` adds, and with it the last bit, depends on where a pixel lies.
    rest: Tensor = functools.reduce(torch.add, others.split(1))
    return (relative - (1 + rest - others).log_()).scatter_(0, winner, -rest.log())


def average_precision(counts: Tensor) -> tuple[float | None, ...]:
    """Return the average precision of each class, from 0 to 1; None for a class that no labelled pixel has.

    The sum of precision times the gain in recall over falling thresholds, without interpolation. Pixels of one bin
    are above the threshold together, as equal scores are.

    Args:
        counts: (C, BINS, 2) integers as `score_counts` returns them, of an image or added up.
    """
    curves = map(precision_recall, counts)
    return tuple(float(np.diff(recall, prepend=0) @ precision) if len(recall) else None for recall, precision in curves)


def precision_recall(counts: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return recall and precision, (n,) float64 each, by falling threshold; empty for a class that no pixel has.

    Args:
        counts: (BINS, 2) integers, those of one class.
    """
    used = counts[counts.sum(1) > 0].flip(0).cumsum(0).cpu().numpy()
    if not len(used) or not used[-1, 1]:
        return np.empty(0), np.empty(0)
    return used[:, 1] / used[-1, 1], used[:, 1] / used.sum(1)
