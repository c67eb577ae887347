"""What a sweep searches: settings by dotted name, each a range or a choice."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from fcn_core.settings import Run, Value, override, setting, setting_names
from jobs._cli import explain

Point = dict[str, Any]
"""A value for each setting that is searched."""
MOST_CORNERS = 1024
_DATA = ("kind", "path", "train_split", "val_split", "folds", "fold", "audit")
FIXED = ("name", "seed", *(f"data.{name}" for name in _DATA))
"""Settings that decide which data are audited once for all trials, or that the sweep itself sets."""


class Range(Value):
    """Numbers from `low` to `high`, drawn evenly, or evenly in their logarithm."""

    kind: Literal["range"] = "range"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"a range goes from a lower to a higher number, not from {self.low:g} to {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs numbers above 0, not {self.low:g}")
        return self

    def at(self, share: float) -> float:
        """Return the number at a share from 0 to 1 of the range, to four digits."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = low + share * (high - low)
        return self.rounded(math.exp(number) if self.log else number)

    def rounded(self, number: float) -> float:
        """Return a number to four digits, within the range."""
        return min(max(float(f"{number:.4g}"), self.low), self.high)


class Choice(Value):
    """One of some values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)

    def at(self, share: float) -> Any:  # noqa: ANN401 -- settings are of any type.
        """Return the value at a share from 0 to 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Dimension = Annotated[Range | Choice, Field(discriminator="kind")]


class Space(Value):
    """The settings that are searched."""

    dimensions: dict[str, Dimension]

    @property
    def names(self) -> list[str]:
        """The settings, in the order in which they were given."""
        return list(self.dimensions)

    def check(self, run: Run) -> None:
        """Refuse a space whose values a run would not take.

        Raises:
            ValueError: a setting is none, cannot be searched, or refuses a value.
        """
        for name, dimension in self.dimensions.items():
            if name not in setting_names(run):
                raise ValueError(f"no setting {name!r} to search; settings are {', '.join(setting_names(run))}")
            if name in FIXED or name.startswith("data.streets."):
                raise ValueError(f"{name} cannot be searched: all trials have the same data; start a sweep for each")
            if isinstance(dimension, Range) and type(setting(run, name)) is int:
                raise ValueError(f"{name} takes whole numbers: list them, as in --search {name}=1,2,4")
        for point in self.corners():
            override(run, point)

    def corners(self) -> Iterator[Point]:
        """Yield the points where all ranges are at an end, with every choice; of very many the first."""
        ends = [one.values if isinstance(one, Choice) else (one.low, one.high) for one in self.dimensions.values()]
        for values in islice(product(*ends), MOST_CORNERS):
            yield dict(zip(self.dimensions, values, strict=True))

    def halton(self, number: int, seed: int) -> Point:
        """Return point `number` of a scrambled Halton sequence, which fills the space more evenly than chance does.

        A pure function of its arguments, so that a sweep that is typed again has the same trials (Halton, 1960;
        Bergstra and Bengio, JMLR 2012, on random search and low-discrepancy sequences).
        """
        from scipy.stats import qmc

        sequence = qmc.Halton(len(self.dimensions), scramble=True, rng=seed)
        sequence.fast_forward(number)
        # In the order of names: the order in which they were given does not make another sweep.
        shares = dict(zip(sorted(self.dimensions), sequence.random(1)[0], strict=True))
        return {name: one.at(float(shares[name])) for name, one in self.dimensions.items()}


def default_space(run: Run) -> Space:
    """Return what is searched unless told otherwise, around the settings of an experiment."""
    rate, decay = run.optim.learning_rate, run.optim.weight_decay or 1e-4
    return Space(
        dimensions={
            "optim.learning_rate": Range(low=rate / 10, high=rate * 4, log=True),
            "model.stride": Choice(values=(32, 16, 8)),
            "loss.dice": Choice(values=(0.0, 0.5)),
            "model.upsampling": Choice(values=("fixed", "learned", "learned_but_last")),
            "optim.weight_decay": Range(low=decay / 10, high=decay * 10, log=True),
        }
    )


def with_searches(space: Space, searches: Mapping[str, str]) -> Space:
    """Return a space changed by what a person typed: 'a,b,c', 'low..high', 'log:low..high', or nothing to leave out.

    >>> with_searches(Space(dimensions={}), {"optim.momentum": "0.9,0.99"}).dimensions["optim.momentum"].values
    (0.9, 0.99)

    Raises:
        ValueError: it cannot be understood.
    """
    dimensions: dict[str, Any] = dict(space.dimensions)
    for name, text in searches.items():
        if text:
            dimensions[name] = _dimension(name, text)
        else:
            dimensions.pop(name, None)
    return Space(dimensions=dimensions)


def as_searches(arguments: list[str]) -> dict[str, str]:
    """Return NAME=VALUES arguments by name. One without '=' goes on with the values of the one before.

    pydantic-settings parts what is typed at every comma.

    Raises:
        ValueError: the first has no '='.
    """
    pairs: dict[str, str] = {}
    name = ""
    for argument in arguments:
        before, equals, text = argument.partition("=")
        if not equals and not name:
            raise ValueError(f"--search {argument!r} must be NAME=VALUES, such as optim.momentum=0.9,0.95,0.99")
        name = before.strip() if equals else name
        pairs[name] = text.strip() if equals else f"{pairs[name]},{argument.strip()}"
    return pairs


def _dimension(name: str, text: str) -> Range | Choice:
    if ".." not in text:
        return Choice(values=tuple(_value(part.strip()) for part in text.split(",")))
    low, high = text.removeprefix("log:").split("..", 1)
    try:
        return Range(low=float(low), high=float(high), log=text.startswith("log:"))
    except ValueError as error:
        reason = explain(error) if isinstance(error, ValidationError) else "its ends must be numbers"
        raise ValueError(f"--search {name}={text}: {reason}; write low..high or log:low..high") from error


def _value(text: str) -> Any:  # noqa: ANN401 -- settings are of any type.
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(text, text)
