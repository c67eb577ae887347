from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from fcn_core.figures import population as module
from fcn_core.figures.population import Segment, population
from fcn_core.figures.searched import Dimension

RATE, UPSAMPLING = "optim.learning_rate", "model.upsampling"
DIMENSIONS = [Dimension(RATE, log=True, ends=(1e-4, 1.0)), Dimension(UPSAMPLING, choices=("fixed", "learned"))]


def point(rate: float) -> dict[str, object]:
    return {RATE: rate, UPSAMPLING: "fixed"}


A = Segment(0, None, point(0.1), [1, 2], [0.2, 0.3])
B = Segment(1, None, point(1e-4), [1, 2], [0.1, 0.05])
A2 = Segment(0, A, point(0.1), [3], [0.4])
B2 = Segment(1, A, point(0.12), [3], [0.5])
DIVERGED = Segment(2, None, point(1.0), [], [])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[float, float]], bool, bool]]:
    """Lines with whether they led to the best and whether they began with a copy."""
    lines: list[tuple[list[tuple[float, float]], bool, bool]] = []
    draw = module._draw

    def record(axes: Axes, line: list[tuple[float, float]], *, led: bool, copied: bool) -> None:
        lines.append((list(line), led, copied))
        draw(axes, line, led=led, copied=copied)

    monkeypatch.setattr(module, "_draw", record)
    return lines


def test_the_line_that_led_to_the_best_is_marked_and_goes_on_from_where_it_was_copied(
    drawn: list[tuple[list[tuple[float, float]], bool, bool]], tmp_path: Path
) -> None:
    population([[A, B, DIVERGED], [A2, B2]], tmp_path / "a.png", DIMENSIONS, "iou.car", "a sweep", "a rule")
    scores, settings = drawn[::2], drawn[1::2]
    assert scores == [
        ([(1, 20.0), (2, 30.0)], True, False),
        ([(1, 10.0), (2, 5.0)], False, False),
        ([(2, 30.0), (3, 40.0)], False, False),
        ([(2, 30.0), (3, 50.0)], True, True),
    ]
    assert settings == [
        ([(0, 0.1), (2, 0.1)], True, False),
        ([(0, 1e-4), (2, 1e-4)], False, False),
        ([(2, 0.1), (3, 0.1)], False, False),
        ([(2, 0.12), (3, 0.12)], True, False),
    ]
    assert imread(tmp_path / "a.png").std() > 0.05


def test_settings_that_are_no_numbers_have_no_panel(tmp_path: Path) -> None:
    population([[A, B]], tmp_path / "both.png", DIMENSIONS)
    population([[A, B]], tmp_path / "none.png", DIMENSIONS[1:])
    both, none = (imread(tmp_path / f"{name}.png").shape for name in ("both", "none"))
    assert both[0] - none[0] == 2 * (module._SETTING + module._GAP)
    assert both[1] == none[1]


def test_a_population_of_which_all_diverged_has_no_figure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no member of the population has a score"):
        population([[DIVERGED]], tmp_path / "a.png", DIMENSIONS)
    assert not list(tmp_path.iterdir())
