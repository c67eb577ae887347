"""The trials of a sweep, and where their lines cross the axes of settings and of the score."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from fcn_core.figures.searched import Axis, Dimension, Scale, as_text

State = Literal["finished", "stopped", "diverged", "failed"]

_FAN = 1 / 64  # Between lines through one value, at most.
_NONE, _SCORED = (0.0, 0.06), (0.14, 1.0)  # Parts of the axis of scores if there are trials without one.


class Trial(NamedTuple):
    """A trial: values by setting, mean IoU from 0 to 1 (NaN: none), and how it ended."""

    label: str
    values: Mapping[str, Any]
    score: float
    state: State = "finished"

    @property
    def counts(self) -> bool:
        """Whether it has a score, and did not end by a fault."""
        return self.state in ("finished", "stopped") and math.isfinite(self.score)

    @property
    def rank(self) -> float:
        """The higher the better."""
        return self.score if self.counts else -math.inf


class Column(NamedTuple):
    """An axis, in shares of its height: where each trial crosses it, its ticks, its parts, stretches of one value."""

    name: str
    heights: list[float]
    ticks: list[tuple[float, str]]
    parts: list[tuple[float, float]]
    bands: list[tuple[float, float]]


def setting_column(dimension: Dimension, trials: Sequence[Trial]) -> Column:
    """Return the axis of a setting; trials that have the same choice are spread in their order.

    Raises:
        ValueError: a trial has no value, or one that has no place on the axis.
    """
    missing = [trial.label for trial in trials if dimension.name not in trial.values]
    if missing:
        raise ValueError(f"trial {missing[0]} has no value for {dimension.name}")
    values = [trial.values[dimension.name] for trial in trials]
    axis = Axis.of(dimension, values)
    heights, ticks = list(map(axis.at, values)), axis.ticks()
    if not axis.choices:
        return Column(axis.name, heights, ticks, [(0, 1)], [])
    heights, bands = _spread(heights, [height for height, _ in ticks], 0.75 / len(ticks))
    return Column(axis.name, heights, ticks, [(0, 1)], bands)


def score_column(trials: Sequence[Trial]) -> Column:
    """Return the axis of mean IoU in %; trials whose score does not count cross it at a place of their own, below."""
    scores = [100 * trial.score for trial in trials if trial.counts]
    low, high = (0.0, 1.0) if len(scores) == len(trials) else _SCORED
    lowest, highest = min(scores, default=0), max(scores, default=0)
    spare = max(0.0, 1 - (highest - lowest)) / 2  # At least one point: less would look like more than it is.
    scale = Scale(lowest - spare, highest + spare)

    def at(score: float) -> float:
        return low + (high - low) * scale.at(score)

    ticks = [(at(tick), as_text(tick)) for tick in scale.ticks()] if scores else []
    parts = [(low, high)] if scores else []
    none = sum(_NONE) / 2
    if len(scores) < len(trials):
        ticks, parts = [(none, "none"), *ticks], [_NONE, *parts]
    centres = [at(100 * trial.score) if trial.counts else none for trial in trials]
    heights, bands = _spread(centres, [height for height, text in ticks if text == "none"], _NONE[1])
    return Column("mean IoU, %", heights, ticks, parts, bands)


def _spread(
    heights: Sequence[float], centres: Sequence[float], room: float
) -> tuple[list[float], list[tuple[float, float]]]:
    """Spread lines through the same centre around it, in their order, and return what they take of the axis there."""
    spread, bands = list(heights), []
    for centre in centres:
        here = [index for index, height in enumerate(heights) if height == centre]
        step = min(_FAN, room / max(1, len(here)))
        for rank, index in enumerate(here):
            spread[index] = centre + (rank - (len(here) - 1) / 2) * step
        half = min(room, step * max(2, len(here))) / 2
        bands.append((centre - half, centre + half))
    return spread, bands
