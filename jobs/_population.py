"""Population-based training (Jaderberg et al., arXiv 1711.09846, 2017), in generations.

All members train for a generation of epochs. Then the worst quarter go on from the weights and optimiser of one of the
best quarter, with settings near its own; the others go on as they are. Who goes on from whom is a function of scores
and seed alone, so that a sweep that is interrupted goes on with the same population.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fcn_core.settings import Run
from jobs._space import Choice, Dimension, Point, Space

QUARTER = 4
FACTORS = (0.8, 1.2)
RESAMPLED = 0.25
"""Share of settings that are drawn anew rather than changed a little."""
CHANGEABLE = ("optim.learning_rate", "optim.momentum", "optim.weight_decay", "optim.clip_norm", "model.dropout")
CHANGEABLE_GROUPS = ("loss.", "data.flip", "data.colour", "data.zoom")


class Descent(NamedTuple):
    """Where a member of a generation comes from."""

    parent: int
    """The member of the generation before on whose checkpoint it goes on."""
    point: Point


def next_generation(
    space: Space, seed: int, generation: int, points: Mapping[int, Point], scores: Mapping[int, float | None]
) -> dict[int, Descent]:
    """Return who goes on from whom, with which settings.

    Args:
        space: within which settings stay.
        seed: of all choices.
        generation: number of the new one, from 1.
        points: settings of each member of the generation before.
        scores: what each came to, higher is better; None if it diverged: it is replaced in any case.

    Raises:
        ValueError: all diverged.
    """
    alive = {number: score for number, score in scores.items() if score is not None}
    if not alive:
        raise ValueError("all members of the population diverged")
    ranked = sorted(alive, key=lambda number: (-alive[number], number))
    diverged = [number for number in points if number not in alive]
    share = max(1, len(points) // QUARTER)
    best = ranked[:share]
    replaced = {*diverged, *[*ranked, *diverged][-share:]} - {*best}
    return {
        number: _replaced(space, np.random.default_rng([seed, generation, number]), best, points)
        if number in replaced
        else Descent(number, points[number])
        for number in points
    }


def check_changeable(space: Space, run: Run) -> None:
    """Refuse settings that cannot change while a network trains.

    Raises:
        ValueError: naming them.
    """
    fixed = [name for name in space.names if not _is_changeable(name)]
    if fixed:
        raise ValueError(
            f"{', '.join(fixed)} cannot change while {run.name} trains: with method pbt, search among "
            f"{', '.join(CHANGEABLE)}, loss.* and data.flip, colour and zoom"
        )


def changeable(space: Space) -> Space:
    """Return what of a space can change while a network trains."""
    return Space(dimensions={name: one for name, one in space.dimensions.items() if _is_changeable(name)})


def _is_changeable(name: str) -> bool:
    return name in CHANGEABLE or name.startswith(CHANGEABLE_GROUPS)


def _replaced(space: Space, chance: np.random.Generator, best: list[int], points: Mapping[int, Point]) -> Descent:
    parent = best[int(chance.integers(len(best)))]
    # In the order of names: the order in which they were given does not make another sweep.
    point = {name: _explore(space.dimensions[name], points[parent][name], chance) for name in sorted(space.names)}
    return Descent(parent, {name: point[name] for name in space.names})


def _explore(dimension: Dimension, value: Any, chance: np.random.Generator) -> Any:  # noqa: ANN401 -- of any type.
    if chance.random() < RESAMPLED:
        return dimension.at(float(chance.random()))
    up = int(chance.integers(2))
    if isinstance(dimension, Choice):
        neighbour = dimension.values.index(value) + 2 * up - 1
        return dimension.values[min(max(neighbour, 0), len(dimension.values) - 1)]
    return dimension.rounded(value * FACTORS[up])
