import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from fcn_core.metrics.boundary import boundary_counts, boundary_iou, distance
from fcn_core.settings import VOID

CLASSES = 4
Labels = NDArray[np.uint8]


def blobs(seed: int, shape: tuple[int, int] = (60, 80), void: float = 0) -> Labels:
    """Draw smooth regions of each class, and a share of void in smooth regions too."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((CLASSES, *shape)), (0, 6, 6))  # type: ignore[attr-defined]
    mask: Labels = noise.argmax(0).astype(np.uint8)
    hidden = ndimage.gaussian_filter(rng.standard_normal(shape), 3)  # type: ignore[attr-defined]
    mask[hidden > np.quantile(hidden, 1 - void)] = VOID
    return mask


def official(predicted: Labels, truth: Labels, num_classes: int, pixels: int) -> NDArray[np.int64]:
    """Count by the definition: a boundary is what `pixels` erosions by 3 x 3 take away; void erodes nothing."""
    void = truth == VOID
    counts = np.zeros((num_classes, 3), np.int64)
    for label in range(num_classes):
        ours, theirs = (boundary(mask == label, void, pixels) for mask in (predicted, truth))
        counts[label] = (ours & theirs).sum(), theirs.sum(), ours.sum()
    return counts


def boundary(region: NDArray[np.bool_], void: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    left: NDArray[np.bool_] = ndimage.binary_erosion(  # type: ignore[attr-defined]
        region | void, np.ones((3, 3)), iterations=pixels, border_value=0
    )
    return region & ~void & ~left


@pytest.mark.parametrize("share", [0.005, 0.02, 0.07])
@pytest.mark.parametrize("void", [0, 0.2])
def test_counts_are_those_of_the_definition(share: float, void: float) -> None:
    for seed in range(3):
        predicted, truth = blobs(seed), blobs(seed + 10, void=void)
        ours = boundary_counts(predicted, truth, CLASSES, share)
        assert ours.tolist() == official(predicted, truth, CLASSES, distance(truth.shape, share)).tolist()
        assert ours.dtype == np.int64
        assert ours.sum(0).all()


def test_the_share_of_the_paper_is_2_percent_of_the_diagonal() -> None:
    predicted, truth = blobs(0, (120, 160)), blobs(1, (120, 160))
    assert boundary_counts(predicted, truth, CLASSES).tolist() == official(predicted, truth, CLASSES, 4).tolist()


def test_the_width_is_rounded_and_at_least_1_pixel() -> None:
    assert [distance((3, 4), share) for share in (0.02, 0.29, 0.31, 1)] == [1, 1, 2, 5]
    assert distance((360, 480), 0.02) == 12


PAIRS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.uint8, shape, elements=st.integers(0, 2)),
        arrays.arrays(np.uint8, shape, elements=st.integers(0, 2) | st.just(VOID), fill=st.just(1)),
    )
)


@given(PAIRS, st.floats(0, 0.5))
@settings(deadline=None)
def test_any_maps_have_the_counts_of_the_definition(pair: tuple[Labels, Labels], share: float) -> None:
    predicted, truth = pair
    expected = official(predicted, truth, 3, distance(truth.shape, share))
    assert boundary_counts(predicted, truth, 3, share).tolist() == expected.tolist()


def test_by_hand() -> None:
    truth, predicted = np.zeros((2, 12, 12), np.uint8)
    truth[3:8, 3:8] = 1
    predicted[3:8, 4:9] = 1
    # A square of 5 x 5 has 16 pixels at its contour, and 24 around it; 44 touch the edge of the image. Squares a column
    # apart share 4 pixels each in their first and last row, and 6 each in the rows around them.
    counts = boundary_counts(predicted, truth, 2, share=0)
    assert counts[1].tolist() == [8, 16, 16]
    assert counts[0].tolist() == [44 + 12, 44 + 24, 44 + 24]
    assert boundary_iou(counts) == (56 / 80, 8 / 24)


def test_void_is_no_contour() -> None:
    truth = np.zeros((9, 9), np.uint8)
    truth[:, 4] = VOID
    truth[:, 5:] = 1
    counts = boundary_counts(np.where(truth == VOID, 1, truth), truth, 2, share=0)
    # 4 x 9 pixels on each side, 9 + 3 + 3 of which touch the edge of the image.
    assert counts.tolist() == [[15, 15, 15]] * 2


def test_what_is_predicted_below_void_does_not_matter() -> None:
    predicted, truth = blobs(2), blobs(3, void=0.3)
    others = np.where(truth == VOID, (predicted + 1) % CLASSES, predicted).astype(np.uint8)
    assert boundary_counts(others, truth, CLASSES).tolist() == boundary_counts(predicted, truth, CLASSES).tolist()
    assert not boundary_counts(predicted, np.full_like(truth, VOID), CLASSES).any()


@given(PAIRS)
@settings(deadline=None, max_examples=50)
def test_a_prediction_like_the_truth_scores_1(pair: tuple[Labels, Labels]) -> None:
    predicted, truth = pair
    iou = boundary_iou(boundary_counts(np.where(truth == VOID, predicted, truth), truth, 3))
    assert iou == tuple(1 if label in truth else None for label in range(3))


@given(PAIRS)
@settings(deadline=None, max_examples=50)
def test_truth_and_prediction_change_places(pair: tuple[Labels, Labels]) -> None:
    predicted, truth = pair
    void = truth == VOID
    counts = boundary_counts(predicted, truth, 3)
    swapped = boundary_counts(np.where(void, 0, truth), np.where(void, VOID, predicted).astype(np.uint8), 3)
    assert swapped[:, [0, 2, 1]].tolist() == counts.tolist()


@given(PAIRS, st.permutations(range(3)))
@settings(deadline=None, max_examples=50)
def test_the_order_of_classes_does_not_matter(pair: tuple[Labels, Labels], order: list[int]) -> None:
    renamed = np.full(VOID + 1, VOID, np.uint8)
    renamed[order] = range(3)
    before, after = boundary_counts(*pair, 3), boundary_counts(renamed[pair[0]], renamed[pair[1]], 3)
    assert after.tolist() == before[order].tolist()


@given(PAIRS)
@settings(deadline=None, max_examples=50)
def test_a_boundary_as_wide_as_the_image_gives_iou(pair: tuple[Labels, Labels]) -> None:
    predicted, truth = pair
    labelled = truth != VOID
    for label, iou in enumerate(boundary_iou(boundary_counts(predicted, truth, 3, share=1))):
        ours, theirs = (predicted == label) & labelled, truth == label
        union = (ours | theirs).sum()
        assert iou == pytest.approx((ours & theirs).sum() / union if union else None)


def test_counts_of_images_add_up() -> None:
    first, second = (boundary_counts(blobs(seed), blobs(seed + 10), CLASSES) for seed in (4, 5))
    ours = boundary_iou(first + second)
    for label in range(CLASSES):
        both, truth, predicted = (int(part) for part in first[label] + second[label])
        assert ours[label] == both / (truth + predicted - both)
        assert ours[label] != boundary_iou(first)[label]


def test_a_class_missing_on_one_side_scores_0_and_on_both_has_none() -> None:
    truth, predicted = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    assert boundary_iou(boundary_counts(predicted, truth, 3)) == (0, 0, None)


def test_labels_up_to_254_are_counted() -> None:
    mask = np.full((7, 7), 254, np.uint8)
    mask[:, 3] = 0
    mask[3, 6] = VOID
    counts = boundary_counts(mask, mask, VOID, share=0)
    assert counts[:, 0].nonzero()[0].tolist() == [0, 254]
    assert counts[254].tolist() == official(mask, mask, VOID, 1)[254].tolist() == [31] * 3


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction of shape \(3, 4\) but truth of shape \(4, 3\)"):
        boundary_counts(np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint8), 2)
