from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from fcn_core.metrics.objects import MOST, THRESHOLDS, MaskPrecision, Objects, mask_average_precision, match_objects
from fcn_core.settings import VOID

CLASSES = 4
Labels = NDArray[np.uint8]


class Image(NamedTuple):
    predicted: Labels
    confidence: NDArray[np.float32]
    truth: Labels


def found(images: Sequence[Image], num_classes: int = CLASSES) -> list[Objects]:
    return [match_objects(*image, num_classes) for image in images]


def drawn(seed: int, shape: tuple[int, int] = (40, 48)) -> Image:
    """Draw blocks of labels, a prediction that is wrong in blocks and in pixels, and void."""
    rng = np.random.default_rng(seed)

    def blocks(size: int, num: int) -> NDArray[np.int64]:
        tall, wide = -(-shape[0] // size), -(-shape[1] // size)
        return rng.integers(0, num, (tall, wide)).repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]]

    truth = blocks(8, CLASSES)
    predicted = np.where(blocks(4, 4) == 0, blocks(4, CLASSES), truth)
    predicted = np.where(rng.random(shape) < 0.03, rng.integers(0, CLASSES, shape), predicted)
    # Eighths: sums of them are exact in any order, so scores are as equal for us as for the oracle.
    confidence = rng.integers(2, 9, shape) / 8
    truth[blocks(5, 12) == 0] = VOID
    return Image(predicted.astype(np.uint8), confidence.astype(np.float32), truth.astype(np.uint8))


def dots(seed: int, num_blobs: int = 0) -> Image:
    """Draw 300 objects of class 1 of one or two pixels, on class 0, with few different scores."""
    rng = np.random.default_rng(seed)
    truth, predicted = np.zeros((2, 40, 60), np.uint8)
    truth[::2, ::2] = 1
    predicted[::2, ::2] = rng.random((20, 30)) < 0.9
    truth[:, 1::4][::2] = rng.random((20, 15)) < 0.3
    predicted[:, 1::4][::2] = rng.random((20, 15)) < 0.3
    truth[:num_blobs, :num_blobs] = 2
    confidence = rng.integers(3, 8, (20, 30)).repeat(2, 0).repeat(2, 1) / 8
    return Image(predicted, confidence.astype(np.float32), truth)


def annotations(images: Sequence[Image], num_classes: int, *, of_truth: bool) -> list[dict[str, Any]]:
    """Cut label maps into COCO's annotations, one object at a time."""
    result: list[dict[str, Any]] = []
    for number, (predicted, confidence, truth) in enumerate(images):
        mask = np.where(truth == VOID, VOID, truth if of_truth else predicted)
        for label in range(num_classes):
            numbers, count = ndimage.label(mask == label, np.ones((3, 3)))  # type: ignore[attr-defined]
            for each in range(1, count + 1):
                there = numbers == each
                encoded = coco_mask.encode(np.asfortranarray(there.astype(np.uint8)))
                result.append(
                    {
                        "id": len(result) + 1,
                        "image_id": number,
                        "category_id": label,
                        "segmentation": encoded,
                        "area": int(there.sum()),
                        "iscrowd": 0,
                        "score": float(confidence[there].mean(dtype=np.float64)),
                    }
                )
    return result


def coco_side(images: Sequence[Image], num_classes: int, *, of_truth: bool) -> COCO:
    side = COCO()  # It asks for the size of an image, and does not use it.
    side.dataset = {
        "images": [{"id": number, "height": 1, "width": 1} for number in range(len(images))],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": annotations(images, num_classes, of_truth=of_truth),
    }
    side.createIndex()
    return side


def coco(images: Sequence[Image], num_classes: int) -> COCOeval:
    """Evaluate with pycocotools."""
    truth, predicted = (coco_side(images, num_classes, of_truth=of_truth) for of_truth in (True, False))
    oracle = COCOeval(truth, predicted, "segm")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    return oracle


def assert_like_coco(images: Sequence[Image], num_classes: int = CLASSES) -> MaskPrecision:
    """Compare objects exactly and scores to the last bits with those of pycocotools."""
    objects, oracle = found(images, num_classes), coco(images, num_classes)
    for number, image in enumerate(objects):
        for label in range(num_classes):
            theirs = oracle.evalImgs[label * 4 * len(images) + number]
            own = image.labels == label
            if theirs is None:
                assert (own.sum(), image.num_truth[label]) == (0, 0)
                continue
            assert image.scores[own].tolist() == theirs["dtScores"]
            assert image.matches[own].T.tolist() == (theirs["dtMatches"] > 0).tolist()
            assert image.num_truth[label] == len(theirs["gtIds"])
    ours = mask_average_precision(objects, num_classes)
    means = [None if value == -1 else value for value in oracle.stats[:3]]
    assert [ours.mean, ours.mean50, ours.mean75] == pytest.approx(means, abs=1e-12)
    by_class = oracle.eval["precision"][:, :, :, 0, 2].mean((0, 1))
    assert ours.class_precision == pytest.approx([None if value == -1 else value for value in by_class], abs=1e-12)
    return ours


