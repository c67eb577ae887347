"""Which units of one layer see which units of the layer before, along one axis, in half-open intervals of integers.

Intervals are int64 arrays (..., 2) of first and one past the last; an empty one is (0, 0). A set with holes, as a
dilated kernel sees, is taken for the interval from its first to its last unit.
"""

from fractions import Fraction
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Intervals = NDArray[np.int64]


class Sight(Protocol):
    """How units of a layer (outputs) see units of the one before (inputs), along one axis that has no end."""

    @property
    def ratio(self) -> Fraction:
        """Inputs between the centres of two outputs."""

    def needed(self, outputs: Intervals) -> Intervals:
        """Return the inputs that any of these outputs sees."""

    def changed(self, inputs: Intervals) -> Intervals:
        """Return the outputs that see any of these inputs."""


class Window(NamedTuple):
    """Output `u` sees the inputs from `(step * u + start) // per` on, `size` of them.

    A convolution or pooling of stride s and padding p is `Window(dilation * (kernel - 1) + 1, s, -p)`; what cuts off or
    fills up is a window of one; `per` is for resizing.
    """

    size: int = 1
    step: int = 1
    start: int = 0
    per: int = 1

    @property
    def ratio(self) -> Fraction:
        """Inputs between the centres of two outputs."""
        return Fraction(self.step, self.per)

    def needed(self, outputs: Intervals) -> Intervals:
        """Return the inputs that any of these outputs sees."""
        first, last = ((self.step * unit + self.start) // self.per for unit in (outputs[..., 0], outputs[..., 1] - 1))
        return _where_any(outputs, first, last + self.size)

    def changed(self, inputs: Intervals) -> Intervals:
        """Return the outputs that see any of these inputs."""
        first = -((self.start - self.per * (inputs[..., 0] - self.size + 1)) // self.step)
        stop = -((self.start - self.per * inputs[..., 1]) // self.step)
        return _where_any(inputs, first, stop)


class Spread(NamedTuple):
    """A transposed convolution: inputs see outputs as the convolution's outputs see its inputs."""

    window: Window

    @property
    def ratio(self) -> Fraction:
        """Inputs between the centres of two outputs."""
        return 1 / self.window.ratio

    def needed(self, outputs: Intervals) -> Intervals:
        """Return the inputs that any of these outputs sees."""
        return self.window.changed(outputs)

    def changed(self, inputs: Intervals) -> Intervals:
        """Return the outputs that see any of these inputs."""
        return self.window.needed(inputs)


class Everywhere(NamedTuple):
    """Each output sees all inputs, or is taken to."""

    inputs: int
    outputs: int

    @property
    def ratio(self) -> Fraction:
        """Inputs between the centres of two outputs: none."""
        return Fraction(0)

    def needed(self, outputs: Intervals) -> Intervals:
        """Return the inputs that any of these outputs sees."""
        return _where_any(outputs, np.zeros_like(outputs[..., 0]), np.full_like(outputs[..., 0], self.inputs))

    def changed(self, inputs: Intervals) -> Intervals:
        """Return the outputs that see any of these inputs."""
        return _where_any(inputs, np.zeros_like(inputs[..., 0]), np.full_like(inputs[..., 0], self.outputs))


IDENTITY = Window()


def is_empty(intervals: Intervals) -> NDArray[np.bool_]:
    """Tell which intervals (..., 2) are empty, as (...)."""
    return intervals[..., 1] <= intervals[..., 0]


def hull(one: Intervals, other: Intervals) -> Intervals:
    """Return the smallest intervals that contain both; empty ones add nothing."""
    first = np.minimum(one[..., 0], other[..., 0])
    stop = np.maximum(one[..., 1], other[..., 1])
    both = np.stack([first, stop], axis=-1)
    either = np.where(is_empty(one)[..., None], other, one)
    return np.where((is_empty(one) | is_empty(other))[..., None], either, both)


def intersect(one: Intervals, other: Intervals) -> Intervals:
    """Return what lies in both."""
    first = np.maximum(one[..., 0], other[..., 0])
    return _where_any(one, first, np.minimum(one[..., 1], other[..., 1]))


def whole(extent: int) -> Intervals:
    """Return the interval of all units of a layer."""
    return np.array([0, extent])


def _where_any(given: Intervals, first: NDArray[np.int64], stop: NDArray[np.int64]) -> Intervals:
    some = ~is_empty(given) & (stop > first)
    return np.stack([first, stop], axis=-1) * some[..., None]
