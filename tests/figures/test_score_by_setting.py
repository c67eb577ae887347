import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fcn_core.figures.page import OKABE_ITO
from fcn_core.figures.score_by_setting import ScorePoint, score_by_setting
from fcn_core.figures.searched import Dimension
from tests.figures.looking import assert_readable, texts, words

NAN = math.nan
RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)
GRID = Dimension("optim.learning_rate", log=True, choices=RATES)
RANGE = Dimension("optim.learning_rate", log=True, ends=(1e-4, 1e-2))
SKIPS = ("FCN-32s", "FCN-16s", "FCN-8s")
RULE = "11 classes, void excluded, accumulated over the set, at each image's own size, classes absent left out"


def grid(seeds: int, skips: Sequence[str] = SKIPS, rates: Sequence[float] = RATES) -> list[ScorePoint]:
    random = np.random.default_rng(seeds)
    hill = {rate: 0.6 - 0.1 * math.log10(rate / 1e-3) ** 2 for rate in rates}
    return [
        ScorePoint(rate, skip, [hill[rate] + index / 30 + random.normal() / 200 for _ in range(seeds)])
        for index, skip in enumerate(skips)
        for rate in rates
    ]


def drawn(figure: Figure, color: str, marker: str = "") -> list[Line2D]:
    """Return lines of a colour; with a marker, what is drawn in it alone."""
    of_colour = [line for line in figure.axes[0].lines if color in (line.get_color(), line.get_markeredgecolor())]
    return [
        line for line in of_colour if not marker or (line.get_marker() == marker and line.get_linestyle() == "None")
    ]


def data(line: Line2D) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in np.asarray(line.get_xydata())]


def bars(figure: Figure, color: str) -> list[Line2D]:
    return [line for line in drawn(figure, color) if line.get_marker() == "_"]


def rings(axes: Axes) -> dict[str, list[float]]:
    """Return what is ringed, by colour."""
    hollow = [line for line in axes.lines if line.get_markersize() > 12]
    return {str(line.get_markeredgecolor()): data(line)[0] for line in hollow}


def named(figure: Figure) -> dict[str, str]:
    """Return the names of the best by their colour."""
    bold = [text for text in figure.texts if text.get_fontweight() == "bold" and text.get_fontsize() == 11]
    return {str(text.get_color()): text.get_text() for text in bold}


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("rates", [RATES, RATES[:1]])
@pytest.mark.parametrize(
    "skips", [SKIPS, [f"a-configuration-with-a-name-that-is-long-{index} $x$" for index in range(9)]]
)
def test_any_number_of_points_is_readable(
    tmp_path: Path, saved: list[Figure], seeds: int, rates: Sequence[float], skips: Sequence[str]
) -> None:
    points = grid(seeds, skips, rates)
    for setting in (GRID, RANGE):
        score_by_setting(points, tmp_path / "rates.png", setting, "skip configuration", "a title " * 20, RULE)
        assert_readable(saved[-1])
        assert RULE in words(saved[-1]).replace("\n", " ")
        assert len(rings(saved[-1].axes[0])) == min(len(skips), len(OKABE_ITO)), "colours come again"
    assert "1e-4" in words(saved[-1]).splitlines()


def test_200_trials_are_readable(tmp_path: Path, saved: list[Figure]) -> None:
    random = np.random.default_rng(0)
    points = [ScorePoint(10 ** random.uniform(-4, -2), SKIPS[index % 3], [random.beta(9, 6)]) for index in range(200)]
    score_by_setting(points, tmp_path / "rates.png", RANGE)
    assert_readable(saved[-1])
    assert len(named(saved[-1])) == 3
    marks = [drawn(saved[-1], colour, marker)[0] for colour, marker in zip(OKABE_ITO, "osD", strict=False)]
    assert sum(len(data(mark)) for mark in marks) == 200
    assert not [line for line in saved[-1].axes[0].lines if line.get_linestyle() == "-" and len(data(line)) > 1]


