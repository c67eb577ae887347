"""Where the units of a feature map lie on the image: every crop and padding of a network is derived from here.

Unit `i` of a map on `Grid(stride, offset)` has its centre at pixel `stride * i + offset` along either axis. A skip and
an upsampled score may be added only where their grids agree.
"""

from collections.abc import Iterable
from typing import NamedTuple, Self

from torch import Tensor, nn


class Grid(NamedTuple):
    """Centres of the units of a feature map, and how much of the image they see, in pixels of the image."""

    stride: float
    offset: float
    field: float = 1.0
    """Side of the receptive field, whose middle is the centre of the unit."""

    def convolved(self, kernel: int, stride: int, padding: int) -> Self:
        """Return the grid after a convolution or pooling."""
        offset = self.offset + self.stride * ((kernel - 1) / 2 - padding)
        return type(self)(self.stride * stride, offset, self.field + self.stride * (kernel - 1))

    def upsampled(self, kernel: int, stride: int, padding: int) -> Self:
        """Return the grid after a transposed convolution; its field is that of the unit that sees most."""
        fine = self.stride / stride
        return type(self)(fine, self.offset - fine * ((kernel - 1) / 2 - padding), self.field + fine * (kernel - 1))

    def after(self, layers: Iterable[nn.Module]) -> Self:
        """Return the grid after convolutions and poolings in their order; other layers keep it."""
        grid = self
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                grid = grid.convolved(_first(layer.kernel_size), _first(layer.stride), _first(layer.padding))
        return grid


PIXELS = Grid(1.0, 0.0)


class Upsampling(NamedTuple):
    """A transposed convolution by an integer factor."""

    factor: int
    kernel: int
    padding: int
    output_padding: int


def aligned_upsampling(coarse: Grid, fine: Grid) -> Upsampling:
    """Return the bilinear transposed convolution that brings `coarse` exactly onto `fine`, n units to n * factor.

    The kernel is even (2 * factor) where the centres are half a fine unit apart, as after 2x2 pooling, and odd (2 *
    factor - 1) where they coincide, as after the strided convolutions of a ResNet.

    Raises:
        ValueError: no such kernel exists.
    """
    factor = _whole(coarse.stride / fine.stride, "the ratio of strides")
    shift = (coarse.offset - fine.offset) / fine.stride
    kernel = 2 * factor - 1 if shift.is_integer() else 2 * factor
    padding = _whole((kernel - 1) / 2 - shift, "the padding of the transposed convolution")
    output_padding = factor - kernel + 2 * padding
    if not 0 <= output_padding < factor:
        raise ValueError(f"the centres lie {shift} units apart: these two feature maps cannot be aligned")
    return Upsampling(factor, kernel, padding, output_padding)


def unpadded_upsampling(factor: int) -> Upsampling:
    """Return the transposed convolution of the published networks: kernel twice the factor, no padding."""
    return Upsampling(factor, 2 * factor, 0, 0)


def crop_offset(larger: Grid, target: Grid) -> int:
    """Return how many units to cut off the top and left of a map on `larger` so that it lies on `target`.

    Raises:
        ValueError: the strides differ, or the grids are not a whole, non-negative number of units apart.
    """
    if larger.stride != target.stride:
        raise ValueError(f"cannot crop a map of stride {larger.stride} to one of stride {target.stride}")
    return _whole((target.offset - larger.offset) / target.stride, "the crop offset")


def crop(maps: Tensor, offset: int, height: int, width: int) -> Tensor:
    """Cut (..., height, width) out of maps (..., H, W), starting at `offset` from the top and left."""
    if offset == 0 and maps.shape[-2:] == (height, width):
        return maps
    return maps[..., offset : offset + height, offset : offset + width]


def _whole(value: float, what: str) -> int:
    if not float(value).is_integer() or value < 0:
        raise ValueError(f"{what} would be {value}: these two feature maps cannot be aligned")
    return int(value)


def _first(size: int | str | tuple[int, ...] | None) -> int:
    if isinstance(size, tuple):
        return size[0]
    if not isinstance(size, int):
        raise TypeError(f"a layer with kernel size, stride or padding {size!r} has no fixed grid")
    return size
