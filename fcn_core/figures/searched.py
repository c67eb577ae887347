"""Settings that were searched, as axes: where their values lie, and how they are written."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, TypeGuard

from matplotlib.ticker import MaxNLocator

from fcn_core.figures.page import Page

_MOST = 7  # Ticks on an axis of numbers.


class Dimension(NamedTuple):
    """A setting that was searched."""

    name: str
    log: bool = False
    """Numbers by their logarithm."""
    choices: tuple[Any, ...] | None = None
    """Values of any type, in their order; None for a range of numbers."""
    ends: tuple[float, float] | None = None
    """Of the range: the axis shows all of it, also where nothing was tried."""


class Scale(NamedTuple):
    """Numbers along an axis from 0 to 1, evenly or by their logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return where a number lies: 0 for `low`, 1 for `high`, 0.5 if these are equal."""
        if self.low == self.high:
            return 0.5
        low, high, number = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return (number - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return some round numbers that lie on it."""
        if self.low == self.high:
            return [self.low]
        powers = self._powers() if self.log else []
        if len(powers) > 1:
            return powers
        evenly = MaxNLocator(_MOST - 2, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [tick for tick in map(float, evenly) if self._holds(tick)]

    def _powers(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks: list[float] = []
        for digits in ((1, 2, 5), (1, 3), (1,)):
            numbers = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
            ticks = [number for number in numbers if self._holds(number)]
            if len(ticks) <= _MOST:
                break
        return ticks[:: max(1, math.ceil(len(ticks) / _MOST))]

    def _holds(self, tick: float) -> bool:
        # A tenth of a number that was typed is not quite the number that would have been typed.
        return -1e-6 < self.at(tick) < 1 + 1e-6


class Axis(NamedTuple):
    """A setting along an axis from 0 to 1: choices evenly, numbers on a scale."""

    name: str
    choices: list[str]
    scale: Scale

    @classmethod
    def of(cls, setting: Dimension, values: Sequence[Any]) -> Self:
        """Return an axis that holds all values, and the ends or choices of the setting.

        Raises:
            ValueError: a value is none of the choices, is no number, or has no logarithm.
        """
        name, choices = setting.name, list(map(as_text, setting.choices or ()))
        if setting.choices is not None:
            for text in map(as_text, values):
                if text not in choices:
                    raise ValueError(f"{name} {text} is none of the choices {', '.join(choices)}")
            return cls(name, choices, Scale(0, 1))
        numbers = [value for value in values if is_number(value)]
        if len(numbers) < len(values):
            strange = next(value for value in values if not is_number(value))
            raise ValueError(f"{name} {as_text(strange)} is no number: give its values as choices")
        if setting.log and min(numbers) <= 0:
            raise ValueError(f"{name} {as_text(min(numbers))} has no logarithm: leave out log")
        numbers += setting.ends or ()
        return cls(name, choices, Scale(min(numbers), max(numbers), setting.log))

    def at(self, value: Any) -> float:  # noqa: ANN401 -- settings are of any type.
        """Return where a value lies."""
        if self.choices:
            return (self.choices.index(as_text(value)) + 0.5) / len(self.choices)
        return self.scale.at(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Return where to write which values."""
        if self.choices:
            return [((index + 0.5) / len(self.choices), choice) for index, choice in enumerate(self.choices)]
        return [(self.scale.at(tick), as_text(tick)) for tick in self.scale.ticks()]


def is_number(value: Any) -> TypeGuard[float]:  # noqa: ANN401 -- settings are of any type.
    """Return whether a value lies on a scale: `True` does not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_text(value: Any) -> str:  # noqa: ANN401 -- settings are of any type.
    """Return a value in few letters. JSON has lists for tuples: they are the same.

    >>> [as_text(value) for value in (None, True, 0.0002, 0.05, 32.0, [256, 0.5])]
    ['None', 'True', '2e-4', '0.05', '32', '(256, 0.5)']
    """
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(as_text, value))})"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 1e5 or not math.isfinite(value):
        return f"{value:g}"
    digits, exponent = f"{value:.5e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def wrapped(page: Page, text: str, width: float, size: float) -> str:
    """Return `text` in one line or two of at most `width` units; what is longer is cut in the middle."""
    ends = [end for end in range(1, len(text)) if text[end - 1] in "_-/., " and page.width(text[:end], size) <= width]
    if page.width(text, size) <= width or not ends:
        return cut(page, text, width, size)
    return f"{text[: ends[-1]].rstrip()}\n{cut(page, text[ends[-1] :], width, size)}"


def cut(page: Page, text: str, width: float, size: float, **style: Any) -> str:  # noqa: ANN401
    """Return `text`, or its beginning and end around an ellipsis: names of trials and runs differ at their ends."""
    full = page.width(text, size, **style)
    if full <= width:
        return text
    most = min(len(text) - 1, int(1.5 * len(text) * width / full) + 2)
    shorter = (f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}" for kept in range(most, -1, -1))
    return next((one for one in shorter if page.width(one, size, **style) <= width), "")