def test_points_lie_at_their_values_and_scores(tmp_path: Path, saved: list[Figure]) -> None:
    points = [ScorePoint(1e-3, "a", [0.5]), ScorePoint(1e-4, "a", [0.25]), ScorePoint(1e-2, "a", [0.4])]
    for setting in (RANGE, GRID._replace(choices=(1e-4, 1e-3, 1e-2))):
        score_by_setting(points, tmp_path / "rates.png", setting)
        (marks, _) = drawn(saved[-1], OKABE_ITO[0], "o")[:2]
        assert np.allclose(data(marks), [[0.0, 25.0], [0.5, 50.0], [1.0, 40.0]])
        written = [tick.get_text() for tick in saved[-1].axes[0].get_xticklabels()]
        ticks = dict(zip(written, saved[-1].axes[0].get_xticks(), strict=True))
        assert [ticks[text] for text in ("1e-4", "1e-3", "0.01")] == pytest.approx([0, 0.5, 1])
    assert "mean IoU, %" in words(saved[-1])
    assert "optim.learning_rate" in words(saved[-1])


def test_bars_are_mean_and_standard_deviation_over_seeds(tmp_path: Path, saved: list[Figure]) -> None:
    points = [ScorePoint(1e-3, "a", [0.4, 0.5, 0.6]), ScorePoint(1e-4, "a", [0.3]), ScorePoint(1e-2, "a", [0.2, NAN])]
    score_by_setting(points, tmp_path / "rates.png", RANGE)
    assert np.allclose(data(drawn(saved[-1], OKABE_ITO[0], "o")[0])[1], [0.5, 50])
    (bar,) = bars(saved[-1], OKABE_ITO[0])
    assert np.allclose(data(bar), [[0.5, 40], [0.5, 60]])
    assert "one standard deviation (n-1) over seeds" in words(saved[-1])
    assert "a: best 50.0 ± 10.0 at 1e-3, 3 seeds" in words(saved[-1])
    score_by_setting(points[1:2], tmp_path / "rates.png", RANGE)
    assert "deviation" not in words(saved[-1])
    assert "a: best 30.0 at 1e-4" in words(saved[-1]).splitlines()


def test_the_best_of_each_group_is_ringed_and_named(tmp_path: Path, saved: list[Figure]) -> None:
    points = grid(3)
    score_by_setting(points, tmp_path / "rates.png", GRID, "skip configuration")
    colours = dict(zip(SKIPS, OKABE_ITO, strict=False))
    ringed = rings(saved[-1].axes[0])
    for skip, colour in colours.items():
        best = max((point for point in points if point.group == skip), key=lambda point: point.mean)
        assert ringed[colour][1] == best.mean
        assert named(saved[-1])[colour] == f"{skip} {best.mean:.1f}"
        assert f"{skip}: best {best.mean:.1f} ± {best.deviation:.1f} at 1e-3, 3 seeds" in words(saved[-1])
    assert "Colour and mark: skip configuration." in words(saved[-1])


def test_a_point_that_some_seeds_left_is_the_best_only_if_there_is_no_other(
    tmp_path: Path, saved: list[Figure]
) -> None:
    left = ScorePoint(1e-3, "a", [0.9, NAN])
    score_by_setting([left, ScorePoint(1e-4, "a", [0.5, 0.6])], tmp_path / "rates.png", RANGE)
    assert named(saved[-1]) == {OKABE_ITO[0]: "a 55.0"}
    score_by_setting([left], tmp_path / "rates.png", RANGE)
    assert named(saved[-1]) == {OKABE_ITO[0]: "a 90.0"}


