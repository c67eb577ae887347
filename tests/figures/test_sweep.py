import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fcn_core.figures.searched import Dimension, as_text
from fcn_core.figures.sweep import parallel_coordinates
from fcn_core.figures.trials import State, Trial
from tests.figures.looking import assert_readable, read, texts, words

NAN = math.nan
RATE = Dimension("optim.learning_rate", log=True, ends=(1e-4, 1e-2))
STRIDE = Dimension("model.stride", choices=(32, 16, 8))
SPACE = [
    RATE,
    STRIDE,
    Dimension("model.upsampling", choices=("fixed", "learned", "learned_but_last")),
    Dimension("data.crop", choices=(None, (256, 256), (320, 480))),
    Dimension("data.flip", choices=(True, False)),
    Dimension("optim.momentum"),
    Dimension("optim.weight_decay", log=True),
    Dimension("data.streets.num_train", choices=tuple(range(40))),
]
RULE = "11 classes, void excluded, accumulated over the set, at each image's own size, classes absent left out"


def sweep(num: int, space: Sequence[Dimension], faults: bool = True) -> list[Trial]:
    random = np.random.default_rng(num)

    def value(one: Dimension) -> Any:  # noqa: ANN401
        return one.choices[random.integers(len(one.choices))] if one.choices else float(10 ** random.uniform(-4, -2))

    states: list[State] = [*get_args(State)] if faults else ["finished"]
    trials = []
    for index in range(num):
        state = states[random.integers(len(states))]
        values = {one.name: value(one) for one in space}
        trials.append(Trial(str(index), values, NAN if state == "failed" else float(random.beta(9, 6)), state))
    return trials


def rates(*scores: float, state: State = "finished") -> list[Trial]:
    return [
        Trial(str(index), {RATE.name: 1e-4 * 2**index, STRIDE.name: 8}, score, state)
        for index, score in enumerate(scores)
    ]


def lines(figure: Figure) -> dict[str, Line2D]:
    """Return the lines of trials, in the order in which they are drawn."""
    drawn = [artist for artist in figure.artists if isinstance(artist, Line2D) and artist.get_gid()]
    return {str(line.get_gid()): line for line in drawn}


