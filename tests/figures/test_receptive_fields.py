from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.page import BLUE, VERMILLION
from fcn_core.figures.receptive_fields import FieldRow, effective_map, field_sizes
from tests.figures.looking import assert_readable, has, read, words

ROWS = [
    FieldRow("conv1", 7, 2, 7),
    FieldRow("layer4.1.conv2", 435, 32, 435),
    FieldRow("upscore2 " * 20, 467, 0.5, 435),
    FieldRow("avgpool", 224, 0, 224),
]


def gaussian(rows: int = 60, columns: int = 80) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    y, x = np.mgrid[:rows, :columns]
    field: np.ndarray[tuple[int, int], np.dtype[np.float64]] = np.exp(-((y - 30) ** 2 + (x - 40) ** 2) / 2 / 8**2)
    return field


def test_bars_are_as_long_as_fields_and_strides(tmp_path: Path, saved: list[Figure]) -> None:
    field_sizes(ROWS, tmp_path / "rows.png", 224, "ResNet", "a rule")
    (axes,) = saved[-1].axes
    widths = [bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]
    lefts = [bar.get_x() for bar in axes.patches]  # type: ignore[attr-defined]
    assert widths[:9] == [7, 7, 2, 435, 435, 32, 467, 435, 0.5]
    assert lefts == [-width / 2 for width in widths]
    assert widths[9] >= axes.get_xlim()[1] * 2, "what sees everything fills its row"
    assert axes.get_xlim()[1] > 467 / 2
    text = words(saved[-1])
    assert all(said in text for said in ("435 to 467", "32", "0.5", "everything", "an image of 224 px", "a rule"))
    assert has(read(tmp_path / "rows.png"), BLUE)
    assert_readable(saved[-1])


def test_one_layer_and_many_are_drawn(tmp_path: Path, saved: list[Figure]) -> None:
    field_sizes(ROWS[:1], tmp_path / "one.png")
    assert_readable(saved[-1])
    assert "of the unit that sees most" not in words(saved[-1])
    assert not has(read(tmp_path / "one.png"), "#c6dcec")
    field_sizes([FieldRow(f"features.{index}", 10 + index, 1, 10) for index in range(60)], tmp_path / "many.png")
    assert_readable(saved[-1])
    with pytest.raises(ValueError, match="at least one layer"):
        field_sizes([], tmp_path / "none.png")


def test_the_map_has_the_box_of_the_theory_around_it(tmp_path: Path, saved: list[Figure]) -> None:
    sides = [("95 % of the gradient", 35.0), ("above 4.55 %", 20.0)]
    effective_map(gaussian(), ((10, 51), (20, 61)), sides, tmp_path / "map.png", "layer3", "a rule")
    axes, curve = saved[-1].axes
    squares = [patch.get_bbox() for patch in axes.patches]  # type: ignore[attr-defined]
    assert [(box.x0, box.x1, box.y0, box.y1) for box in squares] == [
        (19.5, 60.5, 9.5, 50.5),
        (22.5, 57.5, 12.5, 47.5),
        (30, 50, 20, 40),
    ]
    inside, *marks = curve.lines
    lengths, shares = np.asarray(inside.get_data())
    assert lengths[:3].tolist() == [1, 3, 5]
    assert shares[-1] == pytest.approx(100)
    assert shares[lengths == 33] == pytest.approx(100 * gaussian()[14:47, 24:57].sum() / gaussian().sum())
    assert [mark.get_xdata() for mark in marks] == [[41, 41], [35, 35], [20, 20]]
    text = words(saved[-1])
    assert all(said in text for said in ("theory: 41 x 41 px", "95 % of the gradient: 35 px", "above 4.55 %: 20 px"))
    assert has(read(tmp_path / "map.png"), VERMILLION)
    assert has(read(tmp_path / "map.png"), BLUE)
    assert_readable(saved[-1])


@pytest.mark.parametrize("shape", [(40, 400), (400, 40), (7, 7)])
def test_maps_of_any_shape_fit(tmp_path: Path, saved: list[Figure], shape: tuple[int, int]) -> None:
    box = (-30, 3), (-100, 900)
    effective_map(np.ones(shape), box, [], tmp_path / "map.png", "title " * 40, "rule")
    assert_readable(saved[-1])
    axes = saved[-1].axes[0]
    height, width = axes.bbox.height, axes.bbox.width
    assert height / width == pytest.approx(shape[0] / shape[1])
    assert axes.get_xlim() == (-0.5, shape[1] - 0.5), "a box that leaves the image does not widen the map"


def test_a_unit_that_is_never_active_has_an_empty_map(tmp_path: Path, saved: list[Figure]) -> None:
    effective_map(np.zeros((30, 30)), ((0, 9), (0, 9)), [("area", 0.0)], tmp_path / "map.png")
    assert_readable(saved[-1])