def test_a_name_hides_no_mark_and_is_nearest_to_its_own_ring(tmp_path: Path, saved: list[Figure]) -> None:
    points = grid(1)
    score_by_setting(points, tmp_path / "rates.png", GRID)
    axes = saved[-1].axes[0]
    marks = [drawn(saved[-1], colour, marker)[0] for colour, marker in zip(OKABE_ITO, "osD", strict=False)]
    places = np.concatenate([axes.transData.transform(data(mark)) for mark in marks])
    for text, box in texts(saved[-1]):
        if text in named(saved[-1]).values():
            assert not [place for place in places if box.padded(6).contains(*place)], f"{text} hides a mark"
            colour = next(colour for colour, name in named(saved[-1]).items() if name == text)
            away = {
                ring: math.dist(
                    np.clip(axes.transData.transform(place), box.p0, box.p1), axes.transData.transform(place)
                )
                for ring, place in rings(axes).items()
            }
            assert min(away, key=away.__getitem__) == colour


def test_a_name_that_is_far_has_a_line_to_its_ring(tmp_path: Path, saved: list[Figure]) -> None:
    points = [ScorePoint(1e-3, f"group {index}", [0.5]) for index in range(6)]
    score_by_setting(points, tmp_path / "rates.png", RANGE)
    assert_readable(saved[-1])
    leaders = [artist for artist in saved[-1].artists if isinstance(artist, Line2D)]
    assert leaders
    axes = saved[-1].axes[0]
    for leader in leaders:
        ring = axes.transData.transform(rings(axes)[str(leader.get_color())])
        assert np.allclose(2 * np.asarray(leader.get_xydata())[0], ring)


def test_groups_have_their_own_colour_and_mark_in_the_order_in_which_they_come(
    tmp_path: Path, saved: list[Figure]
) -> None:
    for skips in (SKIPS, SKIPS[::-1]):
        score_by_setting(grid(1, skips), tmp_path / "rates.png", GRID)
        keys = saved[-1].legends[0]
        assert [text.get_text().split(":")[0] for text in keys.get_texts()] == list(skips)
        looks = [(line.get_color(), line.get_marker()) for line in keys.get_lines()]
        assert looks == list(zip(OKABE_ITO[:3], "osD", strict=True))
        assert all(drawn(saved[-1], str(colour), str(marker)) for colour, marker in looks)


def test_many_groups_look_unlike_each_other(tmp_path: Path, saved: list[Figure]) -> None:
    score_by_setting([ScorePoint(1e-3, f"{index}", [index / 20]) for index in range(20)], tmp_path / "many.png", RANGE)
    assert len({(line.get_color(), line.get_marker()) for line in saved[-1].legends[0].get_lines()}) == 20


def test_groups_at_the_same_values_stand_side_by_side(tmp_path: Path, saved: list[Figure]) -> None:
    score_by_setting([ScorePoint(1e-3, skip, [0.5, 0.6]) for skip in SKIPS], tmp_path / "rates.png", RANGE)
    places = [data(bars(saved[-1], colour)[0])[0][0] for colour in OKABE_ITO[:3]]
    units = np.diff(places) * saved[-1].axes[0].bbox.width / 2 / 1.1
    assert units == pytest.approx(7)
    assert places[1] == pytest.approx(0.5)


def test_a_line_joins_the_best_at_each_number_that_was_chosen(tmp_path: Path, saved: list[Figure]) -> None:
    points = [ScorePoint(1e-3, "a", [0.5]), ScorePoint(1e-4, "a", [0.3]), ScorePoint(1e-3, "a", [0.4])]
    score_by_setting(points, tmp_path / "rates.png", GRID._replace(choices=(1e-4, 1e-3)))
    (line,) = [line for line in saved[-1].axes[0].lines if line.get_linestyle() == "-"]
    assert data(line) == [[0, 30], [1, 50]]
    assert "Lines join the best" in words(saved[-1])
    assert len(data(drawn(saved[-1], OKABE_ITO[0], "o")[0])) == 3
    score_by_setting(points, tmp_path / "rates.png", RANGE)
    assert not [line for line in saved[-1].axes[0].lines if line.get_linestyle() == "-"]
    assert "Lines" not in words(saved[-1])