def test_thresholds_are_those_of_pycocotools() -> None:
    assert THRESHOLDS.tolist() == COCOeval(iouType="segm").params.iouThrs.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_precision_is_that_of_pycocotools(seed: int) -> None:
    ours = assert_like_coco([drawn(seed + step) for step in range(0, 40, 10)])
    assert ours.mean is not None
    assert 0.02 < ours.mean < 0.9


def test_precision_of_images_of_several_sizes_is_that_of_pycocotools() -> None:
    assert_like_coco([drawn(0), drawn(1, (17, 80)), drawn(2, (3, 3)), drawn(3, (64, 9))])


def test_of_many_small_objects_the_most_confident_count_as_in_pycocotools() -> None:
    images = [dots(0), dots(1, num_blobs=9), dots(2)]
    ours = assert_like_coco(images)
    assert [int((image.labels == 1).sum()) for image in found(images)] == [MOST] * 3
    assert min(image.num_truth[1] for image in found(images)) > 2 * MOST
    assert ours.class_precision[1] is not None
    assert 0 < ours.class_precision[1] < 0.5


def test_equal_scores_rank_as_in_pycocotools() -> None:
    sure = [image._replace(confidence=np.ones_like(image.confidence)) for image in (drawn(0), dots(3), drawn(4))]
    ours, reversed_order = assert_like_coco(sure), assert_like_coco(sure[::-1])
    assert ours != reversed_order


@pytest.mark.parametrize("missing", [0, 3])
def test_classes_only_predicted_have_no_precision(missing: int) -> None:
    images = [image._replace(truth=image.truth.copy()) for image in (drawn(5), drawn(6))]
    for image in images:
        image.truth[image.truth == missing] = 1
    ours = assert_like_coco(images)
    assert [each is None for each in ours.class_precision] == [label == missing for label in range(CLASSES)]


def test_classes_never_predicted_have_the_precision_0() -> None:
    images = [image._replace(predicted=np.where(image.predicted == 2, 1, image.predicted)) for image in [drawn(7)]]
    assert assert_like_coco(images).class_precision[2] == 0


IMAGES = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.builds(
        Image,
        arrays.arrays(np.uint8, shape, elements=st.integers(0, 2)),
        arrays.arrays(np.float32, shape, elements=st.integers(1, 3).map(lambda quarters: quarters / 4)),
        arrays.arrays(np.uint8, shape, elements=st.integers(0, 2) | st.just(VOID)),
    )
)


@given(st.lists(IMAGES, min_size=1, max_size=3))
@settings(deadline=None, max_examples=100)
def test_any_images_give_what_pycocotools_gives(images: list[Image]) -> None:
    assert_like_coco(images, 3)


@given(st.lists(IMAGES, min_size=1, max_size=3), st.permutations(range(3)))
@settings(deadline=None, max_examples=50)
def test_the_order_of_classes_does_not_matter(images: list[Image], order: list[int]) -> None:
    renamed = np.full(VOID + 1, VOID, np.uint8)
    renamed[order] = range(3)
    others = [Image(renamed[image.predicted], image.confidence, renamed[image.truth]) for image in images]
    before, after = (mask_average_precision(found(some, 3), 3) for some in (images, others))
    assert after.class_precision == tuple(before.class_precision[label] for label in order)
    assert after.mean == pytest.approx(before.mean, abs=1e-12)


@given(IMAGES)
@settings(deadline=None, max_examples=50)
def test_a_prediction_like_the_truth_scores_1(image: Image) -> None:
    predicted = np.where(image.truth == VOID, image.predicted, image.truth)
    ours = mask_average_precision(found([image._replace(predicted=predicted)], 3), 3)
    present = [label in image.truth for label in range(3)]
    assert ours.class_precision == pytest.approx([1 if there else None for there in present])
    assert ours.mean == pytest.approx(1 if any(present) else None)


def of(rows: list[str], value: int = 1) -> Labels:
    """Draw a map: '.' is class 0, '#' class 1, '?' void."""
    return np.array([[{".": 0, "#": value, "?": VOID}[letter] for letter in row] for row in rows], np.uint8)


