import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn import metrics as sklearn
from torch import Tensor
from torchmetrics.functional import classification

from fcn_core.metrics import Scores, confusion, rule, scores
from fcn_core.settings import VOID

CLASSES = 5
Masks = NDArray[np.uint8]


def random_labels(seed: int, void: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES + void, (3, 17, 11), generator=generator, dtype=torch.uint8)
    return labels.where(labels < CLASSES, VOID)


@pytest.fixture
def predicted() -> Tensor:
    return random_labels(0, void=False)


@pytest.fixture
def truth() -> Tensor:
    return random_labels(1, void=True)


def of(*rows: list[int]) -> Scores:
    return scores(torch.tensor(rows))


def test_confusion_is_that_of_scikit_learn_and_torchmetrics(predicted: Tensor, truth: Tensor) -> None:
    ours = confusion(predicted, truth, CLASSES)
    for image, one, other in zip(ours, predicted, truth, strict=True):
        labelled = other != VOID
        theirs = sklearn.confusion_matrix(other[labelled], one[labelled], labels=range(CLASSES))
        assert image.tolist() == theirs.tolist()
    theirs = classification.multiclass_confusion_matrix(predicted.int(), truth.int(), CLASSES, ignore_index=VOID)
    assert ours.sum(0).tolist() == theirs.tolist()


def test_scores_are_those_of_scikit_learn_and_torchmetrics(predicted: Tensor, truth: Tensor) -> None:
    ours = scores(confusion(predicted, truth, CLASSES).sum(0))
    true, pred = truth[truth != VOID].numpy(), predicted[truth != VOID].numpy()
    assert ours.pixel_accuracy == pytest.approx(sklearn.accuracy_score(true, pred))
    assert ours.mean_accuracy == pytest.approx(sklearn.balanced_accuracy_score(true, pred))
    assert ours.mean_iou == pytest.approx(sklearn.jaccard_score(true, pred, average="macro"))
    assert ours.mean_dice == pytest.approx(sklearn.f1_score(true, pred, average="macro"))
    assert ours.frequency_weighted_iou == pytest.approx(sklearn.jaccard_score(true, pred, average="weighted"))
    assert ours.class_accuracy == pytest.approx(sklearn.recall_score(true, pred, average=None))
    assert ours.class_iou == pytest.approx(sklearn.jaccard_score(true, pred, average=None))
    assert ours.class_dice == pytest.approx(sklearn.f1_score(true, pred, average=None))
    theirs = classification.multiclass_jaccard_index(predicted.int(), truth.int(), CLASSES, ignore_index=VOID)
    assert ours.mean_iou == pytest.approx(theirs.item())
    assert ours.labelled_pixels == len(true)


def test_scores_by_hand() -> None:
    assert of([3, 1], [2, 4]).model_dump() == {
        "pixel_accuracy": pytest.approx(7 / 10),
        "mean_accuracy": pytest.approx((3 / 4 + 4 / 6) / 2),
        "mean_iou": pytest.approx((3 / 6 + 4 / 7) / 2),
        "frequency_weighted_iou": pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7),
        "mean_dice": pytest.approx((6 / 9 + 8 / 11) / 2),
        "class_accuracy": pytest.approx((3 / 4, 4 / 6)),
        "class_iou": pytest.approx((3 / 6, 4 / 7)),
        "class_dice": pytest.approx((6 / 9, 8 / 11)),
        "labelled_pixels": 10,
    }


def test_a_class_absent_from_truth_and_prediction_is_left_out_of_every_mean() -> None:
    with_absent, without = of([3, 0, 1], [0, 0, 0], [2, 0, 4]), of([3, 1], [2, 4])
    assert (with_absent.class_accuracy[1], with_absent.class_iou[1], with_absent.class_dice[1]) == (None, None, None)
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "mean_dice"):
        assert getattr(with_absent, name) == getattr(without, name), name


