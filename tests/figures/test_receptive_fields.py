from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fcn_core.figures.page import BLUE
from fcn_core.figures.receptive_fields import FieldRow, field_sizes
from tests.figures.looking import assert_readable, has, read, words

ROWS = [
    FieldRow("conv1", 7, 2, 7),
    FieldRow("layer4.1.conv2", 435, 32, 435),
    FieldRow("upscore2 " * 20, 467, 0.5, 435),
    FieldRow("avgpool", 224, 0, 224),
]


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
