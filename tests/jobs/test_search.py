import json
import math
from collections.abc import Callable
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs._search import RANDOM_POINTS, SEARCHES, Even, Search, Tpe
from jobs._space import Choice, Point, Range, Space

SPACE = Space(
    dimensions={
        "optim.learning_rate": Range(low=1e-5, high=1e-1, log=True),
        "optim.momentum": Range(low=0.5, high=0.99),
        "model.stride": Choice(values=(32, 16, 8)),
        "optim.clip_norm": Choice(values=(None, 5.0)),
    }
)


def score(point: Point) -> float:
    """Return a score with one peak, at a learning rate of 0.003 with momentum 0.9 and stride 8."""
    rate: float = -abs(math.log10(point["optim.learning_rate"] / 3e-3))
    momentum: float = -4 * abs(point["optim.momentum"] - 0.9)
    return rate + momentum - (0 if point["model.stride"] == 8 else 0.5)


def tried(search: Search, trials: int, running: int = 0) -> list[Point]:
    """Return the points of a search whose scores are known as long as others still run."""
    points: list[Point] = []
    for number in range(trials):
        points.append(search.point(number))
        if number >= running:
            search.tell(number - running, score(points[number - running]))
    return points


def resumed(kind: Callable[[Space, int], Search], points: list[Point], seed: int, told: int) -> Search:
    search = kind(SPACE, seed)
    for number, point in enumerate(points):
        assert search.point(number, json.loads(json.dumps(point))) == point
        if number < told:
            search.tell(number, score(point))
    return search


@pytest.mark.parametrize("kind", SEARCHES.values())
def test_the_same_search_has_the_same_points_and_another_seed_has_others(
    kind: Callable[[Space, int], Search],
) -> None:
    assert tried(kind(SPACE, 1), 15) == tried(kind(SPACE, 1), 15)
    first = {json.dumps(point) for point in tried(kind(SPACE, 1), 15)}
    assert not first & {json.dumps(point) for point in tried(kind(SPACE, 2), 15)}
    assert len(first) == 15


@pytest.mark.parametrize("kind", SEARCHES.values())
@given(seed=st.integers(0, 2**31 - 1), trials=st.integers(1, 16), running=st.integers(0, 3))
@settings(deadline=None, max_examples=15)
def test_a_search_that_is_resumed_goes_on_as_if_never_interrupted(
    kind: Callable[[Space, int], Search], seed: int, trials: int, running: int
) -> None:
    points = tried(kind(SPACE, seed), trials, running)
    for begun in range(trials):
        again = resumed(kind, points[:begun], seed, begun - running)
        assert again.point(begun) == points[begun]


@pytest.mark.parametrize("kind", SEARCHES.values())
def test_points_lie_in_the_space_and_do_not_depend_on_the_order_of_settings(
    kind: Callable[[Space, int], Search],
) -> None:
    points = tried(kind(SPACE, 0), 20)
    for point in points:
        assert list(point) == SPACE.names
        assert 1e-5 <= point["optim.learning_rate"] <= 1e-1
        assert 0.5 <= point["optim.momentum"] <= 0.99
        assert point["model.stride"] in (32, 16, 8)
        assert type(point["model.stride"]) is int
        assert point["optim.clip_norm"] in (None, 5.0)
    assert points == tried(kind(Space(dimensions=dict(reversed(SPACE.dimensions.items()))), 0), 20)


def test_the_first_points_of_tpe_know_nothing() -> None:
    told, untold = Tpe(SPACE, 3), Tpe(SPACE, 3)
    for number in range(RANDOM_POINTS):
        assert told.point(number) == untold.point(number)
        told.tell(number, number)
    assert told.point(RANDOM_POINTS) != untold.point(RANDOM_POINTS)


def test_the_order_in_which_scores_arrive_does_not_matter() -> None:
    one, other = Tpe(SPACE, 0), Tpe(SPACE, 0)
    points = [one.point(number) for number in range(12)]
    assert points == [other.point(number) for number in range(12)]
    for number in range(12):
        one.tell(number, score(points[number]))
        other.tell(11 - number, score(points[11 - number]))
    assert one.point(12) == other.point(12)


def test_tpe_learns_and_even_does_not() -> None:
    """The mean over seeds of the best of thirty, and of the last ten."""
    best: dict[type[Search], float] = {}
    late: dict[type[Search], float] = {}
    for kind in (Even, Tpe):
        scores = [[score(point) for point in tried(kind(SPACE, seed), 30)] for seed in range(8)]
        best[kind], late[kind] = mean(map(max, scores)), mean(mean(each[-10:]) for each in scores)
    assert best[Tpe] > best[Even]
    assert late[Tpe] > late[Even] + 0.5


@pytest.mark.parametrize("kind", SEARCHES.values())
def test_a_space_without_settings_has_one_point(kind: Callable[[Space, int], Search]) -> None:
    search = kind(Space(dimensions={}), 0)
    assert [search.point(number) for number in range(2)] == [{}, {}]


def test_a_narrow_range_is_not_left_by_rounding() -> None:
    space = Space(dimensions={"optim.momentum": Range(low=0.900001, high=0.900002)})
    search = Tpe(space, 0)
    for number in range(12):
        assert 0.900001 <= search.point(number)["optim.momentum"] <= 0.900002
        search.tell(number, 0.0)
