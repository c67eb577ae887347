"""Boundary IoU (Cheng, Girshick, Dollar, Berg and Kirillov, CVPR 2021): IoU of the pixels near the contours of a class.

Errors at the contour hardly move the IoU of large regions; here they count whatever the size of the region.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fcn_core.settings import VOID

Labels = NDArray[np.uint8]


def boundary_counts(predicted: Labels, truth: Labels, num_classes: int, share: float = 0.02) -> NDArray[np.int64]:
    """Count boundary pixels of one image, (C, 3): in both boundaries, in that of the truth, in that of the prediction.

    The boundary of a class is its pixels whose distance to its contour is at most `distance`, the larger of |dx| and
    |dy| counted. The edge of the image is a contour. Void is not: pixels that are void in the truth are void in both
    maps, and what they border on may go on below them.

    Args:
        predicted: (H, W) labels below `num_classes`.
        truth: (H, W) labels below `num_classes`, or `VOID`.
        num_classes: C.
        share: distance as a share of the image's diagonal. The authors use 0.02, and 0.005 for Cityscapes.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction of shape {predicted.shape} but truth of shape {truth.shape}")
    predicted = np.where(truth == VOID, truth, predicted)
    pixels = distance(truth.shape, share)
    ours, theirs = _boundary(predicted, pixels), _boundary(truth, pixels)
    counted = truth[ours & theirs & (predicted == truth)], truth[theirs], predicted[ours]
    return np.stack([np.bincount(labels, minlength=VOID + 1)[:num_classes] for labels in counted], axis=1)


def distance(shape: tuple[int, ...], share: float) -> int:
    """Return the width in pixels of the boundary in an image of shape (H, W), at least 1."""
    return max(1, round(share * math.hypot(*shape)))


def _boundary(mask: Labels, pixels: int) -> NDArray[np.bool_]:
    """Tell which pixels are within `pixels` of a contour; of void ones the answer means nothing.

    One pass over the map for all classes: all labels around a pixel are its own if their minimum and maximum are.
    """
    codes = mask + np.uint8(1)  # Labels from 1; void is 0, the lowest of all, which the maximum does not see.
    lowest_codes = np.where(mask == VOID, mask, codes)  # Void is 255, the highest.
    around = {"size": 2 * pixels + 1, "mode": "constant", "cval": 0}
    lowest = ndimage.minimum_filter(lowest_codes, **around)  # type: ignore[attr-defined]
    highest = ndimage.maximum_filter(codes, **around)  # type: ignore[attr-defined]
    boundary: NDArray[np.bool_] = (lowest != codes) | (highest != codes)
    return boundary


def boundary_iou(counts: NDArray[np.int64]) -> tuple[float | None, ...]:
    """Return the Boundary IoU of each class, from 0 to 1; None for one absent from truth and prediction.

    Args:
        counts: (C, 3) as `boundary_counts` returns them, of an image or added up.
    """
    both, truth, predicted = counts.T.tolist()
    unions = [true + ours - shared for shared, true, ours in zip(both, truth, predicted, strict=True)]
    return tuple(shared / union if union else None for shared, union in zip(both, unions, strict=True))
