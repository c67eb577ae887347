"""What the stride of a network costs by itself: the truth brought to a grid of stride s and back.

FCN-32s, 16s and 8s score the units of a grid and interpolate between them, so their borders are those of the grid.
`through_grid` gives each unit the share of every class in its cell: what a network says that measures its cell well.
It is no bound, since a network may exaggerate, and so place borders between units: `best_through_grid` searches for the
scores that fit the truth best. What it finds, scores on the grid can do; no other part of a network limits it.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fcn_core.settings import VOID

Labels = NDArray[np.uint8]

_LEAST_SHARE = 0.01
"""Added to shares before their logarithm is taken."""


def through_grid(mask: Labels, stride: int, num_classes: int) -> Labels:
    """Average the truth over cells of `stride` pixels, interpolate bilinearly, and take the highest class.

    Cells are cut from the top left; those that the image does not fill are filled up with void, which counts for no
    class. Units lie in the middle of their cells, as those of VGG16 do.

    Args:
        mask: (H, W) labels below `num_classes`, or `VOID`; any size from 1x1.
        stride: of the grid, in pixels.
        num_classes: C.

    Returns:
        (H, W) labels without void. Among equal classes the first is taken, and 0 where there is only void.

    Raises:
        ValueError: a label is neither void nor a class, or the stride is not positive.
    """
    height, width = mask.shape
    truth = _one_hot(mask, stride, num_classes)
    return _labels(_upsampled(_shares(truth, stride), stride), height, width)


def best_through_grid(mask: Labels, stride: int, num_classes: int) -> Labels:
    """Search for scores on the grid that, interpolated bilinearly, have the truth as their highest class.

    The cross-entropy, which has no local minimum, leads near; then the mean over classes of a soft IoU is raised. This
    is a search: better scores may exist, so a network that beats it has broken no law. Runs on the CPU, without random
    numbers.

    Args:
        mask: (H, W) labels below `num_classes`, or `VOID`; any size from 1x1.
        stride: of the grid, in pixels.
        num_classes: C.

    Returns:
        (H, W) labels without void; classes that are not in the truth do not occur, but for 0 if there is only void.

    Raises:
        ValueError: a label is neither void nor a class, or the stride is not positive.
    """
    height, width = mask.shape
    truth = _one_hot(mask, stride, num_classes)
    present = truth.flatten(1).any(1).nonzero().flatten()
    if not len(present):
        return np.zeros_like(mask)
    truth = truth[present]
    labelled, pixels = truth.sum(0), truth.sum((1, 2))
    scores = (_shares(truth, stride) + _LEAST_SHARE).log().requires_grad_()

    def cross_entropy() -> Tensor:
        return -(_upsampled(scores, stride).log_softmax(0) * truth).sum() / pixels.sum()

    def one_minus_iou() -> Tensor:
        probability = _upsampled(scores, stride).softmax(0) * labelled
        both = (probability * truth).sum((1, 2))
        return 1 - (both / (probability.sum((1, 2)) + pixels - both)).mean()

    _descend(scores, cross_entropy, 20)
    _descend(scores, one_minus_iou, 30)
    found = _labels(_upsampled(scores.detach(), stride), height, width)
    return present.numpy().astype(np.uint8)[found]


def _one_hot(mask: Labels, stride: int, num_classes: int) -> Tensor:
    """Return (C, H', W') float32 with sides that the stride divides; void is 0 in every class."""
    if stride < 1:
        raise ValueError(f"a grid has a stride from 1, not {stride}")
    strange = mask[(mask >= num_classes) & (mask != VOID)]
    if strange.size:
        raise ValueError(f"label {strange[0]} is neither void ({VOID}) nor one of the {num_classes} classes from 0")
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % stride), (0, -width % stride)), constant_values=VOID)
    return (torch.from_numpy(padded) == torch.arange(num_classes)[:, None, None]).to(torch.float32)


def _shares(truth: Tensor, stride: int) -> Tensor:
    """Return the share of each class in each cell, (C, H'/stride, W'/stride)."""
    return functional.avg_pool2d(truth[None], stride)[0]


def _upsampled(scores: Tensor, stride: int) -> Tensor:
    """Return scores (C, h, w) at (C, h * stride, w * stride).

    Beyond the outermost units they go on unchanged. The networks' go to 0 there, which changes no order of classes.
    """
    # As a product of matrices, whose gradient takes a CPU a third of the time of that of `functional.interpolate`.
    rows, columns = (_interpolation(units, stride) for units in scores.shape[1:])
    return rows @ (scores @ columns.T)


def _interpolation(units: int, stride: int) -> Tensor:
    """Return the matrix (units * stride, units) that interpolates linearly between units."""
    line = functional.interpolate(torch.eye(units)[None], scale_factor=stride, mode="linear", align_corners=False)
    return line[0].T


def _labels(scores: Tensor, height: int, width: int) -> Labels:
    labels: Labels = scores[:, :height, :width].numpy().argmax(0).astype(np.uint8)
    return labels


def _descend(scores: Tensor, loss: Callable[[], Tensor], iterations: int) -> None:
    """Change `scores` in place by L-BFGS."""
    method = torch.optim.LBFGS(
        [scores],
        max_iter=iterations,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def evaluate() -> float:
        method.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    method.step(evaluate)
