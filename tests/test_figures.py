import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_core.figures import ERROR, CurvePoint, Pixels, PredictionRow, colourise, curves, error_map, predictions
from fcn_core.settings import VOID, Classes

CLASSES = Classes(names=("_background_", "$a$ road", "sky"), colours=((10, 20, 30), (128, 64, 128), (70, 130, 180)))
RUN = [CurvePoint(1, 0.2, 1.5), CurvePoint(2, 0.4, 0.9), CurvePoint(3, 0.35, 0.7)]


def row(height: int = 96, width: int = 128, name: str = "street") -> PredictionRow:
    rng = np.random.default_rng(height * width)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    truth = np.full((height, width), 1, np.uint8)
    truth[: height // 2] = 2
    truth[-3:] = VOID
    prediction = np.roll(truth, 5, axis=0)
    prediction[prediction == VOID] = 0
    return PredictionRow(name, image, truth, prediction, "pixel accuracy 0.900")


def read(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


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
        curves({"FCN-32s": RUN, "FCN-8s": RUN[:2]}, path, rule="over all labelled pixels")
        one = path.read_bytes()
        predictions([row(), row(64, 32)], CLASSES, path)
        return one + path.read_bytes()

    with ThreadPoolExecutor(3) as threads:
        assert len({draw(0), *threads.map(draw, range(1, 4))}) == 1


@pytest.mark.parametrize(
    "points",
    [
        [],
        RUN[:1],
        [CurvePoint(1, math.nan, math.inf)],
        [CurvePoint(1, math.nan, 1.0), *RUN[1:], CurvePoint(4, math.nan, math.nan)],
    ],
)
def test_short_and_unmeasured_runs_are_drawn(tmp_path: Path, points: list[CurvePoint]) -> None:
    curves({"_run $1$": points}, tmp_path / "curves.png")
    curves({"_run $1$": points, **{f"run {index}": RUN for index in range(24)}}, tmp_path / "many.png")
    assert read(tmp_path / "curves.png").shape[1] == 1600
    assert len(read(tmp_path / "many.png")) > len(read(tmp_path / "curves.png")), "the key has more rows"
