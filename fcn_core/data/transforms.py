"""Joint augmentation of an image and its mask."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from fcn_core.data.base import Sample
from fcn_core.settings import VOID, Data


def augment(sample: Sample, data: Data, fill: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Return a training image (3, H, W) uint8 and its mask (H, W) uint8, a pure function of the arguments.

    Random scale, crop, flip and colour, in this order. The mask is never interpolated; where the crop reaches beyond
    the image, the image has the colour `fill` (before its colours are changed) and the mask is void.
    """
    pixels, labels = torch.from_numpy(sample.image).permute(2, 0, 1), torch.from_numpy(sample.mask)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed CUDA too, whose state is not put back.
        torch.default_generator.manual_seed(seed)
        factor = data.scale * float(torch.empty(()).uniform_(*data.zoom))
        image = tv_tensors.Image(resize_image(pixels, factor))
        mask = tv_tensors.Mask(resize_mask(labels, factor))
        for transform in _random_transforms(data, fill):
            image, mask = transform(image, mask)
    return image.as_subclass(Tensor).contiguous(), mask.as_subclass(Tensor).contiguous()


def resize_image(image: Tensor, factor: float) -> Tensor:
    """Scale an image (3, H, W) uint8, bilinear with antialiasing."""
    return _resize(image, factor, InterpolationMode.BILINEAR)


def resize_mask(mask: Tensor, factor: float) -> Tensor:
    """Scale a mask (H, W) uint8: each pixel takes the label nearest to its centre."""
    return _resize(mask[None], factor, InterpolationMode.NEAREST_EXACT)[0]


def _resize(image: Tensor, factor: float, interpolation: InterpolationMode) -> Tensor:
    height, width = image.shape[-2:]
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    if size == [height, width]:
        return image
    resized: Tensor = v2.functional.resize(image, size, interpolation, antialias=True)
    return resized


def _random_transforms(data: Data, fill: tuple[int, int, int]) -> list[v2.Transform]:
    transforms: list[v2.Transform] = []
    if data.crop is not None:
        fills: dict[type | str, Any] = {tv_tensors.Image: list(fill), tv_tensors.Mask: VOID}
        transforms.append(v2.RandomCrop(data.crop, pad_if_needed=True, fill=fills))
    if data.flip:
        transforms.append(v2.RandomHorizontalFlip())
    if data.colour:
        change = 0.4 * data.colour
        transforms.append(v2.ColorJitter(brightness=change, contrast=change, saturation=change, hue=0.1 * data.colour))
    return transforms
