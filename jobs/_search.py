"""How the points of a sweep are chosen."""

from typing import Any, Protocol

import numpy as np

from jobs._space import Choice, Point, Space

RANDOM_POINTS = 8
"""Points before there is something to learn from."""


class Search(Protocol):
    """Chooses the points of a space, one after the other."""

    def point(self, number: int, known: Point | None = None) -> Point:
        """Return point `number`; `known` is what it was before the sweep was interrupted."""
        ...

    def tell(self, number: int, score: float) -> None:
        """Take note of what a point came to."""
        ...


class Even:
    """Points of a low-discrepancy sequence: a function of number and seed alone."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def point(self, number: int, known: Point | None = None) -> Point:
        """Return point `number`."""
        return known or self._space.halton(number, self._seed)

    def tell(self, number: int, score: float) -> None:
        """Learn nothing."""


class Tpe:
    """The tree-structured Parzen estimator of Bergstra et al. (NeurIPS 2011), as Optuna has it.

    A point is a function of the seed, its number, the points before it and their scores that are known by then.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._points: dict[int, Point] = {}
        self._scores: dict[int, float] = {}

    def point(self, number: int, known: Point | None = None) -> Point:
        """Return point `number`."""
        self._points[number] = known or self._ask(number)
        return self._points[number]

    def tell(self, number: int, score: float) -> None:
        """Take note of what a point came to."""
        self._scores[number] = score

    def _ask(self, number: int) -> Point:
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        # Trials that still run count as bad ones, so that workers do not crowd around one point.
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=RANDOM_POINTS)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions = self._distributions()
        for before in sorted(self._points):
            state = TrialState.COMPLETE if before in self._scores else TrialState.RUNNING
            parameters = self._parameters(self._points[before])
            study.add_trial(
                create_trial(
                    state=state, value=self._scores.get(before), params=parameters, distributions=distributions
                )
            )
        chosen = study.ask(distributions).params
        return {name: self._value(name, chosen[name]) for name in self._space.dimensions}

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        # In the order of names: the order in which they were given does not make another sweep.
        return {
            name: CategoricalDistribution(list(range(len(one.values))))
            if isinstance(one, Choice)
            else FloatDistribution(one.low, one.high, log=one.log)
            for name, one in sorted(self._space.dimensions.items())
        }

    def _parameters(self, point: Point) -> dict[str, Any]:
        found = {}
        for name, one in self._space.dimensions.items():
            found[name] = one.values.index(point[name]) if isinstance(one, Choice) else point[name]
        return found

    def _value(self, name: str, parameter: float) -> Any:  # noqa: ANN401 -- settings are of any type.
        dimension = self._space.dimensions[name]
        return dimension.values[int(parameter)] if isinstance(dimension, Choice) else dimension.rounded(parameter)


SEARCHES: dict[str, type[Even] | type[Tpe]] = {"even": Even, "tpe": Tpe, "pbt": Even}