def test_names_lie_evenly_and_are_not_joined(tmp_path: Path, saved: list[Figure]) -> None:
    names = (None, True, (256, 256), "learned_but_last")
    setting = Dimension("model.upsampling", choices=names)
    score_by_setting([ScorePoint(name, "a", [0.5]) for name in names], tmp_path / "names.png", setting)
    assert np.allclose(data(drawn(saved[-1], OKABE_ITO[0], "o")[0]), [[x, 50] for x in (0.125, 0.375, 0.625, 0.875)])
    assert [tick.get_text() for tick in saved[-1].axes[0].get_xticklabels()] == [
        "None",
        "True",
        "(256, 256)",
        "learned_but_last",
    ]
    assert "Lines" not in words(saved[-1])
    runs = tuple(f"s3://bucket/results/runs/fcn32s-{index}ab12cd34ef" for index in range(30))
    points = [ScorePoint(run, "a_group $x$ " * 20, [0.5, 0.3]) for run in runs]
    score_by_setting(points, tmp_path / "names.png", Dimension("a.long_$etting_" * 20, choices=runs))
    assert_readable(saved[-1])
    written = dict(texts(saved[-1]))
    foot = max(box.y1 for text, box in written.items() if "best 40.0" in text)
    assert min(box.y0 for text, box in written.items() if text.startswith("a.long_")) > foot + 16


def test_runs_without_a_score_are_crosses_at_the_foot(tmp_path: Path, saved: list[Figure]) -> None:
    points = [ScorePoint(1e-4, "a", [0.5, 0.6]), ScorePoint(1e-3, "a", [0.5, NAN]), ScorePoint(1e-2, "b", [NAN])]
    score_by_setting(points, tmp_path / "rates.png", RANGE)
    axes = saved[-1].axes[0]
    for colour, place in zip(OKABE_ITO, (0.5, 1), strict=False):
        (crosses,) = [line for line in drawn(saved[-1], colour, "x") if len(data(line))]
        assert np.allclose(data(crosses), [[place, 0.04]])
        lowest = crosses.get_transform().transform(data(crosses))[0][1]
        assert axes.bbox.y0 < lowest < axes.transData.transform((0, 50))[1] - 20
    assert "Crosses" in words(saved[-1])
    assert "b: no score" in words(saved[-1])
    assert_readable(saved[-1])
    score_by_setting(points[2:], tmp_path / "rates.png", RANGE)
    assert not rings(saved[-1].axes[0])
    assert_readable(saved[-1])
    score_by_setting(points[:1], tmp_path / "rates.png", RANGE)
    assert "Crosses" not in words(saved[-1])


@pytest.mark.parametrize("scores", [[0.6], [0.6, 0.6], [0.0], [1.0]])
def test_equal_scores_are_not_magnified(tmp_path: Path, saved: list[Figure], scores: list[float]) -> None:
    points = [ScorePoint(rate, skip, scores) for rate in RATES for skip in SKIPS]
    score_by_setting(points, tmp_path / "rates.png", GRID)
    low, high = saved[-1].axes[0].get_ylim()
    assert 2 < high - low < 3
    assert low < 100 * scores[0] < high
    assert all(abs(place) < 0.02 for place, _ in rings(saved[-1].axes[0]).values()), "the first of equals"
    assert_readable(saved[-1])


def test_equal_points_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        score_by_setting(grid(3), tmp_path / name, GRID, "skip configuration", "a title", RULE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one point"):
        score_by_setting([], tmp_path / "rates.png", RANGE)
    with pytest.raises(ValueError, match="is no number"):
        score_by_setting([ScorePoint("fast", "a", [0.5])], tmp_path / "rates.png", RANGE)
    with pytest.raises(ValueError, match="is none of the choices"):
        score_by_setting([ScorePoint("fast", "a", [0.5])], tmp_path / "rates.png", Dimension("x", choices=("slow",)))