def test_objects_by_hand() -> None:
    truth = of(["##..", "##..", "....", "..##"])
    predicted = of(["##..", "#...", "....", "#..."])
    confidence = np.where(predicted == 1, 0.5, 0.75).astype(np.float32)
    confidence[0, 0] = 1
    objects = match_objects(predicted, confidence, truth, 2)
    assert objects.labels.tolist() == [0, 1, 1]
    assert objects.scores.tolist() == [0.75, pytest.approx(2 / 3), 0.5]
    # Of 12 pixels of class 0 predicted and 10 true ones, 9 are shared: 9 / 13. Of class 1 there are 3 / 4, and none.
    assert objects.matches.sum(1).tolist() == [4, 6, 0]
    assert objects.num_truth.tolist() == [1, 2]
    ours = mask_average_precision([objects], 2)
    # Class 1 has recall 1/2 with precision 1, at 51 of 101 recalls and 6 of 10 thresholds.
    assert ours.class_precision == pytest.approx((0.4, 51 / 101 * 0.6))
    assert (ours.mean50, ours.mean75) == pytest.approx(((1 + 51 / 101) / 2, 51 / 101 / 2))
    assert ours.mean == pytest.approx((0.4 + 51 / 101 * 0.6) / 2)


def test_a_false_hit_that_is_more_confident_costs_precision() -> None:
    truth, predicted = of(["#...#", "....."]), of(["#.#..", "....."])
    confidence = np.where(np.arange(10).reshape(2, 5) == 2, 0.9, 0.6).astype(np.float32)
    precision = mask_average_precision(found([Image(predicted, confidence, truth)], 2), 2).class_precision[1]
    assert precision == pytest.approx(51 / 101 * 1 / 2)


def test_objects_touch_at_corners() -> None:
    diagonal = of(["#..", ".#.", "..#"])
    assert match_objects(diagonal, np.ones((3, 3), np.float32), diagonal, 2).num_truth.tolist() == [1, 1]
    apart = of(["#..", "...", "..#"])
    assert match_objects(apart, np.ones((3, 3), np.float32), apart, 2).num_truth.tolist() == [1, 2]


def test_an_iou_equal_to_a_threshold_is_a_hit() -> None:
    truth, predicted = of(["######...."]), of(["###...####"])
    objects = match_objects(predicted, np.ones((1, 10), np.float32), truth, 2)
    # Of class 1, 3 of 6 pixels; what else is predicted of it shares nothing.
    assert objects.matches[objects.labels == 1].sum(1).tolist() == [1, 0]


def test_void_belongs_to_no_object() -> None:
    truth = of(["##??##", "......"])
    predicted = of(["######", "......"])
    confidence = np.ones((2, 6), np.float32)
    confidence[0, 2:4] = np.nan
    objects = match_objects(predicted, confidence, truth, 2)
    assert objects.num_truth.tolist() == [1, 2]
    assert objects.scores.tolist() == [1, 1, 1]
    assert objects.matches.all()


@pytest.mark.parametrize("truth", [np.full((3, 4), VOID, np.uint8), np.zeros((0, 4), np.uint8)])
def test_images_without_an_object_have_no_precision(truth: Labels) -> None:
    nothing = match_objects(np.zeros_like(truth), np.ones(truth.shape, np.float32), truth, 2)
    assert [len(part) for part in nothing] == [0, 0, 0, 2]
    expected = MaskPrecision(mean=None, mean50=None, mean75=None, class_precision=(None, None))
    assert mask_average_precision([nothing], 2) == expected == mask_average_precision([], 2)


def test_types_and_shapes() -> None:
    objects = match_objects(*drawn(8), CLASSES)
    assert [part.dtype for part in objects] == [np.uint8, np.float64, np.bool_, np.int64]
    num = len(objects.labels)
    assert [part.shape for part in objects] == [(num,), (num,), (num, 10), (CLASSES,)]


def test_labels_up_to_254_are_found() -> None:
    mask = np.array([[0, 254, 100, VOID]], np.uint8)
    objects = match_objects(mask, np.ones((1, 4), np.float32), mask, VOID)
    assert objects.labels.tolist() == [0, 100, 254]
    assert objects.num_truth.nonzero()[0].tolist() == [0, 100, 254]


def test_shapes_that_differ_are_refused() -> None:
    mask = np.zeros((3, 4), np.uint8)
    with pytest.raises(ValueError, match=r"shapes differ: \(3, 4\) predicted, \(3,\) confidence, \(3, 4\) truth"):
        match_objects(mask, np.ones(3, np.float32), mask, 2)
