"""The confusion matrix of an image; those of images and workers add up."""

import torch
from torch import Tensor

from fcn_core.settings import VOID


def confusion(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Return one confusion matrix per image, (N, C + 1, C) int64; rows are the truth, void last.

    Args:
        predicted: (N, H, W) integer labels below `num_classes`.
        truth: (N, H, W) integer labels below `num_classes`, or `VOID`.
        num_classes: C.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction of shape {tuple(predicted.shape)} but truth of shape {tuple(truth.shape)}")
    images = torch.arange(len(truth), device=truth.device).view(-1, 1, 1)
    rows = truth.to(torch.int64).where(truth != VOID, num_classes)
    cells = (images * (num_classes + 1) + rows) * num_classes + predicted.to(torch.int64)
    counts = torch.bincount(cells.flatten(), minlength=len(truth) * (num_classes + 1) * num_classes)
    return counts.view(len(truth), num_classes + 1, num_classes)
