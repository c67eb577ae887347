import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from sklearn import metrics as sklearn
from torch import Tensor

from fcn_core.metrics.precision import BINS, RANGE, average_precision, log_odds, precision_recall, score_counts
from fcn_core.settings import VOID

CLASSES = 4
STEP = 2 * RANGE / BINS


def drawn(seed: int, sharpness: float = 3) -> tuple[Tensor, Tensor]:
    """Draw scores (C, 40, 50) that tell something of the truth, a tenth of which is void."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(CLASSES, (40, 50), generator=generator, dtype=torch.uint8)
    scores = torch.randn((CLASSES, 40, 50), generator=generator)
    scores += torch.nn.functional.one_hot(truth.long(), CLASSES).permute(2, 0, 1)
    truth[torch.rand((40, 50), generator=generator) < 0.1] = VOID
    return sharpness * scores, truth


def log_odds64(scores: Tensor) -> NDArray[np.float64]:
    """Return log-odds (C, ...) in float64, by their definition: each score against the sum of the others."""
    exact = scores.double().numpy()
    return np.stack([one - logsumexp(np.delete(exact, label, 0), 0) for label, one in enumerate(exact)])


@pytest.mark.parametrize("sharpness", [0.1, 1, 5])
def test_log_odds_are_those_of_float64_also_near_probabilities_of_0_and_1(sharpness: float) -> None:
    scores, _ = drawn(0, sharpness)
    assert log_odds(scores).numpy() == pytest.approx(log_odds64(scores), abs=1e-5)
    sure = torch.tensor([[15.5, 0.0], [-15.5, 0.0], [0.0, 0.0]]).T
    assert log_odds(sure)[0].tolist() == [15.5, -15.5, 0]


def test_log_probabilities_have_the_log_odds_of_their_scores() -> None:
    scores, _ = drawn(1)
    assert log_odds(scores.log_softmax(0)).numpy() == pytest.approx(log_odds(scores).numpy(), abs=1e-4)


def test_log_odds_do_not_depend_on_where_a_pixel_lies() -> None:
    scores = torch.randn((11, 5003), generator=torch.Generator().manual_seed(0))
    whole = log_odds(scores)
    assert all(torch.equal(log_odds(scores[:, start:]), whole[:, start:]) for start in (1, 3, 4990, 5000))


def test_each_pixel_is_in_the_bin_of_its_log_odds() -> None:
    scores, truth = drawn(2, sharpness=6)
    expected = log_odds64(scores)
    for row, column in np.ndindex(6, 50):
        here = slice(row, row + 1), slice(column, column + 1)
        label = int(truth[row, column])
        counts = score_counts(scores[:, *here], truth[here])
        assert counts.shape == (CLASSES, BINS, 2)
        if label == VOID:
            assert not counts.any()
            continue
        classes, bins, of_class = counts.nonzero().T.tolist()
        assert counts.sum() == CLASSES
        assert classes == list(range(CLASSES))
        assert of_class == [each == label for each in classes]
        lower = np.array(bins) * STEP - RANGE
        inside = np.clip(expected[:, row, column], -RANGE, RANGE - STEP)
        assert np.all(lower <= inside + 1e-5)
        assert np.all(inside < lower + STEP + 1e-5)


def test_average_precision_is_that_of_scikit_learn() -> None:
    scores, truth = drawn(3)
    counts = score_counts(scores, truth)
    for label, ours in enumerate(average_precision(counts)):
        bins, of_class = counts[label].nonzero().T
        times = counts[label, bins, of_class]
        theirs = sklearn.average_precision_score(of_class, bins, sample_weight=times)
        assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(("sharpness", "most"), [(0.1, 7e-3), (1, 7e-4), (3, 3e-4), (5, 7e-4)])
def test_bins_lower_average_precision_by_little(sharpness: float, most: float) -> None:
    pairs = [drawn(seed, sharpness) for seed in range(5)]
    counts = torch.stack([score_counts(*pair) for pair in pairs]).sum(0)
    scores = np.concatenate([log_softmax(scores.double().numpy(), 0).reshape(CLASSES, -1) for scores, _ in pairs], 1)
    truth = np.concatenate([truth.flatten().numpy() for _, truth in pairs])
    labelled = truth != VOID
    for label, ours in enumerate(average_precision(counts)):
        theirs = sklearn.average_precision_score(truth[labelled] == label, scores[label, labelled])
        assert ours is not None
        assert theirs - most < ours < theirs + 1e-4


def test_the_curve_is_that_of_scikit_learn() -> None:
    counts = score_counts(*drawn(4))[1]
    recall, precision = precision_recall(counts)
    bins, of_class = counts.nonzero().T
    their_precision, their_recall, _ = sklearn.precision_recall_curve(
        of_class, bins, sample_weight=counts[bins, of_class]
    )
    assert recall == pytest.approx(their_recall[-2::-1])
    assert precision == pytest.approx(their_precision[-2::-1])
    assert {recall.dtype, precision.dtype} == {np.dtype(np.float64)}


def test_average_precision_by_hand() -> None:
    # By falling score: of class 0, not, of class 0. Precision is 1 at recall 1/2, and 2/3 at recall 1.
    scores = torch.tensor([[[3.0, 2.0, 1.0]], [[0.0, 0.0, 0.0]]])
    truth = torch.tensor([[0, 1, 0]], dtype=torch.uint8)
    counts = score_counts(scores, truth)
    assert average_precision(counts) == pytest.approx((1 / 2 * 1 + 1 / 2 * 2 / 3, 1 / 2))
    recall, precision = precision_recall(counts[0])
    assert (recall.tolist(), precision.tolist()) == ([0.5, 0.5, 1], [1, 0.5, pytest.approx(2 / 3)])


def test_equal_scores_are_one_threshold() -> None:
    counts = score_counts(torch.zeros(2, 1, 4), torch.tensor([[0, 1, 1, 1]], dtype=torch.uint8))
    assert average_precision(counts) == (0.25, 0.75)


def test_scores_that_separate_a_class_give_1() -> None:
    _, truth = drawn(5)
    scores = torch.nn.functional.one_hot(truth.where(truth != VOID, 0).long(), CLASSES).permute(2, 0, 1).float()
    assert average_precision(score_counts(scores, truth)) == (1.0,) * CLASSES


def test_a_class_that_no_pixel_has_has_no_average_precision() -> None:
    scores, truth = drawn(6)
    counts = score_counts(scores, truth.where(truth != 2, VOID))
    assert [each is None for each in average_precision(counts)] == [False, False, True, False]
    assert [len(part) for part in precision_recall(counts[2])] == [0, 0]
    nothing = score_counts(scores, torch.full_like(truth, VOID))
    assert not nothing.any()
    assert average_precision(nothing) == (None,) * CLASSES


def test_void_pixels_are_not_counted() -> None:
    scores, truth = drawn(7)
    counts = score_counts(scores, truth)
    assert counts.sum((1, 2)).tolist() == [int((truth != VOID).sum())] * CLASSES
    assert counts[..., 1].sum(1).tolist() == [int((truth == label).sum()) for label in range(CLASSES)]
    assert torch.equal(score_counts(scores.where(truth != VOID, 9 - scores), truth), counts)


def test_scores_out_of_range_are_in_the_last_bins() -> None:
    infinite = torch.tensor([[[50.0, -50.0, 0.0]], [[0.0, 0.0, -torch.inf]]])
    counts = score_counts(infinite, torch.zeros(1, 3, dtype=torch.uint8))
    assert counts[0].nonzero().tolist() == [[0, 1], [BINS - 1, 1]]
    assert counts[1].nonzero().tolist() == [[0, 0], [BINS - 1, 0]]


def test_one_class_is_certain() -> None:
    counts = score_counts(torch.randn(1, 2, 3), torch.tensor([[0, 0, VOID], [0, 0, 0]], dtype=torch.uint8))
    assert counts.nonzero().tolist() == [[0, BINS - 1, 1]]
    assert counts[0, -1].tolist() == [0, 5]
    assert average_precision(counts) == (1.0,)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores of shape \(2, 3, 4\) but truth of shape \(4, 3\)"):
        score_counts(torch.zeros(2, 3, 4), torch.zeros(4, 3, dtype=torch.uint8))


SCORES = arrays.arrays(np.float32, (CLASSES, 3, 5), elements=st.integers(-40, 40).map(lambda tenths: tenths / 8))
TRUTHS = arrays.arrays(np.uint8, (3, 5), elements=st.integers(0, CLASSES - 1) | st.just(VOID))


@given(st.lists(st.tuples(SCORES, TRUTHS), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_counts_of_images_add_up_to_those_of_the_whole(
    pairs: list[tuple[NDArray[np.float32], NDArray[np.uint8]]],
) -> None:
    images = [(torch.from_numpy(scores), torch.from_numpy(truth)) for scores, truth in pairs]
    whole = score_counts(torch.cat([scores for scores, _ in images], 1), torch.cat([truth for _, truth in images]))
    counts = [score_counts(*image) for image in images]
    assert torch.equal(torch.stack(counts).sum(0), whole)
    assert {each.dtype for each in counts} == {torch.int64}


@given(SCORES, TRUTHS, st.permutations(range(CLASSES)))
@settings(deadline=None, max_examples=50)
def test_the_order_of_classes_does_not_matter(
    scores: NDArray[np.float32], truth: NDArray[np.uint8], order: list[int]
) -> None:
    renamed = np.full(VOID + 1, VOID, np.uint8)
    renamed[order] = range(CLASSES)
    before = average_precision(score_counts(torch.from_numpy(scores), torch.from_numpy(truth)))
    after = average_precision(score_counts(torch.from_numpy(scores[order]), torch.from_numpy(renamed[truth])))
    assert after == pytest.approx(tuple(before[label] for label in order), abs=1e-12)


@given(SCORES, TRUTHS)
@settings(deadline=None, max_examples=50)
def test_average_precision_is_at_least_the_share_of_the_class_at_the_lowest_threshold(
    scores: NDArray[np.float32], truth: NDArray[np.uint8]
) -> None:
    counts = score_counts(torch.from_numpy(scores), torch.from_numpy(truth))
    for each, mean in zip(counts, average_precision(counts), strict=True):
        recall, precision = precision_recall(each)
        if mean is None:
            assert not each[:, 1].any()
            continue
        assert 0 < mean <= 1
        assert np.all(np.diff(recall) >= 0)
        assert recall[-1] == 1
        assert precision[-1] == pytest.approx(int(each[:, 1].sum()) / int(each.sum()))
