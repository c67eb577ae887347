import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fcn_core.experiments import streets
from fcn_core.settings import Run, override
from jobs._space import FIXED, Choice, Range, Space, as_searches, default_space, with_searches

RUN = streets()
a_number = st.floats(-1e6, 1e6)
seeds = st.integers(0, 2**31 - 1)
dimensions = st.one_of(
    st.builds(lambda low, width: Range(low=low, high=low + width), a_number, st.floats(0.1, 1e6)),
    st.builds(
        lambda low, factor: Range(low=low, high=low * factor, log=True), st.floats(1e-9, 1e3), st.floats(1.01, 1e6)
    ),
    st.builds(lambda values: Choice(values=tuple(values)), st.lists(st.integers(), min_size=1, max_size=5)),
)
spaces = st.builds(
    lambda found: Space(dimensions=found), st.dictionaries(st.text(min_size=1), dimensions, min_size=1, max_size=6)
)


def searched(*arguments: str, space: Space | None = None) -> Space:
    return with_searches(space or Space(dimensions={}), as_searches(list(arguments)))


def dimension(text: str) -> Range | Choice:
    return searched(f"setting={text}").dimensions["setting"]


def takes(one: Range | Choice, value: Any) -> bool:  # noqa: ANN401
    return value in one.values if isinstance(one, Choice) else one.low <= value <= one.high


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0.9,0.95,0.99", Choice(values=(0.9, 0.95, 0.99))),
        ("sgd, adamw", Choice(values=("sgd", "adamw"))),
        ("8", Choice(values=(8,))),
        ("true,false,null,none", Choice(values=(True, False, None, "none"))),
        ("1e-3,-2", Choice(values=(1e-3, -2))),
        ("0..0.5", Range(low=0, high=0.5)),
        ("log:1e-5..1e-2", Range(low=1e-5, high=1e-2, log=True)),
        ("-1..1", Range(low=-1, high=1)),
    ],
)
def test_what_is_typed_is_a_choice_or_a_range(text: str, meant: Range | Choice) -> None:
    found = dimension(text)
    assert found == meant
    if isinstance(found, Choice) and isinstance(meant, Choice):
        assert [type(value) for value in found.values] == [type(value) for value in meant.values]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.momentum", "--search 'optim.momentum' must be NAME=VALUES, such as optim.momentum=0.9,0.95,0.99"),
        ("a=3..1", "--search a=3..1: a range goes from a lower to a higher number, not from 3 to 1; write low..high"),
        ("a=1..1", "not from 1 to 1"),
        ("a=log:0..1", "--search a=log:0..1: a logarithmic range needs numbers above 0, not 0; write"),
        ("a=low..high", "--search a=low..high: its ends must be numbers; write low..high or log:low..high"),
        ("a=1..", "its ends must be numbers"),
        ("a=1..2..3", "its ends must be numbers"),
        ("a=1..inf", "high: Input should be a finite number"),
        ("a=lin:1..2", "its ends must be numbers"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_line(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"must be|range|numbers|finite") as refused:
        searched(argument)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_search_that_is_typed_joins_replaces_or_leaves_out_a_default() -> None:
    space = searched("optim.momentum=0.9,0.99", "loss.dice=0..1", "model.stride=", space=default_space(RUN))
    assert space.names == [
        "optim.learning_rate",
        "loss.dice",
        "model.upsampling",
        "optim.weight_decay",
        "optim.momentum",
    ]
    assert space.dimensions["loss.dice"] == Range(low=0, high=1)


def test_by_default_learning_rate_skips_loss_upsampling_and_weight_decay_are_searched() -> None:
    space = default_space(RUN)
    space.check(RUN)
    rate, decay = space.dimensions["optim.learning_rate"], space.dimensions["optim.weight_decay"]
    assert isinstance(rate, Range)
    assert isinstance(decay, Range)
    assert rate.log
    assert decay.log
    assert rate.low < RUN.optim.learning_rate < rate.high
    assert decay.low < RUN.optim.weight_decay < decay.high
    assert space.dimensions["model.stride"] == Choice(values=(32, 16, 8))
    assert set(space.names) > {"loss.dice", "model.upsampling"}
    default_space(override(RUN, {"optim.weight_decay": 0.0})).check(RUN)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optim.lerning_rate=1,2", "no setting 'optim.lerning_rate' to search; settings are name, seed, data.kind"),
        ("optim=1,2", "no setting 'optim' to search"),
        ("data.path=here,there", "data.path cannot be searched: all trials have the same data"),
        ("data.streets.num_train=8,16", "data.streets.num_train cannot be searched"),
        ("data.audit=fail,warn", "data.audit cannot be searched"),
        ("seed=1,2", "seed cannot be searched"),
        ("optim.epochs=3..10", "optim.epochs takes whole numbers: list them, as in --search optim.epochs=1,2,4"),
        ("optim.momentum=0.5..1", "Input should be less than 1"),
        ("optim.momentum=0.5,high", "Input should be a valid number"),
        ("model.stride=8,9", "Input should be 8, 16 or 32"),
        ("model.trunk=vgg16,", "Input should be 'vgg16'"),
        ("optim.accumulate=1,3", "batch_size 8 does not divide into accumulate 3 equal parts"),
    ],
)
def test_a_space_that_no_run_would_take_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"settings|search|whole|Input|divide") as refused:
        searched(argument).check(RUN)
    assert message in str(refused.value)