def crossings(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Return where each trial crosses the axes, in pixels."""
    return {name: list(map(tuple, 2 * np.asarray(line.get_xydata()))) for name, line in lines(figure).items()}


def beside(figure: Figure, x: float) -> dict[str, float]:
    """Return the height of what is written left of an axis, in pixels."""
    return {text: float(box.y0 + box.y1) / 2 for text, box in texts(figure) if 6 < x - box.x1 < 24}


def named(figure: Figure) -> list[str]:
    """Return the names of the best, from above."""
    bold = [text for text in figure.texts if text.get_fontweight() == "bold" and ": " in text.get_text()]
    return [text.get_text() for text in sorted(bold, key=lambda text: -text.get_position()[1])]


def darkness(line: Line2D) -> float:
    return -float(np.dot(to_rgb(line.get_color()), (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("num", [1, 12, 60, 200])
@pytest.mark.parametrize("dimensions", [1, 2, 5, 8])
def test_any_number_of_trials_and_settings_is_readable(
    tmp_path: Path, saved: list[Figure], num: int, dimensions: int
) -> None:
    parallel_coordinates(SPACE[:dimensions], sweep(num, SPACE), tmp_path / "sweep.png", f"{num} trials", RULE)
    assert_readable(saved[-1])
    assert read(tmp_path / "sweep.png").shape[1] == 1600
    assert set(lines(saved[-1])) == set(map(str, range(num)))
    assert f"{num} trials" in words(saved[-1])
    assert RULE in words(saved[-1]).replace("\n", " ")


def test_names_and_values_that_are_long_are_readable(tmp_path: Path, saved: list[Figure]) -> None:
    runs = tuple(f"s3://bucket/results/runs/fcn32s-on-a-data-set-{index}ab12cd34ef" for index in range(3))
    space = [
        Dimension(f"a_group_with_a_name.and_a_$etting_with_a_long_name_{index}", False, runs) for index in range(8)
    ]
    trials = [trial._replace(label=f"a trial with a name {trial.label}") for trial in sweep(9, space, faults=False)]
    parallel_coordinates(space, trials, tmp_path / "sweep.png", "a long title " * 20, RULE)
    assert_readable(saved[-1])
    for index in range(8):
        assert sum(text.endswith(f"_{index}") for text, _ in texts(saved[-1])) == 1, "names are told apart"
    best = max(trials, key=lambda trial: trial.score)
    assert named(saved[-1])[0].endswith(f"{best.label[-1]}: {100 * best.score:.1f}")


@pytest.mark.parametrize("dimensions", [2, 8])
def test_lines_cross_the_axes_at_their_values(tmp_path: Path, saved: list[Figure], dimensions: int) -> None:
    """Values that are written are crossed where they are written, on axes of any kind, and so is the score."""
    momentum, decay = SPACE[5], SPACE[6]
    values = {one.name: (one.choices or [None])[0] for one in SPACE} | {momentum.name: 0.5, decay.name: 1e-3}
    ends = values | {RATE.name: 1e-2, momentum.name: 0.9, decay.name: 1e-5}
    trials = [Trial("a", values | {RATE.name: 1e-3}, 0.5), Trial("b", ends, 0.8)]
    parallel_coordinates(SPACE[:dimensions], trials, tmp_path / "sweep.png")
    for trial in trials:
        expected = [*(as_text(trial.values[one.name]) for one in SPACE[:dimensions]), f"{100 * trial.score:g}"]
        for (x, y), text in zip(crossings(saved[-1])[trial.label], expected, strict=True):
            found = beside(saved[-1], x)
            assert text in found, f"{text} is none of {found}"
            assert y == pytest.approx(found[text], abs=8), text


def test_headings_stand_above_their_axes(tmp_path: Path, saved: list[Figure]) -> None:
    parallel_coordinates(SPACE, sweep(3, SPACE, faults=False), tmp_path / "sweep.png")
    where = {text: (box.x0 + box.x1) / 2 for text, box in texts(saved[-1])}
    places = [x for x, _ in crossings(saved[-1])["0"]]
    names = [*(one.name.rpartition(".")[2] for one in SPACE), "mean IoU, %"]
    assert [where[name] for name in names] == pytest.approx(places, abs=1)
    assert np.ptp(np.diff(places)) < 1, "evenly"


def test_a_logarithmic_axis_has_equal_factors_at_equal_distances(tmp_path: Path, saved: list[Figure]) -> None:
    parallel_coordinates([RATE], rates(0.1, 0.2, 0.3, 0.4, 0.5), tmp_path / "sweep.png")
    heights = [places[0][1] for _, places in sorted(crossings(saved[-1]).items())]
    assert np.diff(heights) == pytest.approx(640 * math.log(2) / math.log(100), abs=0.1)


@pytest.mark.parametrize("num", [5, 60, 200])
def test_lines_through_one_choice_are_told_apart_in_the_order_of_their_scores(
    tmp_path: Path, saved: list[Figure], num: int
) -> None:
    trials = sweep(num, SPACE[:2], faults=False)
    parallel_coordinates(SPACE[:2], trials, tmp_path / "sweep.png")
    places = crossings(saved[-1])
    written = beside(saved[-1], places["0"][1][0])
    for stride in (32, 16, 8):
        here = sorted((trial for trial in trials if trial.values["model.stride"] == stride), key=lambda one: one.score)
        heights = [places[trial.label][1][1] for trial in here]
        assert all(np.diff(heights) > 1.5), "each has a place, and the better is above"
        for height in heights:
            assert min(written, key=lambda text: abs(written[text] - height)) == str(stride)


def test_a_better_trial_is_darker(tmp_path: Path, saved: list[Figure]) -> None:
    trials = sweep(60, SPACE[:2], faults=False)
    parallel_coordinates(SPACE[:2], trials, tmp_path / "sweep.png")
    shades = [darkness(lines(saved[-1])[one.label]) for one in sorted(trials, key=lambda trial: trial.score)]
    assert shades == sorted(shades)
    assert shades[0] < -0.5
    assert shades[-1] > -0.1
    assert "darker the higher" in words(saved[-1])


def test_the_colours_beside_the_scores_are_those_of_the_lines(tmp_path: Path, saved: list[Figure]) -> None:
    trials = [*rates(0.2, 0.35, 0.6), *rates(0.9, state="diverged")]
    parallel_coordinates([RATE], [one._replace(label=f"{i}") for i, one in enumerate(trials)], tmp_path / "sweep.png")
    (strip,) = saved[-1].axes
    pixels = read(tmp_path / "sweep.png")
    for name in "012":
        (x, y), line = crossings(saved[-1])[name][-1], lines(saved[-1])[name]
        assert strip.bbox.x0 > x
        assert strip.bbox.y0 - 1 < y < strip.bbox.y1 + 1
        row, column = len(pixels) - 1 - np.clip(y, strip.bbox.y0 + 2, strip.bbox.y1 - 2), strip.bbox.x0 + 4
        assert np.allclose(pixels[round(row), round(column)] / 255, to_rgb(line.get_color()), atol=0.03)


def test_trials_that_did_not_finish_look_otherwise_and_are_counted(tmp_path: Path, saved: list[Figure]) -> None:
    states: tuple[State, ...] = get_args(State)
    trials = [Trial(state, {RATE.name: 1e-3}, 0.3 + index / 10, state) for index, state in enumerate(states)]
    parallel_coordinates([RATE], [*trials, trials[2]._replace(label="again")], tmp_path / "sweep.png")
    drawn = lines(saved[-1])
    patterns = {str(drawn[state]._unscaled_dash_pattern) for state in states}  # type: ignore[attr-defined]
    assert len(patterns) == 4
    saturation = {state: np.ptp(to_rgb(drawn[state].get_color())) for state in states}
    assert saturation["diverged"] == saturation["failed"] == 0
    assert min(saturation["finished"], saturation["stopped"]) > 0.2
    key = [text.get_text() for text in saved[-1].legends[0].get_texts()]
    assert key == ["finished: 1", "stopped early: 1", "diverged: 2", "failed: 1"]
    shown = {str(line._unscaled_dash_pattern) for line in saved[-1].legends[0].get_lines()}  # type: ignore[attr-defined]
    assert shown == patterns


def test_the_best_three_are_thick_named_and_drawn_last(tmp_path: Path, saved: list[Figure]) -> None:
    trials = rates(0.61, 0.4, 0.62, 0.1, 0.615, 0.3)
    trials.append(Trial("diverged", {RATE.name: 1e-3}, 0.9, "diverged"))
    parallel_coordinates([RATE], trials, tmp_path / "sweep.png")
    assert named(saved[-1]) == ["2: 62.0", "4: 61.5", "0: 61.0"]
    drawn = lines(saved[-1])
    assert list(drawn)[-3:] == ["0", "4", "2"]
    assert {name for name, line in drawn.items() if line.get_linewidth() > 2} == {"0", "2", "4"}
    assert "the best 3 are thick" in words(saved[-1])
    marks = [artist for artist in saved[-1].artists if isinstance(artist, Line2D) and artist.get_linewidth() == 0]
    from_above = sorted(marks, key=lambda mark: -float(np.asarray(mark.get_ydata())[0]))
    assert [mark.get_marker() for mark in from_above] == [drawn[name].get_marker() for name in "240"], (
        "a key to the marks"
    )
    assert_readable(saved[-1])


@pytest.mark.parametrize("score", [0.5, 0.0])
def test_of_equal_trials_the_earliest_are_the_best(tmp_path: Path, saved: list[Figure], score: float) -> None:
    parallel_coordinates([RATE], rates(*[score] * 7), tmp_path / "sweep.png")
    assert named(saved[-1]) == [f"{index}: {100 * score:.1f}" for index in range(3)]
    (shade,) = {darkness(line) for line in lines(saved[-1]).values()}
    assert shade > -0.1, "all are the best"
    ends = [places[-1] for places in crossings(saved[-1]).values()]
    assert np.ptp(ends, axis=0).max() == 0
    assert_readable(saved[-1])


def test_small_differences_are_not_magnified(tmp_path: Path, saved: list[Figure]) -> None:
    parallel_coordinates([RATE], rates(0.6, 0.601), tmp_path / "sweep.png")
    ends = [places[-1][1] for _, places in sorted(crossings(saved[-1]).items())]
    assert np.diff(ends) == pytest.approx(64), "a tenth of a point is a tenth of the axis"


def test_names_of_the_best_stay_beside_the_axis(tmp_path: Path, saved: list[Figure]) -> None:
    for scores in ((0.6, 0.1, 0.1), (0.6, 0.6, 0.6), (0.6, 0.1, 0.1001), (0.5,)):
        parallel_coordinates([RATE], rates(*scores), tmp_path / "sweep.png")
        foot = min(text.y1 for words, text in texts(saved[-1]) if words.startswith("finished"))
        boxes = [box for text, box in texts(saved[-1]) if text in named(saved[-1])]
        assert len(boxes) == len(scores)
        assert all(box.y0 > foot for box in boxes)
        assert_readable(saved[-1])


def test_trials_without_a_score_end_below_the_axis(tmp_path: Path, saved: list[Figure]) -> None:
    faults = [Trial(f"fault {index}", {RATE.name: 1e-3}, score, "diverged") for index, score in enumerate([0.3, NAN])]
    unmeasured = Trial("unmeasured", {RATE.name: 1e-3}, NAN)
    parallel_coordinates([RATE], [*rates(0.2, 0.6), *faults, unmeasured], tmp_path / "sweep.png")
    places = {name: ends[-1] for name, ends in crossings(saved[-1]).items()}
    none = beside(saved[-1], places["0"][0])["none"]
    for name in ("fault 0", "fault 1", "unmeasured"):
        assert abs(places[name][1] - none) < 24
        assert places[name][1] < places["0"][1] - 20
    assert len({places[name] for name in places}) == 5, "and are told apart"
    assert named(saved[-1]) == ["1: 60.0", "0: 20.0"]
    parallel_coordinates([RATE], rates(0.2, 0.6), tmp_path / "sweep.png")
    assert "none" not in words(saved[-1])


def test_a_sweep_without_a_score_is_drawn(tmp_path: Path, saved: list[Figure]) -> None:
    parallel_coordinates([RATE, STRIDE], rates(NAN, NAN, state="diverged"), tmp_path / "sweep.png", "a title", RULE)
    assert not named(saved[-1])
    assert "best" not in words(saved[-1])
    assert RULE in words(saved[-1])
    assert_readable(saved[-1])


def test_values_are_those_of_json_too(tmp_path: Path, saved: list[Figure]) -> None:
    crop = Dimension("data.crop", choices=(None, (256, 256), True))
    trials = [Trial(f"{value}", {crop.name: value}, 0.5) for value in (None, [256, 256], True)]
    parallel_coordinates([crop], trials, tmp_path / "sweep.png")
    places = crossings(saved[-1])
    written = beside(saved[-1], places["None"][0][0])
    assert list(written) == ["None", "(256, 256)", "True"]
    assert [ends[0][1] for _, ends in places.items()] == pytest.approx(sorted(written.values(), reverse=True), abs=3)


def test_equal_trials_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        parallel_coordinates(SPACE, sweep(30, SPACE), tmp_path / name, "a title", RULE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    for space, trials in (([], rates(0.5)), ([RATE], [])):
        with pytest.raises(ValueError, match="at least one setting and one trial"):
            parallel_coordinates(space, trials, tmp_path / "sweep.png")
    with pytest.raises(ValueError, match=r"trial 0 has no value for data\.flip"):
        parallel_coordinates([SPACE[4]], rates(0.5), tmp_path / "sweep.png")
    with pytest.raises(ValueError, match=r"model\.stride 8 is none of the choices 32, 16"):
        parallel_coordinates([STRIDE._replace(choices=(32, 16))], rates(0.5), tmp_path / "sweep.png")
