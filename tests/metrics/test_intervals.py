import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fcn_core.metrics.intervals import NUM_SAMPLES, draws, intervals, paired
from fcn_core.metrics.rules import Rule, scores

GENERATOR = np.random.default_rng(0)


def images(count: int, accuracy: float = 0.8) -> NDArray[np.int64]:
    """Draw confusion matrices of images of 100 pixels, three classes."""
    generator = np.random.default_rng(count)
    truth = generator.integers(0, 3, (count, 100))
    right = generator.random((count, 100)) < accuracy
    predicted = np.where(right, truth, generator.integers(0, 3, (count, 100)))
    matrices = np.zeros((count, 4, 3), np.int64)
    np.add.at(matrices, (np.arange(count)[:, None], truth, predicted), 1)
    return matrices


MATRICES = arrays.arrays(np.int64, (5, 3, 2), elements=st.integers(0, 9))


@given(MATRICES, MATRICES, st.permutations(range(5)))
@settings(deadline=None, max_examples=25)
def test_intervals_hold_their_value_and_know_no_order_of_images(
    ours: NDArray[np.int64], theirs: NDArray[np.int64], order: list[int]
) -> None:
    found = paired([ours], [theirs], Rule()).mean_iou
    if found.value is not None and found.low is not None and found.high is not None:
        assert -1 <= found.low <= found.high <= 1
        again = paired([ours[order]], [theirs[order]], Rule()).mean_iou
        assert again.value == pytest.approx(found.value)
    alone = intervals([ours], Rule())
    for one in (alone.mean_iou, *alone.class_iou):
        assert one.low is None or one.high is None or 0 <= one.low <= one.high <= 1
        assert not (one.value is not None and one.value > 0 and one.high == 0)


def test_images_are_drawn_with_replacement_and_the_same_each_time() -> None:
    (drawn,) = draws(7)
    assert drawn.shape == (NUM_SAMPLES, 7)
    assert (drawn.sum(1) == 7).all()
    assert drawn.max() > 1
    assert 0.9 < drawn.mean() < 1.1
    assert (drawn == np.concatenate(list(draws(7, at_once=300)))).all()


def test_a_sequence_is_drawn_whole() -> None:
    (drawn,) = draws(5, ["a", "b", "a", "c", "b"])
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all()
    assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()


def test_the_interval_is_as_wide_as_the_score_varies_over_sets() -> None:
    """95 of 100 intervals of a known quantity should hold it."""
    truth = scores(images(20_000)).mean_iou
    assert truth is not None
    everything = images(20_000)
    held = 0
    for start in range(0, 5000, 50):
        found = intervals([everything[start : start + 50]], Rule()).mean_iou
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert 88 <= held <= 99


def test_the_value_is_the_score() -> None:
    matrices = images(30)
    for rule in (Rule(), Rule(over="image"), Rule(average="pixels"), Rule(void="class")):
        found, expected = intervals([matrices], rule), scores(matrices, rule)
        assert found.mean_iou.value == pytest.approx(expected.mean_iou)
        assert [one.value for one in found.class_iou] == pytest.approx(expected.class_iou)


def test_more_images_make_a_narrower_interval() -> None:
    narrow, wide = (intervals([images(count)], Rule()).mean_iou for count in (400, 25))
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low is not None
    assert wide.high is not None
    assert 3 < (wide.high - wide.low) / (narrow.high - narrow.low) < 5.5


def test_sequences_of_images_that_resemble_each_other_make_a_wider_interval() -> None:
    alike = images(8).repeat(10, axis=0)
    groups = [str(index) for index in range(8) for _ in range(10)]
    over_images, over_sequences = intervals([alike], Rule()).mean_iou, intervals([alike], Rule(), groups).mean_iou
    assert over_sequences.low is not None
    assert over_images.low is not None
    assert over_sequences.low < over_images.low


def test_a_class_that_is_never_there_has_no_interval() -> None:
    matrices = images(10)
    matrices[:, 2], matrices[:, :, 2] = 0, 0
    found = intervals([matrices], Rule())
    assert (found.class_iou[2].value, found.class_iou[2].low) == (None, None)
    assert found.mean_iou.value is not None
    assert not found.class_iou[2].excludes_zero


def test_a_difference_on_the_same_images_is_known_better_than_either_score() -> None:
    """Both fail on the same hard images: unpaired, nothing could be told."""
    theirs = images(40) * GENERATOR.integers(1, 20, (40, 1, 1))
    ours = theirs.copy()
    ours[:, 0, 0] += ours[:, 0, 1]
    ours[:, 0, 1] = 0
    found = paired([ours], [theirs], Rule())
    one, other = scores(ours).mean_iou, scores(theirs).mean_iou
    assert one is not None
    assert other is not None
    assert found.mean_iou.value == pytest.approx(one - other)
    assert found.mean_iou.excludes_zero
    back = paired([theirs], [ours], Rule())
    assert back.mean_iou.low == pytest.approx(-(found.mean_iou.high or 0))


def test_a_run_does_not_differ_from_itself() -> None:
    found = paired([images(10)], [images(10)], Rule())
    assert (found.mean_iou.value, found.mean_iou.low, found.mean_iou.high) == (0, 0, 0)
    assert not found.mean_iou.excludes_zero


def test_runs_that_differ_in_seed_are_averaged() -> None:
    first, second, other = images(12), images(12, 0.7), images(12, 0.5)
    pooled = paired([first, second], [other], Rule()).mean_iou.value
    apart = [paired([one], [other], Rule()).mean_iou.value for one in (first, second)]
    assert pooled == pytest.approx(np.mean(apart))  # type: ignore[arg-type]
