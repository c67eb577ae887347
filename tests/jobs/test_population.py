"""Who goes on from whom in a population, with which settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs._population import changeable, check_changeable, next_generation
from jobs._space import Choice, Range, Space, default_space
from tests.tiny import TINY

RATE, DICE = "optim.learning_rate", "loss.dice"
SPACE = Space(dimensions={RATE: Range(low=1e-4, high=1e-1, log=True), DICE: Choice(values=(0.0, 0.25, 0.5, 1.0))})
POINTS = {number: {RATE: 1e-3 * (number + 1), DICE: (0.0, 0.25, 0.5, 1.0)[number % 4]} for number in range(8)}
SCORES: dict[int, float | None] = {number: number / 10 for number in range(8)}


def test_the_worst_quarter_go_on_from_the_best_quarter_and_the_others_as_they_are() -> None:
    found = next_generation(SPACE, 0, 1, POINTS, SCORES)
    assert list(found) == list(POINTS)
    assert {found[0].parent, found[1].parent} <= {6, 7}
    for number in range(2, 8):
        assert found[number] == (number, POINTS[number])


def test_of_equals_the_first_are_better() -> None:
    found = next_generation(SPACE, 0, 1, POINTS, dict.fromkeys(POINTS, 0.5))
    assert {found[6].parent, found[7].parent} <= {0, 1}
    assert all(found[number].parent == number for number in range(6))


def test_who_diverged_is_replaced_however_many_they_are() -> None:
    found = next_generation(SPACE, 0, 1, POINTS, dict.fromkeys(POINTS) | {3: 0.1})
    assert {descent.parent for descent in found.values()} == {3}
    assert found[3].point == POINTS[3]
    with pytest.raises(ValueError, match="all members of the population diverged"):
        next_generation(SPACE, 0, 1, POINTS, dict.fromkeys(POINTS))


def test_one_alone_goes_on_as_it_is() -> None:
    assert next_generation(SPACE, 0, 1, {0: POINTS[0]}, {0: 0.1}) == {0: (0, POINTS[0])}


@given(st.integers(0, 2**31 - 1), st.integers(1, 50))
def test_settings_change_a_little_or_are_drawn_anew_and_stay_in_the_space(seed: int, generation: int) -> None:
    (_, point), *_ = next_generation(SPACE, seed, generation, POINTS, SCORES).values()
    assert list(point) == SPACE.names
    assert 1e-4 <= point[RATE] <= 1e-1
    assert point[DICE] in (0.0, 0.25, 0.5, 1.0)


def test_as_often_as_the_paper_has_it_settings_are_drawn_anew() -> None:
    """A quarter is drawn anew; the others go up or down by a fifth, or to a neighbouring choice."""
    near, ups, count = 0, 0, 2000
    for seed in range(count):
        (parent, point), *_ = next_generation(SPACE, seed, 1, POINTS, SCORES).values()
        ratio = point[RATE] / POINTS[parent][RATE]
        near += ratio in (pytest.approx(0.8, 1e-3), pytest.approx(1.2, 1e-3))
        ups += ratio == pytest.approx(1.2, 1e-3)
    assert near / count == pytest.approx(0.75, abs=0.04)
    assert ups / near == pytest.approx(0.5, abs=0.04)


def test_the_same_scores_give_the_same_generation_in_whatever_order_settings_were_given() -> None:
    other = Space(dimensions=dict(reversed(SPACE.dimensions.items())))
    ours, theirs = (next_generation(space, 1, 2, POINTS, SCORES) for space in (SPACE, other))
    assert ours == theirs
    assert ours != next_generation(SPACE, 2, 2, POINTS, SCORES)
    assert ours != next_generation(SPACE, 1, 3, POINTS, SCORES)


def test_what_cannot_change_while_a_network_trains_is_not_searched() -> None:
    whole = default_space(TINY)
    assert changeable(whole).names == ["optim.learning_rate", "loss.dice", "optim.weight_decay"]
    check_changeable(changeable(whole), TINY)
    with pytest.raises(ValueError, match=r"model.stride, model.upsampling cannot change while tiny trains"):
        check_changeable(whole, TINY)
