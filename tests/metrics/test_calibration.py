from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor
from torchmetrics.functional import classification

from fcn_core.metrics.calibration import (
    CONFIDENCE_UNIT,
    MOST_PIXELS,
    NLL_UNIT,
    NUM_BINS,
    TEMPERATURES,
    Calibration,
    calibration_counts,
    expected_calibration_error,
    fitted_temperature,
    lattice,
)
from fcn_core.settings import VOID

CLASSES = 5
UNSCALED = TEMPERATURES.index(1)


def drawn(seed: int, factor: float = 1, shape: tuple[int, int] = (70, 90)) -> tuple[Tensor, Tensor]:
    """Draw scores (C, H, W), and labels from their softmax; then multiply the scores, and void a tenth."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn((CLASSES, *shape), generator=generator)
    gumbel = -torch.empty_like(scores).exponential_(generator=generator).log()
    truth = (scores + gumbel).argmax(0).to(torch.uint8)
    truth[torch.rand(shape, generator=generator) < 0.1] = VOID
    return factor * scores, truth


def directly(scores: Tensor, truth: Tensor, temperature: float) -> tuple[float, NDArray[np.float64]]:
    """Return the negative log-likelihood and the bins (15, 3) of all labelled pixels, in float64."""
    labels = truth.flatten().numpy()
    pixels = scores.double().flatten(1).numpy()[:, labels != VOID]
    labels = labels[labels != VOID]
    logs = log_softmax(pixels / temperature, axis=0)
    confidence, correct = np.exp(logs.max(0)), logs.argmax(0) == labels
    edges = np.linspace(0, 1, NUM_BINS + 1)
    members = [(low < confidence) & (confidence <= high) for low, high in pairwise(edges)]
    bins = [[there.sum(), correct[there].sum(), confidence[there].sum()] for there in members]
    return float(-logs[labels, np.arange(len(labels))].sum()), np.array(bins)


def total(parts: list[Calibration]) -> Calibration:
    first, *others = parts
    for other in others:
        first = first.plus(other)
    return first


def same(one: Calibration, other: Calibration) -> bool:
    return torch.equal(one.nll, other.nll) and torch.equal(one.bins, other.bins)


def test_temperatures_are_a_grid_around_1() -> None:
    assert len(TEMPERATURES) == 65
    assert TEMPERATURES[UNSCALED] == 1
    assert (TEMPERATURES[0], UNSCALED, TEMPERATURES[-1]) == (0.25, 32, 4)
    assert np.diff(np.log2(TEMPERATURES)) == pytest.approx(1 / 16)


@pytest.mark.parametrize("factor", [0.2, 1, 4])
def test_counts_are_those_of_float64(factor: float) -> None:
    scores, truth = drawn(0, factor)
    counts = calibration_counts(scores, truth)
    for nll, bins, temperature in zip(counts.nll, counts.bins, TEMPERATURES, strict=True):
        their_nll, their_bins = directly(scores, truth, temperature)
        assert int(nll) * NLL_UNIT == pytest.approx(their_nll, rel=1e-6)
        # Float32 may put a pixel on the other side of an edge.
        assert bins.numpy() * [1, 1, CONFIDENCE_UNIT] == pytest.approx(their_bins, abs=1 + 1e-3)
        assert bins.sum(0).numpy() * [1, 1, CONFIDENCE_UNIT] == pytest.approx(their_bins.sum(0), abs=1e-3)


@pytest.mark.parametrize("factor", [0.3, 1, 2])
def test_the_error_is_that_of_torchmetrics(factor: float) -> None:
    scores, truth = drawn(1, factor)
    ours = expected_calibration_error(calibration_counts(scores, truth).bins[UNSCALED])
    theirs = classification.multiclass_calibration_error(
        scores.softmax(0)[None], truth[None].int(), CLASSES, n_bins=NUM_BINS, norm="l1", ignore_index=VOID
    )
    assert ours == pytest.approx(theirs.item(), abs=1e-5)
    assert ours is not None
    assert ours < 0.02 if factor == 1 else ours > 0.1


def test_the_error_by_hand() -> None:
    bins = torch.zeros(NUM_BINS, 3, dtype=torch.int64)
    bins[4] = torch.tensor([10, 5, round(10 * 0.3 / CONFIDENCE_UNIT)])
    bins[14] = torch.tensor([30, 24, round(30 * 0.95 / CONFIDENCE_UNIT)])
    assert expected_calibration_error(bins) == pytest.approx(0.25 * 0.2 + 0.75 * 0.15)
    assert expected_calibration_error(3 * bins) == pytest.approx(0.25 * 0.2 + 0.75 * 0.15)


def test_counts_by_hand() -> None:
    scores = torch.tensor([[[2.0, 2.0, 0.0, 5.0]], [[0.0, 0.0, 1.0, 5.0]]])
    counts = calibration_counts(scores, torch.tensor([[0, 1, 1, VOID]], dtype=torch.uint8))
    for nll, bins, temperature in zip(counts.nll, counts.bins, TEMPERATURES, strict=True):
        sure, less = (1 / (1 + np.exp(-gap / temperature)) for gap in (2, 1))
        assert int(nll) * NLL_UNIT == pytest.approx(-np.log([sure, 1 - sure, less]).sum(), abs=1e-5)
        expected = np.zeros((NUM_BINS, 3))
        for confidence, correct in ((sure, 1), (sure, 0), (less, 1)):
            expected[int(np.ceil(confidence * NUM_BINS)) - 1] += 1, correct, confidence
        assert bins.numpy() * [1, 1, CONFIDENCE_UNIT] == pytest.approx(expected, abs=1e-6)


def test_numbers_are_rounded_to_the_nearest_unit() -> None:
    nowhere_sure = calibration_counts(torch.zeros(3, 1, 1), torch.zeros(1, 1, dtype=torch.uint8))
    assert nowhere_sure.bins[UNSCALED, 4, 2] == 5592406  # A third is 5592405.5 units in float32.
    scores = -torch.tensor([[[0.0]], [[-np.log(0.75 * NLL_UNIT)]]])
    assert calibration_counts(scores, torch.zeros(1, 1, dtype=torch.uint8)).nll[UNSCALED] == 1


@pytest.mark.parametrize(("num_classes", "expected"), [(1, 14), (3, 4), (5, 2), (15, 0)])
def test_a_bin_includes_its_upper_edge(num_classes: int, expected: int) -> None:
    counts = calibration_counts(torch.zeros(num_classes, 2, 2), torch.zeros(2, 2, dtype=torch.uint8))
    assert counts.bins[:, :, 0].nonzero()[:, 1].tolist() == [expected] * len(TEMPERATURES)
    pixels, correct, confidence = counts.bins[UNSCALED, expected].tolist()
    assert (pixels, correct, confidence * CONFIDENCE_UNIT) == (4, 4, pytest.approx(4 / num_classes, abs=1e-6))


@pytest.mark.parametrize("steps", [-24, -8, 0, 5, 16, 27])
def test_the_temperature_that_made_scores_too_sure_is_found(steps: int) -> None:
    # A mean over 15,000 pixels lets the temperature vary by about 1 %, a fourth of a step.
    factor = 2 ** (steps / 16)
    counts = total([calibration_counts(*drawn(seed, factor)) for seed in range(3)])
    found = fitted_temperature(counts.nll)
    assert abs(found - UNSCALED - steps) <= 1
    before, after = (expected_calibration_error(counts.bins[index]) for index in (UNSCALED, found))
    assert before is not None
    assert after is not None
    assert after < 0.02
    assert abs(steps) <= 5 or before > 3 * after


def test_a_temperature_beyond_the_grid_is_its_end() -> None:
    assert fitted_temperature(calibration_counts(*drawn(2, factor=16)).nll) == 64
    assert fitted_temperature(calibration_counts(*drawn(2, factor=1 / 16)).nll) == 0
    assert fitted_temperature(torch.tensor([3, 1, 2, 1])) == 1


def test_counts_of_images_add_up_to_those_of_the_whole() -> None:
    images = [drawn(seed, shape=(20 + seed, 30)) for seed in range(4)]
    counts = [calibration_counts(*image) for image in images]
    whole = calibration_counts(*(torch.cat(parts, -2) for parts in zip(*images, strict=True)))
    assert same(total(counts), whole)
    assert same(total(counts[::-1]), whole)
    assert {part.dtype for each in counts for part in each} == {torch.int64}
    assert (whole.nll.shape, whole.bins.shape) == ((65,), (65, NUM_BINS, 3))


def test_accuracy_does_not_depend_on_the_temperature() -> None:
    scores, truth = drawn(3)
    pixels, correct, _ = calibration_counts(scores, truth).bins.sum(1).T
    assert pixels.tolist() == [int((truth != VOID).sum())] * 65
    assert correct.tolist() == [int((scores.argmax(0) == truth).sum())] * 65


def test_void_pixels_are_not_counted() -> None:
    scores, truth = drawn(4)
    others = scores.where(truth != VOID, 7 - scores)
    assert same(calibration_counts(others, truth), calibration_counts(scores, truth))
    nothing = calibration_counts(scores, torch.full_like(truth, VOID))
    assert not nothing.nll.any()
    assert not nothing.bins.any()
    assert expected_calibration_error(nothing.bins[UNSCALED]) is None


def test_log_probabilities_count_as_their_scores() -> None:
    scores, truth = drawn(5)
    one, other = calibration_counts(scores, truth), calibration_counts(scores.log_softmax(0), truth)
    assert (one.nll - other.nll).abs().max() * NLL_UNIT < 1e-2
    assert (one.bins - other.bins)[:, :, :2].abs().max() <= 1


def test_counts_do_not_depend_on_threads() -> None:
    image = drawn(6, shape=(121, 133))
    alone = calibration_counts(*image)
    try:
        torch.set_num_threads(2)
        together = calibration_counts(*image)
    finally:
        torch.set_num_threads(1)
    assert same(alone, together)


def test_a_class_ruled_out_makes_no_sum_infinite() -> None:
    scores = torch.tensor([[[0.0, 0.0]], [[-torch.inf, -torch.inf]]])
    counts = calibration_counts(scores, torch.tensor([[0, 1]], dtype=torch.uint8))
    assert counts.nll[UNSCALED] * NLL_UNIT == 1024
    assert counts.bins[:, -1].tolist() == [[2, 1, round(2 / CONFIDENCE_UNIT)]] * 65


def test_a_large_image_is_measured_on_its_lattice() -> None:
    scores, truth = drawn(7, shape=(200, 301))
    rows, columns = lattice(200, 301)
    assert (rows, columns) == (slice(0, None, 2), slice(0, None, 2))
    part = scores[:, rows, columns], truth[rows, columns]
    assert part[1].numel() == 100 * 151
    assert same(calibration_counts(scores, truth), calibration_counts(*part))


@pytest.mark.parametrize("shape", [(1, 1), (128, 128), (128, 129), (360, 480), (1024, 2048), (3, 10**6), (10**6, 1)])
def test_the_lattice_is_as_dense_as_allowed_and_in_the_middle(shape: tuple[int, int]) -> None:
    points = [range(length)[part] for length, part in zip(shape, lattice(*shape), strict=True)]
    steps = {each.step for each in points}
    assert len(steps) == 1
    assert 1 <= len(points[0]) * len(points[1]) <= MOST_PIXELS
    finer = steps.pop() - 1
    assert finer == 0 or np.prod([-(-length // finer) for length in shape]) > MOST_PIXELS
    for length, each in zip(shape, points, strict=True):
        assert 0 <= length - 1 - each[-1] - each[0] <= 1


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores of shape \(2, 3, 4\) but truth of shape \(4, 3\)"):
        calibration_counts(torch.zeros(2, 3, 4), torch.zeros(4, 3, dtype=torch.uint8))
