"""Losses over labelled pixels, normalised over the global batch: they do not depend on the number of workers."""

import torch
from torch import Tensor
from torch.nn import functional

from fcn_core.settings import VOID, Loss


class SegmentationLoss:
    """Weighted sum of cross-entropy and soft Dice.

    A batch is spread over workers and forward passes; each part adds its share, and the shares add up to the loss of
    the batch.

    Args:
        settings: weights of the two losses, and the reduction.
        class_weights: (classes,) float32, weight of each class in the cross-entropy.
        batch_size: images of the global batch.
    """

    def __init__(self, settings: Loss, class_weights: Tensor, batch_size: int) -> None:
        self.settings = settings
        self.class_weights = class_weights
        self._weights_by_label = class_weights.new_zeros(VOID + 1)
        self._weights_by_label[: len(class_weights)] = class_weights
        self.batch_size = batch_size

    def labelled_weight(self, masks: Tensor) -> Tensor:
        """Return the sum of class weights over the labelled pixels of masks (N, H, W) uint8, a float32 scalar.

        Added up over the global batch it is what `share` divides by; with the reduction 'sum' it counts nothing.
        """
        return self._weights_by_label[masks.to(torch.int64)].sum()

    def share(self, scores: Tensor, masks: Tensor, total_weight: Tensor) -> Tensor:
        """Return this part's share of the batch's loss, a float32 scalar.

        Args:
            scores: (N, C, H, W) of any float type.
            masks: (N, H, W) uint8, void pixels are `VOID`.
            total_weight: `labelled_weight` summed over the global batch.
        """
        scores = scores.to(torch.float32)
        loss = scores.new_zeros(())
        if self.settings.cross_entropy:
            entropy = cross_entropy_sum(scores, masks, self.class_weights)
            if self.settings.reduction == "mean":
                # A batch without a labelled pixel has the loss 0, not 0 / 0.
                entropy = entropy / total_weight.clamp(min=torch.finfo(torch.float32).tiny)
            loss = loss + self.settings.cross_entropy * entropy
        if self.settings.dice:
            loss = loss + self.settings.dice * dice_losses(scores, masks).sum() / self.batch_size
        return loss


def cross_entropy_sum(scores: Tensor, masks: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy summed over labelled pixels, given scores (N, C, H, W) and masks (N, H, W) uint8."""
    labels = masks.to(torch.int64)
    if scores.is_cuda:
        # On CUDA the loss over maps has no deterministic form; over pixels in rows it has.
        scores, labels = scores.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
    return functional.cross_entropy(scores, labels, weight=class_weights, ignore_index=VOID, reduction="sum")


def dice_losses(scores: Tensor, masks: Tensor) -> Tensor:
    """Return the soft Dice loss of each image, (N,), from 0 to 1.

    After Milletari, Navab and Ahmadi (3DV 2016), with linear denominators.

    For each class in the truth of an image: 1 - 2 sum(p t) / (sum(p) + sum(t)), sums over its labelled pixels; then the
    mean over those classes. An image without a labelled pixel has the loss 0. Computed per image, it does not depend on
    the make-up of batches.
    """
    labelled = masks != VOID
    truth = functional.one_hot(masks.where(labelled, 0).to(torch.int64), scores.shape[1]).permute(0, 3, 1, 2)
    truth = truth * labelled[:, None]
    probability = scores.softmax(1) * labelled[:, None]
    both = (probability * truth).sum((2, 3))
    total = probability.sum((2, 3)) + truth.sum((2, 3))
    present = truth.sum((2, 3)) > 0
    dice = torch.where(present, 2 * both / total.clamp(min=1), 0)
    classes = present.sum(1)
    return torch.where(classes > 0, 1 - dice.sum(1) / classes.clamp(min=1), 0)
