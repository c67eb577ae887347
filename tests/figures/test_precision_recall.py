from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.precision_recall import PrecisionRecall, precision_recall
from tests.figures.looking import assert_readable, read, words

NOTHING = PrecisionRecall(np.empty(0), np.empty(0), None)


def curve(quality: float, num: int = 4096) -> PrecisionRecall:
    recall = np.linspace(1 / num, 1, num)
    precision = 1 - (1 - quality) * recall
    return PrecisionRecall(recall, precision, float(np.diff(recall, prepend=0) @ precision))


def key(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def looks(figure: Figure) -> dict[str, tuple[str, str]]:
    lines = figure.legends[0].get_lines()
    return {
        name.split("  ")[1]: (str(line.get_color()), str(line.get_linestyle()))
        for name, line in zip(key(figure), lines, strict=True)
    }


@pytest.mark.parametrize("num", [0, 1, 21])
@pytest.mark.parametrize("name", ["class {}", "{} a name much longer than anybody would give to a class", "_$a$ {}"])
def test_any_number_of_classes_is_readable(tmp_path: Path, saved: list[Figure], num: int, name: str) -> None:
    curves = {name.format(index): curve(index / num, 99) for index in range(num)}
    precision_recall({**curves, "unseen": NOTHING}, tmp_path / "curves.png", "a title", "a rule")
    assert_readable(saved[-1])
    assert len(saved[-1].axes[0].lines) == num


def test_the_key_is_in_the_order_of_average_precision(tmp_path: Path, saved: list[Figure]) -> None:
    curves = {"poor": curve(0.1), "unseen": NOTHING, "good": curve(0.9), "middling": curve(0.5)}
    precision_recall(curves, tmp_path / "curves.png", rule="over two images")
    assert [line.split("  ")[1] for line in key(saved[-1])] == ["good", "middling", "poor"]
    assert key(saved[-1])[0] == "0.950  good"
    assert "Without a pixel: unseen. over two images" in words(saved[-1]).replace("\n", " ")


def test_the_area_below_a_curve_is_its_average_precision(tmp_path: Path, saved: list[Figure]) -> None:
    steps = PrecisionRecall(np.array([0.25, 0.5, 1.0]), np.array([1.0, 0.5, 0.75]), 0.75)
    precision_recall({"steps": steps}, tmp_path / "curves.png")
    path = saved[-1].axes[0].lines[0]
    assert path.get_drawstyle() == "steps-pre"
    recall, precision = np.asarray(path.get_xydata()).T
    assert np.diff(recall) @ precision[1:] == 0.75
    assert recall[0] == 0


def test_a_class_looks_the_same_whatever_it_scores_and_unlike_the_others(tmp_path: Path, saved: list[Figure]) -> None:
    up = {f"class {index}": curve(index / 21, 9) for index in range(21)}
    down = {f"class {index}": curve(1 - index / 21, 9) for index in range(21)}
    precision_recall(up, tmp_path / "up.png")
    precision_recall(down, tmp_path / "down.png")
    first, second = map(looks, saved)
    assert first == second
    assert len(set(first.values())) == 21
    assert not np.array_equal(read(tmp_path / "up.png"), read(tmp_path / "down.png"))
