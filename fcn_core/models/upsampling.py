"""Transposed convolutions that start as bilinear interpolation (Long, Shelhamer, Darrell, CVPR 2015)."""

import torch
from torch import Tensor, nn

from fcn_core.models.geometry import Upsampling


def bilinear_kernel(size: int, factor: int) -> Tensor:
    """Return the (size, size) kernel with which a transposed convolution of stride `factor` is bilinear."""
    distance = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2).abs()
    line = (1 - distance / factor).clamp(min=0)
    return torch.outer(line, line).to(torch.float32)


def bilinear_upsampling(channels: int, shape: Upsampling, *, learned: bool) -> nn.ConvTranspose2d:
    """Return a transposed convolution without bias: bilinear from each channel to itself, zero between channels.

    It maps (N, channels, H, W) to (N, channels, about H * factor, about W * factor).
    """
    layer = nn.ConvTranspose2d(
        channels,
        channels,
        shape.kernel,
        stride=shape.factor,
        padding=shape.padding,
        output_padding=shape.output_padding,
        bias=False,
    )
    with torch.no_grad():
        layer.weight.zero_()
        diagonal = torch.arange(channels)
        layer.weight[diagonal, diagonal] = bilinear_kernel(shape.kernel, shape.factor)
    layer.weight.requires_grad_(learned)
    return layer
