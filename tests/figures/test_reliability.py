from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.page import BLUE, VERMILLION
from fcn_core.figures.reliability import reliability
from tests.figures.looking import assert_readable, has, read, words

LABELS = "temperature 1: expected calibration error 12.3 %", "temperature 1.30: expected calibration error 1.2 %"


def table(pixels: int = 10**6, gap: float = 0.1) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    confidence = (np.arange(15) + 0.5) / 15
    share = np.full(15, pixels)
    return np.column_stack([share, share * (confidence - gap * confidence), share * confidence * 2**24]).astype(
        np.int64
    )


def test_points_are_mean_confidence_and_accuracy_of_bins_that_have_pixels(tmp_path: Path, saved: list[Figure]) -> None:
    bins = np.zeros((15, 3), np.int64)
    bins[4] = 1000, 250, 300 * 2**24
    bins[14] = 3000, 1500, 2940 * 2**24
    reliability(bins, None, tmp_path / "one.png", LABELS)
    upper, lower = saved[-1].axes
    assert upper.lines[1].get_xydata().tolist() == [[0.3, 0.25], [0.98, 0.5]]  # type: ignore[union-attr]
    gaps = [path.vertices.tolist() for path in upper.collections[0].get_paths()]  # type: ignore[union-attr]
    assert gaps == [[[0.3, 0.3], [0.3, 0.25]], [[0.98, 0.98], [0.98, 0.5]]], "from the diagonal to the accuracy"
    bars = [(bar.get_x(), bar.get_height()) for bar in lower.patches if bar.get_height()]  # type: ignore[attr-defined]
    assert [height for _, height in bars] == [25, 75]
    assert [int(x * 15) for x, _ in bars] == [4, 14]


def test_before_and_after_have_their_own_colours_and_labels(tmp_path: Path, saved: list[Figure]) -> None:
    reliability(table(), None, tmp_path / "one.png", LABELS, "one", "a rule")
    one = read(tmp_path / "one.png")
    assert has(one, VERMILLION)
    assert not has(one, BLUE)
    assert LABELS[1] not in words(saved[-1])
    reliability(table(), table(gap=0.01), tmp_path / "two.png", LABELS, "two", "a rule")
    assert has(read(tmp_path / "two.png"), BLUE)
    assert set(LABELS) <= set(words(saved[-1]).splitlines())
    assert_readable(saved[-1])


def test_bins_with_few_pixels_are_hollow(tmp_path: Path, saved: list[Figure]) -> None:
    bins = table()
    bins[2] = 100, 90, 17 * 2**24
    reliability(bins, None, tmp_path / "few.png", LABELS)
    hollow = [line for line in saved[-1].axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[0.17, 0.9]]]  # type: ignore[union-attr]


def test_bins_without_pixels_are_drawn(tmp_path: Path, saved: list[Figure]) -> None:
    empty = np.zeros((15, 3), np.int64)
    reliability(empty, empty, tmp_path / "empty.png", ("endless " * 40, "$label$"))
    assert read(tmp_path / "empty.png").shape[1] == 1600
    assert_readable(saved[-1])


@pytest.mark.parametrize("other", [(15, 2), (14, 3), (3, 15), (15,)])
def test_tables_of_other_shapes_are_refused(tmp_path: Path, other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"bins are \(B, 3\), equally many before and after"):
        reliability(table(), np.zeros(other, np.int64), tmp_path / "wrong.png", LABELS)
