import math
from typing import Any

import pytest

from fcn_core.figures.page import Page
from fcn_core.figures.searched import Axis, Dimension, Scale, as_text, cut, is_number, wrapped

RATE = Dimension("optim.learning_rate", log=True)


def test_a_logarithmic_axis_has_equal_factors_at_equal_distances() -> None:
    axis = Axis.of(RATE, [1e-4, 1e-3, 1e-2])
    assert [axis.at(value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert Axis.of(Dimension("x"), [1, 3]).at(2.5) == 0.75


def test_an_axis_shows_all_of_the_range_that_was_searched_and_what_was_tried_beyond_it() -> None:
    assert Axis.of(Dimension("x", ends=(0.0, 4.0)), [1.0]).at(1) == 0.25
    assert Axis.of(Dimension("x", ends=(0.0, 4.0)), [5.0]).at(4) == 0.8


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (1e-4, 4e-3, True, ["1e-4", "2e-4", "5e-4", "1e-3", "2e-3"]),
        (1.0000000000001e-4, 0.99999999999e-2, True, ["1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "0.01"]),
        (1e-5, 1e-2, True, ["1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "0.01"]),
        (1e-12, 1, True, ["1e-12", "1e-10", "1e-8", "1e-6", "1e-4", "0.01", "1"]),
        (3e-4, 4.2e-4, True, ["3e-4", "3.25e-4", "3.5e-4", "3.75e-4", "4e-4"]),
        (0.8, 0.99, False, ["0.8", "0.85", "0.9", "0.95"]),
        (0, 0, False, ["0"]),
        (1e-3, 1e-3, True, ["1e-3"]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, log: bool, ticks: list[str]) -> None:
    assert [as_text(float(tick)) for tick in Scale(low, high, log).ticks()] == ticks


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("factor", [1.001, 1.3, 2.5, 7.0, 40.0, 1e3, 1e7])
def test_every_range_has_some_ticks_inside(factor: float, log: bool) -> None:
    for exponent in range(-12, 9):
        scale = Scale(3.3 * 10.0**exponent, 3.3 * 10.0**exponent * factor, log)
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 7
        assert all(-1e-5 < scale.at(tick) < 1 + 1e-5 for tick in ticks)
        assert len({as_text(tick) for tick in ticks}) == len(ticks)


def test_choices_of_any_type_lie_evenly_in_their_order() -> None:
    choices = (None, True, (256, 512), "fixed", 0.5, 32)
    axis = Axis.of(Dimension("x", choices=choices), choices)
    assert [axis.at(choice) for choice in choices] == pytest.approx([(index + 0.5) / 6 for index in range(6)])
    assert [text for _, text in axis.ticks()] == ["None", "True", "(256, 512)", "fixed", "0.5", "32"]
    assert axis.at([256, 512]) == axis.at((256, 512)), "JSON has no tuples"
    assert axis.at(32.0) == axis.at(32)


@pytest.mark.parametrize(
    ("dimension", "value", "words"),
    [
        (Dimension("model.stride", choices=(32, 8)), 16, "model.stride 16 is none of the choices 32, 8"),
        (RATE, 0.0, "optim.learning_rate 0 has no logarithm"),
        (RATE, "fast", "optim.learning_rate fast is no number: give its values as choices"),
        (RATE, True, "optim.learning_rate True is no number"),
        (RATE, None, "optim.learning_rate None is no number"),
        (RATE, math.nan, "optim.learning_rate nan is no number"),
    ],
)
def test_values_without_a_place_are_refused(dimension: Dimension, value: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=words):
        Axis.of(dimension, [1e-3 if dimension is RATE else 8, value])


def test_what_is_a_number() -> None:
    assert [is_number(value) for value in (1, 0.5, True, math.inf, "1", None)] == [True, True, *[False] * 4]


def test_long_text_has_two_lines_and_keeps_its_ends() -> None:
    page = Page()
    assert wrapped(page, "learned_but_last", 200, 10) == "learned_but_last"
    assert wrapped(page, "learned_but_last", 60, 10) == "learned_\nbut_last"
    first, second = wrapped(page, "s3://bucket/results/runs/fcn32s-0ab12cd34ef", 110, 10).split("\n")
    assert first == "s3://bucket/results/"[: len(first)]
    assert second.endswith("34ef")
    assert "…" in second
    assert all(page.width(line, 10) <= 110 for line in (first, second))
    assert cut(page, "nothing", 1, 10) == ""
