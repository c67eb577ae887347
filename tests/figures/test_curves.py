import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.curves import CurvePoint, curves
from tests.figures.looking import assert_readable, read, texts, words

RUN = [CurvePoint(1, 0.2, 1.5), CurvePoint(2, 0.4, 0.9), CurvePoint(3, 0.35, 0.7)]
RULE = "11 classes, void excluded, accumulated over the set, at each image's own size, classes absent left out"


def repeat(scores: Sequence[float], first: int = 1) -> list[CurvePoint]:
    return [CurvePoint(epoch, score, 1 - score) for epoch, score in enumerate(scores, first)]


def thick(figure: Figure, axes: int = 0) -> list[list[list[float]]]:
    return [line.get_xydata().tolist() for line in figure.axes[axes].lines if line.get_linewidth() == 1.8]  # type: ignore[union-attr]


def values(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.axes[0].texts if text.get_visible()}


def test_threads_draw_the_same_bytes(tmp_path: Path) -> None:
    def draw(index: int) -> bytes:
        path = tmp_path / f"{index}.png"
        curves({"FCN-32s": [RUN, RUN[1:]], "FCN-8s": [RUN[:2]]}, path, rule="over all labelled pixels")
        return path.read_bytes()

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
def test_short_and_unmeasured_runs_are_drawn(tmp_path: Path, saved: list[Figure], points: list[CurvePoint]) -> None:
    curves({"_run $1$": [points], "twice": [points, points], "never": []}, tmp_path / "curves.png")
    assert read(tmp_path / "curves.png").shape[1] == 1600
    assert "_run \\$1\\$: " in words(saved[-1])
    assert_readable(saved[-1])


@pytest.mark.parametrize(("factor", "unit"), [(1e-4, "1e\N{MINUS SIGN}4"), (1e5, "1e5")])
def test_losses_of_any_size_are_readable(tmp_path: Path, saved: list[Figure], factor: float, unit: str) -> None:
    run = [point._replace(train_loss=factor * point.train_loss) for point in RUN]
    curves({"run": [run]}, tmp_path / "curves.png")
    assert unit in words(saved[-1]).splitlines()
    assert_readable(saved[-1])


def test_the_key_of_many_runs_has_more_rows(tmp_path: Path) -> None:
    curves({"run": [RUN]}, tmp_path / "one.png")
    curves({f"run {index}": [RUN] for index in range(25)}, tmp_path / "many.png")
    assert len(read(tmp_path / "many.png")) > len(read(tmp_path / "one.png"))


def test_ten_runs_with_long_names_are_readable(tmp_path: Path, saved: list[Figure]) -> None:
    name = "fcn{}s-on-a-data-set-with-a-long-name-and-a-learning-rate-of-1e-{}"
    steps = np.linspace(0.2, 0.9, 30)
    runs = {name.format(index, index): [repeat((steps**0.5 - index / 90).tolist())] for index in range(10)}
    curves({**runs, "endless " * 40: [RUN, RUN]}, tmp_path / "curves.png", rule=RULE)
    assert_readable(saved[-1])
    for index in range(10):
        assert f"{name.format(index, index)}: best" in words(saved[-1])


def test_a_value_is_written_only_where_no_other_ring_is_nearer(tmp_path: Path, saved: list[Figure]) -> None:
    close = {f"run {index}": [repeat([0.2, 0.5 + index / 100])] for index in range(8)}
    curves({**close, "far": [repeat([0.2, 0.3])]}, tmp_path / "curves.png")
    assert {"0.570", "0.300"} <= values(saved[-1])
    where = {text: box for text, box in texts(saved[-1]) if text in values(saved[-1])}
    axes = saved[-1].axes[0]
    rings = {f"{score:.3f}": axes.transData.transform((2, score)) for score in [0.3, *(0.5 + np.arange(8) / 100)]}
    for text, box in where.items():
        away = {value: math.dist(ring, (box.p0 + box.p1) / 2) for value, ring in rings.items()}
        assert away[text] <= min(away.values()) + 1, (
            f"{text} is nearer to the ring of {min(away, key=away.__getitem__)}"
        )


def test_repeats_are_pooled_to_mean_and_standard_deviation(tmp_path: Path, saved: list[Figure]) -> None:
    runs = [repeat([0.1, 0.4, 0.3]), repeat([0.3, 0.6, 0.5]), repeat([0.2, 0.8, 0.1])]
    curves({"three": runs, "one": [RUN]}, tmp_path / "curves.png", rule=RULE)
    mean = thick(saved[-1])[0]
    assert np.allclose(mean, [[1, 0.2], [2, 0.6], [3, 0.3]])
    assert np.allclose(thick(saved[-1], axes=1)[0], [[1, 0.8], [2, 0.4], [3, 0.7]])
    assert "three: best 0.600 ± 0.200 at epoch 2, 3 runs" in words(saved[-1])
    assert "one: best 0.400 at epoch 2" in words(saved[-1]).splitlines()
    assert {"0.600", "0.400"} == values(saved[-1])
    band = saved[-1].axes[0].collections[0].get_paths()[0].vertices
    assert np.asarray(band)[:, 1].max() == pytest.approx(0.8)
    thin = [np.asarray(line.get_xydata()) for line in saved[-1].axes[0].lines if line.get_linewidth() < 1]
    assert np.allclose(thin, [[point[:2] for point in run] for run in runs])
    assert "one standard deviation (n-1) either way" in words(saved[-1]).replace("\n", " ")
    assert_readable(saved[-1])


def test_the_mean_is_over_epochs_that_all_repeats_measured(tmp_path: Path, saved: list[Figure]) -> None:
    gap = [CurvePoint(1, 0.3, 1.0), CurvePoint(2, math.nan, 1.0), CurvePoint(3, 0.5, 1.0)]
    curves({"two": [repeat([0.1, 0.9, 0.3, 0.9]), gap]}, tmp_path / "curves.png")
    assert np.allclose(thick(saved[-1])[0], [[1, 0.2], [3, 0.4]])
    assert "two: best 0.400 ± 0.141 at epoch 3, 2 runs" in words(saved[-1])


def test_one_run_needs_no_word_on_repeats(tmp_path: Path, saved: list[Figure]) -> None:
    curves({"one": [RUN]}, tmp_path / "curves.png", rule="over all pixels")
    assert "over all pixels" in words(saved[-1]).splitlines()
    assert not saved[-1].axes[0].collections
