from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.predictions import (
    ERROR,
    FALSE_ALARM,
    PredictionRow,
    class_error_map,
    colourise,
    dimmed,
    error_map,
    predictions,
)
from fcn_core.settings import VOID, Classes
from tests.figures.looking import Pixels, assert_readable, read, words

CLASSES = Classes(names=("_background_", "$a$ road", "sky"), colours=((10, 20, 30), (128, 64, 128), (70, 130, 180)))


def row(height: int = 96, width: int = 128, name: str = "street") -> PredictionRow:
    rng = np.random.default_rng(height * width)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    truth = np.full((height, width), 1, np.uint8)
    truth[: height // 2] = 2
    truth[-3:] = VOID
    prediction = np.roll(truth, 5, axis=0)
    prediction[prediction == VOID] = 0
    return PredictionRow(name, image, truth, prediction, "pixel accuracy 0.900")


def enlarged(panel: Pixels, factor: int) -> Pixels:
    return panel.repeat(factor, axis=0).repeat(factor, axis=1)


def shows(sheet: Pixels, panel: Pixels, left: int) -> bool:
    height, width = panel.shape[:2]
    strip = sheet[:, left : left + width]
    return any(np.array_equal(strip[top : top + height], panel) for top in range(len(sheet) - height + 1))


def test_colourise_looks_up_each_label_and_draws_void_black() -> None:
    mask = np.array([[0, 1], [2, VOID]], np.uint8)
    expected = [[[10, 20, 30], [128, 64, 128]], [[70, 130, 180], [0, 0, 0]]]
    assert colourise(mask, CLASSES).tolist() == expected
    assert colourise(mask, CLASSES).dtype == np.uint8


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="label 3 is neither void"):
        colourise(np.array([[0, 3]], np.uint8), CLASSES)


def test_the_error_colour_is_on_wrong_labelled_pixels_and_nowhere_else() -> None:
    image = np.full((2, 3, 3), 255, np.uint8)
    image[0, 0] = ERROR
    truth = np.array([[1, 1, VOID], [2, 2, VOID]], np.uint8)
    prediction = np.array([[1, 0, 0], [2, VOID, VOID]], np.uint8)
    errors = error_map(image, truth, prediction)
    assert (errors == ERROR).all(axis=-1).tolist() == [[False, True, False], [False, True, False]]
    rest = errors[~(errors == ERROR).all(axis=-1)]
    assert (rest == rest[:, :1]).all(), "the rest is grey"


def test_a_sheet_shows_all_four_panels_pixel_for_pixel(tmp_path: Path) -> None:
    one = row()
    predictions([one], CLASSES, tmp_path / "sheet.png", title="a $title$")
    sheet = read(tmp_path / "sheet.png")
    panels = [enlarged(panel, 3) for panel in one[1:4]]  # 3 x 128 = 384 pixels
    unit = 384 / 188
    assert shows(sheet, panels[0], round(12 * unit))
    assert shows(sheet, colourise(panels[1], CLASSES), round(208 * unit))
    assert shows(sheet, colourise(panels[2], CLASSES), round(404 * unit))
    assert shows(sheet, error_map(*panels), round(600 * unit))


@pytest.mark.parametrize(("height", "width"), [(1024, 2048), (2048, 1024), (40, 7), (3, 900), (1, 1)])
def test_any_size_gives_a_sheet_of_moderate_size(tmp_path: Path, height: int, width: int) -> None:
    predictions([row(height, width)], CLASSES, tmp_path / "sheet.png")
    assert read(tmp_path / "sheet.png").shape[1] in range(800, 1640)
    assert (tmp_path / "sheet.png").stat().st_size < 1_000_000


def test_shapes_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    odd = row(name="second")._replace(prediction=np.zeros((96, 127), np.uint8))
    with pytest.raises(ValueError, match=r"second: .*prediction \(96, 127\)"):
        predictions([row(), odd], CLASSES, tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="at least one row"):
        predictions([], CLASSES, tmp_path / "sheet.png")


def test_threads_draw_the_same_bytes(tmp_path: Path) -> None:
    def draw(index: int) -> bytes:
        path = tmp_path / f"{index}.png"
        predictions([row(), row(64, 32)], CLASSES, path, highlight=1)
        return path.read_bytes()

    with ThreadPoolExecutor(3) as threads:
        assert len({draw(0), *threads.map(draw, range(1, 4))}) == 1


def test_misses_and_false_alarms_of_a_class_differ_and_other_errors_are_not_painted() -> None:
    image = np.full((2, 3, 3), 255, np.uint8)
    truth = np.array([[1, 1, VOID], [2, 2, 0]], np.uint8)
    prediction = np.array([[1, 0, 1], [1, VOID, 2]], np.uint8)
    errors = class_error_map(image, truth, prediction, 1)
    assert (errors == ERROR).all(axis=-1).tolist() == [[False, True, False], [False, False, False]]
    assert (errors == FALSE_ALARM).all(axis=-1).tolist() == [[False, False, False], [True, False, False]]


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 0, 0), (128, 128, 128), (192, 192, 128), (255, 255, 255)])
def test_the_highlighted_class_keeps_its_colour_and_stands_out(colour: tuple[int, int, int]) -> None:
    others = ((0, 0, 0), (128, 64, 128), (70, 130, 180), (255, 255, 255))
    shades = dimmed(Classes(names=("it", "a", "b", "c", "d"), colours=(colour, *others)), 0).colours
    assert shades[0] == colour
    assert len(set(shades[1:])) == 4, "the others can still be told apart"
    for shade in shades[1:]:
        assert max(shade) - min(shade) < 30, "grey"
        assert np.abs(np.subtract(shade, colour)).max() > 40, "far from the highlighted class"


def test_a_sheet_of_one_class_dims_the_others_and_says_what_the_colours_mean(
    tmp_path: Path, saved: list[Figure]
) -> None:
    one = row()
    predictions([one], CLASSES, tmp_path / "sheet.png", highlight=1)
    sheet = read(tmp_path / "sheet.png")
    panels = [enlarged(panel, 3) for panel in one[1:4]]
    unit = 384 / 188
    assert shows(sheet, colourise(panels[1], dimmed(CLASSES, 1)), round(208 * unit))
    assert shows(sheet, class_error_map(panels[0], panels[1], panels[2], 1), round(600 * unit))
    assert "road: missed" in words(saved[-1])
    assert "road: false alarm" in words(saved[-1])
    assert_readable(saved[-1])


def test_a_class_that_is_not_there_cannot_be_highlighted(tmp_path: Path) -> None:
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"highlight {label} is none of the 3 classes"):
            predictions([row()], CLASSES, tmp_path / "sheet.png", highlight=label)


def test_a_key_of_21_classes_is_readable(tmp_path: Path, saved: list[Figure]) -> None:
    names = tuple(f"class {index} with a longer name" for index in range(21))
    many = Classes(names=names, colours=((0, 0, 0),) * 21)
    labels = np.arange(21, dtype=np.uint8).repeat(21).reshape(21, 21)
    sheet = PredictionRow("all", np.zeros((21, 21, 3), np.uint8), labels, labels.T.copy())
    predictions([sheet], many, tmp_path / "sheet.png", title="21 classes", highlight=20)
    assert_readable(saved[-1])