def test_values_that_do_not_go_together_are_refused_though_each_would_do() -> None:
    alone = searched("model.geometry=same,reference"), searched("model.trunk=vgg16_bn,resnet18")
    for space in alone:
        space.check(RUN)
    with pytest.raises(ValidationError, match="the reference geometry is that of VGG16"):
        searched("model.geometry=same,reference", "model.trunk=vgg16_bn,resnet18").check(RUN)


def test_values_that_only_go_together_are_taken() -> None:
    searched("optim.batch_size=6,12", "optim.accumulate=1,3").check(override(RUN, {"optim.batch_size": 6}))


def test_very_many_corners_are_not_all_visited() -> None:
    many = Space(dimensions={f"setting{number}": Range(low=0, high=1) for number in range(40)})
    assert 100 < len(list(many.corners())) < 10_000


def test_any_other_setting_can_be_searched() -> None:
    searched("optim.clip_norm=null,5", "model.preprocessing=caffe,torchvision", "data.flip=true,false").check(RUN)
    assert "optim.epochs" not in FIXED
    searched("optim.epochs=3,5", "compute.deterministic=true", "optim.ema_decay=0.9..0.999").check(Run())


@pytest.mark.parametrize("wrong", [{"low": 1, "high": 0}, {"low": 0, "high": 1, "log": True}, {"low": 0, "hihg": 1}])
def test_a_space_is_checked_however_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Space.model_validate({"dimensions": {"a": {"kind": "range", **wrong}}})


def test_a_choice_has_at_least_one_value() -> None:
    with pytest.raises(ValidationError):
        Choice(values=())


@given(spaces)
def test_a_space_survives_json(space: Space) -> None:
    assert Space.model_validate_json(space.model_dump_json()) == space


@given(spaces, st.integers(0, 2000), seeds)
@settings(deadline=None)
def test_a_point_is_a_pure_function_of_number_and_seed_within_the_ranges(space: Space, number: int, seed: int) -> None:
    point = space.halton(number, seed)
    assert list(point) == space.names
    assert all(takes(space.dimensions[name], value) for name, value in point.items())
    assert point == space.halton(number, seed)
    turned = Space(dimensions=dict(reversed(space.dimensions.items())))
    assert point == turned.halton(number, seed)


def test_other_seeds_and_numbers_are_other_points() -> None:
    space = default_space(RUN)
    points = [space.halton(number, seed) for number in range(20) for seed in range(3)]
    assert len({point["optim.learning_rate"] for point in points}) == 60


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_points_are_spread_evenly(seed: int) -> None:
    """Over 36 points every choice of three comes 12 times, and every sixth of a range has 6, but for a few."""
    space = Space(
        dimensions={
            "three": Choice(values=("a", "b", "c")),
            "rate": Range(low=1e-6, high=1, log=True),
            "two": Choice(values=(True, False)),
            "share": Range(low=-3, high=3),
        }
    )
    points = [space.halton(number, seed) for number in range(36)]
    assert all(abs(times - 12) <= 2 for times in Counter(point["three"] for point in points).values())
    assert all(abs(times - 18) <= 2 for times in Counter(point["two"] for point in points).values())
    for name, place in (("rate", math.log10), ("share", lambda value: value - 3)):
        sixths = Counter(min(math.floor(place(point[name])), -1) for point in points)
        assert set(sixths) == set(range(-6, 0))
        assert all(abs(times - 6) <= 3 for times in sixths.values())


@given(st.integers(1, 7), st.integers(0, 10))
def test_shares_of_a_choice_are_equal_and_the_ends_belong_to_it(count: int, cut: int) -> None:
    choice = Choice(values=tuple(range(count)))
    assert choice.at(0.0) == 0
    assert choice.at(1.0) == count - 1
    assert choice.at(min((cut + 0.5) / count, 1.0)) == min(cut, count - 1)


def test_numbers_have_four_digits_and_never_leave_their_range() -> None:
    assert Range(low=0, high=1).at(1 / 3) == 0.3333
    assert Range(low=1, high=100, log=True).at(0.5) == pytest.approx(10)
    narrow = Range(low=0.900001, high=0.99999)
    assert (narrow.at(0.0), narrow.at(1.0)) == (0.900001, 0.99999)


def test_a_space_without_settings_has_one_point() -> None:
    assert Space(dimensions={}).halton(3, 0) == {}