def test_a_class_that_is_only_predicted_counts_as_0() -> None:
    found = of([3, 1], [0, 0])
    assert (found.class_accuracy, found.class_iou) == ((0.75, None), (0.75, 0))
    assert found.class_dice == pytest.approx((6 / 7, 0))
    assert (found.mean_accuracy, found.mean_iou) == (0.75, 0.375)
    assert found.mean_dice == pytest.approx(3 / 7)


def test_a_class_that_is_never_predicted_counts_as_0() -> None:
    found = of([3, 0], [1, 0])
    assert (found.class_accuracy[1], found.class_iou[1], found.class_dice[1]) == (0, 0, 0)
    assert found.mean_iou == 0.375


def test_void_pixels_are_not_counted(predicted: Tensor, truth: Tensor) -> None:
    counted = confusion(predicted, truth, CLASSES)
    assert counted.sum((1, 2)).tolist() == (truth != VOID).sum((1, 2)).tolist()
    others = predicted.where(truth != VOID, CLASSES - 1 - predicted)
    assert torch.equal(confusion(others, truth, CLASSES), counted)


def test_without_a_labelled_pixel_there_are_no_scores(predicted: Tensor) -> None:
    found = scores(confusion(predicted, torch.full_like(predicted, VOID), CLASSES).sum(0))
    assert found == Scores(
        pixel_accuracy=None,
        mean_accuracy=None,
        mean_iou=None,
        frequency_weighted_iou=None,
        mean_dice=None,
        class_accuracy=(None,) * CLASSES,
        class_iou=(None,) * CLASSES,
        class_dice=(None,) * CLASSES,
        labelled_pixels=0,
    )
    assert Scores.model_validate_json(found.model_dump_json()) == found


MASKS = arrays.array_shapes(min_dims=3, max_dims=3, max_side=5).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)),
        arrays.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1) | st.just(VOID)),
    )
)


@given(MASKS)
@settings(deadline=None)
def test_matrices_of_images_add_up_to_that_of_the_whole(pair: tuple[Masks, Masks]) -> None:
    predicted, truth = map(torch.from_numpy, pair)
    whole = confusion(predicted.reshape(1, 1, -1), truth.reshape(1, 1, -1), CLASSES)[0]
    assert torch.equal(confusion(predicted, truth, CLASSES).sum(0), whole)


@given(arrays.arrays(np.int64, (CLASSES, CLASSES), elements=st.integers(0, 9)), st.permutations(range(CLASSES)))
@settings(deadline=None)
def test_the_order_of_classes_does_not_matter(matrix: NDArray[np.int64], order: list[int]) -> None:
    before, after = (scores(torch.from_numpy(each)) for each in (matrix, matrix[np.ix_(order, order)]))
    for name, value in before.model_dump().items():
        expected = tuple(value[label] for label in order) if isinstance(value, tuple) else value
        assert getattr(after, name) == pytest.approx(expected), name


def test_shapes_that_differ_are_refused(predicted: Tensor, truth: Tensor) -> None:
    with pytest.raises(ValueError, match=r"prediction of shape \(3, 17, 11\) but truth of shape \(2, 17, 11\)"):
        confusion(predicted, truth[:2], CLASSES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_are_counted_in_int64(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[254, 0]], [[100, 254]]]).to(dtype)
    counted = confusion(labels, labels, VOID)
    assert counted.dtype == torch.int64
    assert counted.nonzero().tolist() == [[0, 0, 0], [0, 254, 254], [1, 100, 100], [1, 254, 254]]


def test_large_counts_do_not_overflow() -> None:
    billion = 10**9
    found = of([4000 * billion, 1000 * billion], [0, 5000 * billion])
    assert found.labelled_pixels == 10_000 * billion
    assert found.mean_iou == pytest.approx((4 / 5 + 5 / 6) / 2)
    assert found.pixel_accuracy == pytest.approx(0.9)


def test_the_rule_says_how_scores_are_counted() -> None:
    assert rule(11).startswith("11 classes, void excluded, accumulated over the set")
