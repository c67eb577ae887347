"""What a network expects of an image; it belongs to the weights and travels with them."""

from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Preprocessing = Literal["torchvision", "caffe", "inception"]


class _Statistics(NamedTuple):
    order: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


STATISTICS: dict[str, _Statistics] = {
    # RGB in [0, 1], the mean and standard deviation of ImageNet, here in levels from 0 to 255.
    "torchvision": _Statistics((0, 1, 2), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    # BGR in [0, 255] minus the mean of ImageNet, as the published Caffe VGG16 wants it.
    "caffe": _Statistics((2, 1, 0), (104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0)),
    # RGB from -1 to 1, as the classifiers want it whose weights torchvision took over from TensorFlow.
    "inception": _Statistics((0, 1, 2), (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


def preprocess(images: Tensor, rule: Preprocessing) -> Tensor:
    """Map RGB images (N, 3, H, W), levels from 0 to 255, to what the network expects: float32, mean colour 0."""
    mean, std = _constants(rule, images.device)
    ordered = images if STATISTICS[rule].order == (0, 1, 2) else images.flip(1)
    return (ordered.to(torch.float32) - mean) / std


def mean_colour(rule: Preprocessing) -> tuple[int, int, int]:
    """Return the RGB levels nearest to the mean, with which augmentation fills where there is no image."""
    statistics = STATISTICS[rule]
    red, green, blue = (round(statistics.mean[statistics.order.index(channel)]) for channel in range(3))
    return red, green, blue


@cache
def _constants(rule: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept on the device: made anew at each step they would make the host wait for the copy.
    statistics = STATISTICS[rule]
    # Made in inference mode they could never be used where gradients are wanted.
    with torch.inference_mode(mode=False):
        return (
            torch.tensor(statistics.mean, device=device).view(3, 1, 1),
            torch.tensor(statistics.std, device=device).view(3, 1, 1),
        )
