"""Convolutions as oneDNN computes them fastest, where torch has it (CPU, float32); elsewhere as torch does."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from fcn_core.receptive_field.nodes import Node
from fcn_core.receptive_field.operations import Pair

SMALL = 25
"""Positions of a window up to which, and channels from which on, a product of matrices is faster than a convolution."""
CHANNELS = 128


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution, a sum and a ReLU at once."""

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    dilation: Pair
    groups: int
    relu: bool = False
    packed: Tensor | None = None

    def __call__(self, windows: Sequence[Tensor], _place: object = None, padding: Pair = (0, 0)) -> Tensor:
        """Map input (n, C, ., .), and what is to be added, which is overwritten, to (n, C', height, width)."""
        features, *others = windows
        if self.packed is None:
            geometry = (self.stride, padding, self.dilation, self.groups)
            result = functional.conv2d(features, self.weight, self.bias, *geometry)
            for other in others:
                result += other
            return result.relu_() if self.relu else result
        how = (self.packed, self.bias, padding, self.stride, self.dilation, self.groups)
        if others:
            return _onednn("_convolution_pointwise_")(
                others[0], features, *how, "add", 1.0, "relu" if self.relu else None, [], None
            )
        return _onednn("_convolution_pointwise")(features, *how, "relu" if self.relu else "none", [], "")

    @cached_property
    def matrix(self) -> Tensor:
        """The weight (C', kernel rows * kernel columns * C) in oneDNN's layout of matrices."""
        flat = self.weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        return _onednn("_reorder_linear_weight")(flat, 256)

    def multiply(self, windows: Sequence[Tensor]) -> Tensor:
        """As a call, given all that each position sees, (n, kernel rows * kernel columns * C, height, width)."""
        seen, *others = windows
        rows = seen.permute(0, 2, 3, 1).flatten(0, 2)
        activation = "relu" if self.relu and not others else "none"
        made = _onednn("_linear_pointwise")(rows, self.matrix, self.bias, activation, [], "")
        result = made.view(seen.shape[0], *seen.shape[2:], -1).permute(0, 3, 1, 2)
        for other in others:
            result += other
        return result.relu_() if others and self.relu else result

    def prefers_matrix(self, height: int, width: int) -> bool:
        """Tell whether windows are so small that oneDNN multiplies matrices faster than it convolves."""
        _, channels, *kernel = self.weight.shape
        fits = self.packed is not None and self.groups == 1 and math.prod(kernel) > 1
        return fits and channels >= CHANNELS and height * width <= SMALL

    def fold(self, norm: Node) -> Self:
        """Return it with the BatchNorm that follows folded in."""
        mean, variance, scale, shift = (
            norm.options[name].double() if norm.options.get(name) is not None else torch.tensor(default)
            for name, default in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0))
        )
        scale = scale * torch.rsqrt(variance + norm.options["eps"])
        bias = shift - mean * scale if self.bias is None else shift + (self.bias.double() - mean) * scale
        weight = self.weight.double() * scale[:, None, None, None]
        return replace(self, weight=weight.to(self.weight.dtype), bias=bias.to(self.weight.dtype))

    def pack(self) -> Self:
        """Return it with its weight in oneDNN's own layout, where oneDNN computes such convolutions."""
        weight = self.weight.detach()
        if weight.dtype != torch.float32 or weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return replace(self, weight=weight.contiguous(memory_format=torch.channels_last))
        packed = _onednn("_reorder_convolution_weight")(weight, (0, 0), self.stride, self.dilation, self.groups)
        return replace(self, weight=weight, packed=packed)

    def only(self, units: Sequence[int]) -> Self:
        """Return the part that computes some channels."""
        bias = None if self.bias is None else self.bias[list(units)]
        return replace(self, weight=self.weight[list(units)], bias=bias, packed=None)


def _onednn(name: str) -> Callable[..., Tensor]:
    """Return one of torch's own fused calls of oneDNN, by which it computes compiled networks."""
    function: Callable[..., Tensor] = getattr(torch.ops.mkldnn, name)
    return function
