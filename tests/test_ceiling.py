from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fcn_core.ceiling import best_through_grid, through_grid
from fcn_core.data.files import FileDataset, camvid
from fcn_core.data.streets import CLASSES, StreetScenes
from fcn_core.settings import VOID, Streets

Masks = NDArray[np.uint8]
Through = Callable[[Masks, int, int], Masks]
CAMVID_FOLDER = Path(__file__).parents[2] / "shared/data/camvid"
SCENES = [StreetScenes(Streets(), "val").read(index).mask for index in range(8)]
needs_camvid = pytest.mark.skipif(
    not CAMVID_FOLDER.is_dir(),
    reason="no CamVid in shared/data/camvid beside this checkout: nothing is checked against real data",
)


def directly(mask: Masks, stride: int, num_classes: int) -> Masks:
    """Count the pixels of each class in each cell and interpolate between the middles of cells; all of it is exact."""
    cells = np.zeros((num_classes, -(-mask.shape[0] // stride), -(-mask.shape[1] // stride)))
    ys, xs = np.nonzero(mask != VOID)
    np.add.at(cells, (mask[ys, xs], ys // stride, xs // stride), 1)
    for axis, side in enumerate(mask.shape, start=1):
        cells = np.apply_along_axis(interpolated, axis, cells, side, stride)
    return cells.argmax(0).astype(np.uint8)  # type: ignore[no-any-return]


def interpolated(line: NDArray[np.float64], side: int, stride: int) -> NDArray[np.float64]:
    return np.interp((np.arange(side) + 0.5) / stride - 0.5, np.arange(len(line)), line)


def counted(predicted: Masks, truth: Masks, num_classes: int) -> NDArray[np.int64]:
    labelled = truth != VOID
    cells = truth[labelled].astype(int) * num_classes + predicted[labelled]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def percent(matrices: Iterable[NDArray[np.int64]]) -> float:
    """Return the mean IoU in %, accumulated over the set."""
    matrix = np.sum(list(matrices), axis=0)
    hits, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return float(100 * (hits[union > 0] / union[union > 0]).mean())


@pytest.fixture(scope="module")
def val() -> list[Masks]:
    return masks(camvid(str(CAMVID_FOLDER), "val"), every=1)


def masks(dataset: FileDataset, every: int) -> list[Masks]:
    return [dataset.read(index).mask for index in range(0, len(dataset.names), every)]


@needs_camvid
@pytest.mark.parametrize(("stride", "expected"), [(32, 62.85), (16, 75.27), (8, 84.97)])
def test_the_ceilings_of_camvid_val(val: list[Masks], stride: int, expected: float) -> None:
    found = [through_grid(mask, stride, 11) for mask in val]
    assert percent(map(counted, found, val, [11] * len(val))) == pytest.approx(expected, abs=0.005)
    for mask, ours in zip(val[::10], found[::10], strict=True):
        assert np.array_equal(ours, directly(mask, stride, 11))


@needs_camvid
@pytest.mark.parametrize("stride", [32, 16, 8, 4])
def test_a_direct_computation_gives_the_same_on_camvid_train(stride: int) -> None:
    for mask in masks(camvid(str(CAMVID_FOLDER), "train"), every=32):
        assert np.array_equal(through_grid(mask, stride, 11), directly(mask, stride, 11))


@needs_camvid
def test_scores_on_the_grid_can_do_much_better_than_averages(val: list[Masks]) -> None:
    some = val[::50]
    averaged = percent(counted(through_grid(mask, 32, 11), mask, 11) for mask in some)
    best = percent(counted(best_through_grid(mask, 32, 11), mask, 11) for mask in some)
    assert averaged == pytest.approx(61.05, abs=0.01)
    assert best == pytest.approx(78.9, abs=1.0)


MASKS = arrays.array_shapes(min_dims=2, max_dims=2, max_side=11).flatmap(
    lambda shape: arrays.arrays(np.uint8, shape, elements=st.integers(0, 3) | st.just(VOID))
)


@given(MASKS, st.sampled_from([1, 2, 4, 8, 32]))
@settings(deadline=None)
def test_a_direct_computation_gives_the_same_at_any_size(mask: Masks, stride: int) -> None:
    assert np.array_equal(through_grid(mask, stride, 4), directly(mask, stride, 4))


@given(MASKS, st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_both_take_any_size_and_return_no_void_and_no_class_that_is_not_there(mask: Masks, stride: int) -> None:
    present = set(np.unique(mask)) - {VOID} or {0}
    for found in (through_grid(mask, stride, 4), best_through_grid(mask, stride, 4)):
        assert found.shape == mask.shape
        assert found.dtype == np.uint8
        assert set(np.unique(found)) <= present | {0}
    assert set(np.unique(best_through_grid(mask, stride, 4))) <= present


@pytest.mark.parametrize("through", [through_grid, best_through_grid])
def test_at_stride_1_the_truth_comes_back(through: Through) -> None:
    for mask in SCENES[:2]:
        assert (through(mask, 1, len(CLASSES)) == mask)[mask != VOID].all()


def test_units_lie_in_the_middle_of_cells() -> None:
    mask = np.array([[0] * 8 + [1] * 8], np.uint8).repeat(16, axis=0)
    assert np.array_equal(through_grid(mask, 4, 2), mask)
    assert np.array_equal(through_grid(mask.T, 4, 2), mask.T)


def test_averages_lose_a_narrow_stripe_that_scores_on_the_grid_can_draw() -> None:
    mask = np.zeros((16, 24), np.uint8)
    mask[:, 11:13] = 1
    assert not through_grid(mask, 8, 2).any()
    assert np.array_equal(best_through_grid(mask, 8, 2), mask)


def test_void_takes_no_part() -> None:
    mask = np.full((8, 8), VOID, np.uint8)
    mask[3, 3] = 2
    assert (through_grid(mask, 8, 3) == 2).all()
    assert (best_through_grid(mask, 8, 3) == 2).all()


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_the_best_beats_the_average_on_every_scene(stride: int) -> None:
    for mask in SCENES:
        averaged, best = (
            percent([counted(through(mask, stride, len(CLASSES)), mask, len(CLASSES))])
            for through in (through_grid, best_through_grid)
        )
        assert best > averaged + 5


def test_the_same_mask_gives_the_same_again() -> None:
    first, second = (best_through_grid(SCENES[0], 16, len(CLASSES)) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("through", [through_grid, best_through_grid])
def test_what_is_wrong_is_named(through: Through) -> None:
    with pytest.raises(ValueError, match=r"label 7 is neither void \(255\) nor one of the 3 classes from 0"):
        through(np.array([[0, 7]], np.uint8), 8, 3)
    with pytest.raises(ValueError, match="a grid has a stride from 1, not 0"):
        through(np.array([[0]], np.uint8), 0, 3)
