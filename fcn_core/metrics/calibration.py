"""Calibration: whether pixels predicted with a confidence of 0.8 are right in 80 % of cases.

The expected calibration error is that of Naeini, Cooper and Hauskrecht (AAAI 2015). A network is calibrated after
training by one number that divides its scores, the temperature (Guo, Pleiss, Sun and Weinberger, ICML 2017). It is
found on one set of images and applied to another, so everything is counted for all temperatures of a grid at once.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from fcn_core.settings import VOID

TEMPERATURES: tuple[float, ...] = tuple(2 ** (step / 16) for step in range(-32, 33))
"""From 1/4 to 4, each 4.4 % above the last; `TEMPERATURES[32]` is 1."""
NUM_BINS = 15
"""Equal bins of confidence; bin k has k / 15 < confidence <= (k + 1) / 15."""
MOST_PIXELS = 2**14
"""Pixels of an image that are measured."""
NLL_UNIT = 2.0**-20
"""Nat."""
CONFIDENCE_UNIT = 2.0**-24
_FLOOR = -1024.0
"""Least score relative to the highest: a score of -inf, a probability that was rounded to 0, makes no sum infinite."""


class Calibration(NamedTuple):
    """Counts at each of `TEMPERATURES`, of an image or added up."""

    nll: Tensor
    """(65,) int64, negative log-likelihood of the true classes in `NLL_UNIT`."""
    bins: Tensor
    """(65, 15, 3) int64, for each bin of confidence: pixels, correct pixels, sum of confidence in `CONFIDENCE_UNIT`."""

    def plus(self, other: "Calibration") -> "Calibration":
        """Return the counts of both."""
        return Calibration(self.nll + other.nll, self.bins + other.bins)


def calibration_counts(scores: Tensor, truth: Tensor) -> Calibration:
    """Count confidence and correctness in one image, on the device of `scores`.

    Measured are the labelled pixels of a regular lattice of at most `MOST_PIXELS`, which bounds the cost: neighbours
    tell little that is new. Confidence is the softmax of the predicted class. Numbers are rounded for each pixel, so
    that sums do not depend on their order.

    Args:
        scores: (C, H, W) float32, logits or log-probabilities.
        truth: (H, W) uint8 labels below C, or `VOID`, which is not counted.

    Raises:
        ValueError: the shapes differ.
    """
    if scores.shape[1:] != truth.shape:
        raise ValueError(f"scores of shape {tuple(scores.shape)} but truth of shape {tuple(truth.shape)}")
    rows, columns = lattice(*truth.shape)
    pixels, labels = scores[:, rows, columns].flatten(1), truth[rows, columns].flatten()
    labelled = labels != VOID
    labels = labels.where(labelled, 0).to(torch.int64)
    top, predicted = pixels.max(0)
    relative = (pixels - top).clamp_(min=_FLOOR)
    temperatures = torch.tensor(TEMPERATURES, device=scores.device)[:, None]
    # The predicted class has the relative score 0 and adds 1 to the sum: its softmax is 1 / sum.
    sums = torch.stack([_added((relative / temperature).exp_()) for temperature in TEMPERATURES])
    nll = sums.log() - relative.gather(0, labels[None]) / temperatures
    return Calibration(
        nll=(nll / NLL_UNIT).round_().to(torch.int64).where(labelled, 0).sum(1),
        bins=_binned(1 / sums, predicted == labels, labelled),
    )


def lattice(height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns that are measured: as dense as `MOST_PIXELS` allows, and in the middle."""
    step = 1
    while math.ceil(height / step) * math.ceil(width / step) > MOST_PIXELS:
        step += 1
    return slice((height - 1) % step // 2, None, step), slice((width - 1) % step // 2, None, step)


def _added(shares: Tensor) -> Tensor:
    """Return the sum of shares (C, n) over classes, (n,)."""
    # One by one: the order in which `Tensor.sum` adds, and with it the last bit, depends on where a pixel lies.
    return functools.reduce(torch.add, shares.unbind())


def _binned(confidence: Tensor, correct: Tensor, labelled: Tensor) -> Tensor:
    """Return (T, NUM_BINS, 3) int64 of confidence (T, n), given correct (n,) and labelled (n,)."""
    num_rows = len(confidence)
    rows = torch.arange(num_rows, device=confidence.device)[:, None] * NUM_BINS
    cells = (confidence * NUM_BINS).ceil_().to(torch.int64) - 1 + rows
    # Pixels that are void go to a cell of their own, which is dropped.
    cells = cells.where(labelled, num_rows * NUM_BINS).flatten()
    counted = torch.ones_like(cells), correct.expand_as(confidence), (confidence / CONFIDENCE_UNIT).round_()
    sums = [
        cells.new_zeros(num_rows * NUM_BINS + 1).index_add_(0, cells, values.flatten().to(torch.int64))[:-1]
        for values in counted
    ]
    return torch.stack(sums, dim=1).view(num_rows, NUM_BINS, 3)


def fitted_temperature(nll: Tensor) -> int:
    """Return the index in `TEMPERATURES` of the least negative log-likelihood (65,), the first of equal ones.

    The grid is 4.4 % apart: the best temperature is at most about 2.2 % from the one returned.
    """
    return int(nll.argmin())


def expected_calibration_error(bins: Tensor) -> float | None:
    """Return the mean distance of confidence and accuracy over bins, weighted by pixels; None without a pixel.

    Args:
        bins: (15, 3) integers at one temperature, as in `Calibration`.
    """
    num_pixels, correct, confidence = bins.to("cpu", torch.float64).T
    total = float(num_pixels.sum())
    return float((correct - confidence * CONFIDENCE_UNIT).abs().sum()) / total if total else None
