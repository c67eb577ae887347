from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.confusion import confusion_matrix
from fcn_core.settings import Classes
from tests.figures.looking import Pixels, assert_readable, read, texts, words

VOC = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"]
VOC += ["diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]
LONG = [f"{index} a name much longer than anybody would give to a class" for index in range(21)]


def classes(names: list[str]) -> Classes:
    return Classes(names=tuple(names), colours=((0, 0, 0),) * len(names))


def some(num: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.random.default_rng(num).integers(1, 10**6, (num + 1, num)) + 10**8 * np.eye(num + 1, num, dtype=np.int64)


def cells(figure: Figure, picture: Pixels, num: int) -> Pixels:
    """Return the colour of each cell, (C, C, 3), at a place where no number is."""
    box = figure.axes[0].bbox
    x = box.x0 + box.width * (np.arange(num) + 0.08) / num
    y = len(picture) - box.y1 + box.height * (np.arange(num) + 0.15) / num
    return np.asarray(picture[y.astype(int)[:, None], x.astype(int)])


@pytest.mark.parametrize("names", [["only"], VOC[:3], ["_background_", "$a$ road"], VOC[:11], VOC, LONG, LONG[:2]])
def test_any_number_of_classes_is_readable(tmp_path: Path, saved: list[Figure], names: list[str]) -> None:
    rule = f"{len(names)} classes, void excluded, accumulated over the set, at each image's own size, absent left out"
    confusion_matrix(some(len(names)), classes(names), tmp_path / "matrix.png", "a title that is long " * 9, rule)
    assert_readable(saved[-1])
    shown = words(saved[-1]).splitlines()
    assert all(shown.count(name) == 2 for name in names if name not in LONG)


def test_every_number_of_21_classes_is_written(tmp_path: Path, saved: list[Figure]) -> None:
    confusion_matrix(np.ones((22, 21), np.int64), classes(VOC), tmp_path / "matrix.png")
    assert words(saved[-1]).splitlines().count("5") == 441, "1 / 21 is 5 %"


def test_more_classes_than_names_fit_are_drawn(tmp_path: Path, saved: list[Figure]) -> None:
    confusion_matrix(some(150), classes([f"class {index}" for index in range(150)]), tmp_path / "matrix.png")
    assert_readable(saved[-1])


def test_rows_are_the_truth_and_shares_are_of_it(tmp_path: Path, saved: list[Figure]) -> None:
    matrix = np.array([[0, 0, 600], [100, 300, 0], [0, 0, 0], [7, 7, 7]])
    confusion_matrix(matrix, classes(VOC[:3]), tmp_path / "matrix.png")
    colours = cells(saved[-1], read(tmp_path / "matrix.png"), 3).astype(int)
    blue = colours[..., 2] - colours[..., 0]
    assert (colours[0, 2] < (20, 60, 120)).all(), "100 % is dark blue"
    assert blue[1, 1] > blue[1, 0] > 20 > blue[0, 0]
    assert (colours[2] == 255).all(), "a class without a pixel is blank"
    lines = words(saved[-1]).splitlines()
    assert [lines.count(number) for number in ("100.0", "75.0", "25.0", "60.0", "40.0")] == [1, 1, 1, 1, 1]
    assert lines.count("0.0") == 1, "zeros are written on the diagonal only, and not where there is no pixel"
    assert lines.count("-") == 4, "three cells and the frequency"


def test_the_caption_says_how_much_void_is_left_out(tmp_path: Path, saved: list[Figure]) -> None:
    matrix = np.array([[90, 0], [0, 0], [5, 5]])
    confusion_matrix(matrix, classes(VOC[:2]), tmp_path / "matrix.png", rule="over two images")
    caption = words(saved[-1]).replace("\n", " ")
    assert "Void, 10.0 % of all pixels, is left out. over two images" in caption
    assert "100.0" in words(saved[-1]).splitlines(), "frequencies are of labelled pixels"
    confusion_matrix(matrix * [[1], [1], [0]], classes(VOC[:2]), tmp_path / "matrix.png")
    assert "Void" not in words(saved[-1])


def test_a_rare_class_is_not_said_to_be_absent(tmp_path: Path, saved: list[Figure]) -> None:
    confusion_matrix(np.array([[10**6, 0], [0, 3], [0, 0]]), classes(VOC[:2]), tmp_path / "matrix.png")
    assert "<0.1" in words(saved[-1]).splitlines()


def test_an_empty_matrix_is_drawn(tmp_path: Path, saved: list[Figure]) -> None:
    confusion_matrix(np.zeros((4, 3), np.int64), classes(VOC[:3]), tmp_path / "matrix.png")
    assert words(saved[-1]).splitlines().count("-") == 12
    assert_readable(saved[-1])


def test_names_stand_at_their_rows_and_columns(tmp_path: Path, saved: list[Figure]) -> None:
    confusion_matrix(some(3), classes(VOC[:3]), tmp_path / "matrix.png")
    grid = saved[-1].axes[0].bbox
    for index, name in enumerate(VOC[:3]):
        across = {round(box.x0 + box.width / 2) for text, box in texts(saved[-1]) if text == name and box.y0 > grid.y1}
        down = {round(box.y0 + box.height / 2) for text, box in texts(saved[-1]) if text == name and box.x1 < grid.x0}
        assert across.pop() == pytest.approx(grid.x0 + grid.width * (index + 0.5) / 3, abs=2)
        assert down.pop() == pytest.approx(grid.y1 - grid.height * (index + 0.5) / 3, abs=6)


@pytest.mark.parametrize("shape", [(3, 3), (4, 4), (3, 4), (4, 2), (12,)])
def test_a_matrix_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"matrix of 3 classes is \(4, 3\), void last"):
        confusion_matrix(np.zeros(shape, np.int64), classes(VOC[:3]), tmp_path / "matrix.png")
