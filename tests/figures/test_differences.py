import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.differences import Difference, differences
from fcn_core.figures.page import BLUE, GREY, VERMILLION
from tests.figures.looking import assert_readable, texts, words

NAN = math.nan
SIDES = "FCN-32s is better", "FCN-8s is better"
ROWS = [
    Difference("mean IoU", 1.25, 0.5, 2.0),
    Difference("sky", -3.0, -4.0, -2.0),
    Difference("pole", 1.0, -0.5, 2.5),
    Difference("fence", 4.0, NAN, NAN),
    Difference("unseen", NAN, NAN, NAN),
]


@pytest.mark.parametrize("num", [1, 22])
@pytest.mark.parametrize(
    "name", ["{}", "class {}", "{} a name much longer than anybody would give to a class", "$a$ {}"]
)
def test_any_number_of_rows_is_readable(tmp_path: Path, saved: list[Figure], num: int, name: str) -> None:
    rows = [Difference(name.format(index), 90 * math.sin(index), -100.0, 100.0) for index in range(num)]
    sides = "fcn32s-with-a-name-that-is-long is better", "fcn8s-with-a-name-that-is-long is better"
    differences(rows, tmp_path / "rows.png", sides, "a title", "95 % intervals, paired bootstrap over 101 images " * 4)
    assert_readable(saved[-1])
    plot = saved[-1].axes[0].bbox.padded(-1)
    outside = [text for text, box in texts(saved[-1]) if not box.overlaps(plot)]
    assert len(outside) == len(texts(saved[-1])), "nothing is written over the plot"


def test_colour_tells_on_which_side_of_0_the_whole_interval_lies(tmp_path: Path, saved: list[Figure]) -> None:
    differences(ROWS, tmp_path / "rows.png", SIDES)
    lines = saved[-1].axes[0].lines
    assert [line.get_color() for line in lines[: 2 * len(ROWS) : 2]] == [BLUE, VERMILLION, GREY, GREY, GREY]
    assert [row.colour for row in (Difference("", 0, 0, 0), Difference("", 1, 0, 2))] == [GREY, GREY]


def test_intervals_and_numbers_are_those_of_the_rows(tmp_path: Path, saved: list[Figure]) -> None:
    differences(ROWS, tmp_path / "rows.png", SIDES)
    lines = saved[-1].axes[0].lines
    assert np.array_equal(lines[2].get_xdata(), [-4, -2])
    assert np.array_equal(lines[3].get_xdata(), [-3])
    written = words(saved[-1]).splitlines()
    assert "+1.2 (+0.5 to +2.0)" in written
    assert "\N{MINUS SIGN}3.0 (\N{MINUS SIGN}4.0 to \N{MINUS SIGN}2.0)" in written
    assert "+4.0" in written
    assert "-" in written, "no difference"


def test_names_and_numbers_stand_beside_their_intervals(tmp_path: Path, saved: list[Figure]) -> None:
    differences(ROWS, tmp_path / "rows.png", SIDES)
    axes = saved[-1].axes[0]
    for index, row in enumerate(ROWS[:4]):
        dot = axes.transData.transform(axes.lines[2 * index + 1].get_xydata())[0]
        beside = next(box for text, box in texts(saved[-1]) if text == row.name)
        assert (beside.y0 + beside.y1) / 2 == pytest.approx(dot[1], abs=6)


def test_the_first_row_is_set_apart(tmp_path: Path, saved: list[Figure]) -> None:
    differences(ROWS, tmp_path / "rows.png", SIDES)
    bold = {text.get_text() for text in saved[-1].texts if text.get_fontweight() == "bold" and text.get_text()}
    assert bold == {"mean IoU", "+1.2 (+0.5 to +2.0)"}


def test_zero_is_always_on_the_axis_and_sides_are_said_where_they_are(tmp_path: Path, saved: list[Figure]) -> None:
    for row in (Difference("a", 30, 29, 31), Difference("a", -30, -31, -29), Difference("a", NAN, NAN, NAN)):
        differences([row], tmp_path / "rows.png", SIDES)
        low, high = saved[-1].axes[0].get_xlim()
        assert low < 0 < high
        where = dict(texts(saved[-1]))
        assert where[f"← {SIDES[0]}"].x1 < where[f"{SIDES[1]} →"].x0
        assert_readable(saved[-1])


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        differences([], tmp_path / "rows.png", SIDES)
