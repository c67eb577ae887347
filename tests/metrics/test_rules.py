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

from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.rules import RULES, Rule, Scores, resampled_iou, scores
from fcn_core.settings import VOID

CLASSES = 5


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
    """Return the scores of a matrix without void."""
    return scores([*rows, [0] * len(rows)])


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


@given(arrays.arrays(np.int64, (CLASSES, CLASSES), elements=st.integers(0, 9)), st.permutations(range(CLASSES)))
@settings(deadline=None)
def test_the_order_of_classes_does_not_matter(matrix: NDArray[np.int64], order: list[int]) -> None:
    before, after = (of(*each.tolist()) for each in (matrix, matrix[np.ix_(order, order)]))
    for name, value in before.model_dump().items():
        expected = tuple(value[label] for label in order) if isinstance(value, tuple) else value
        assert getattr(after, name) == pytest.approx(expected), name


def test_large_counts_do_not_overflow() -> None:
    billion = 10**9
    found = of([4000 * billion, 1000 * billion], [0, 5000 * billion])
    assert found.labelled_pixels == 10_000 * billion
    assert found.mean_iou == pytest.approx((4 / 5 + 5 / 6) / 2)
    assert found.pixel_accuracy == pytest.approx(0.9)


MATRICES = arrays.arrays(np.int64, (6, 4, 3), elements=st.integers(0, 9))


@given(MATRICES, st.sampled_from(sorted(RULES)))
@settings(deadline=None)
def test_under_every_rule_scores_are_shares_and_better_predictions_score_no_less(
    matrices: NDArray[np.int64], name: str
) -> None:
    before = scores(matrices, RULES[name]).mean_iou
    assert before is None or 0 <= before <= 1
    better = matrices.copy()
    better[0, 0, 0] += better[0, 0, 1]
    better[0, 0, 1] = 0
    after = scores(better, RULES[name])
    if RULES[name].average == "pixels" and before is not None:
        assert after.mean_iou is not None
        assert after.mean_iou >= before - 1e-12
    if after.pixel_accuracy is not None and RULES[name].over == "set":
        assert after.pixel_accuracy >= (scores(matrices, RULES[name]).pixel_accuracy or 0) - 1e-12


@given(MATRICES)
@settings(deadline=None)
def test_rules_agree_where_they_must(matrices: NDArray[np.int64]) -> None:
    """One image, no void: then only the micro average differs."""
    one = matrices[:1].copy()
    one[:, -1] = 0
    one[0, range(3), range(3)] += 1
    found = {name: scores(one, rule).mean_iou for name, rule in RULES.items() if name != "micro"}
    assert max(found.values()) == pytest.approx(min(found.values()))  # type: ignore[type-var]


def test_rules_by_hand() -> None:
    """Two images, two classes; the second image has one class and two void pixels."""
    matrices = [[[3, 1], [2, 4], [0, 0]], [[5, 1], [0, 0], [0, 2]]]
    expected = {
        "set": (8 / 12 + 4 / 8) / 2,
        "void_false_positive": (8 / 12 + 4 / 10) / 2,
        "void_class": (8 / 12 + 4 / 10 + 0) / 3,
        "per_batch": (8 / 12 + 4 / 8) / 2,
        "per_image": ((3 / 6 + 4 / 7) / 2 + (5 / 6 + 0) / 2) / 2,
        "per_image_absent_zero": ((3 / 6 + 4 / 7) / 2 + (5 / 6 + 0) / 2) / 2,
        "per_image_absent_one": ((3 / 6 + 4 / 7) / 2 + (5 / 6 + 0) / 2) / 2,
        "micro": 12 / 20,
    }
    for name, value in expected.items():
        assert scores(matrices, RULES[name]).mean_iou == pytest.approx(value), name


def test_what_an_absent_class_scores_by_hand() -> None:
    """The second image has one of the two classes only, and only that is predicted."""
    matrices = [[[3, 1], [2, 4], [0, 0]], [[5, 0], [0, 0], [0, 0]]]
    first = (3 / 6 + 4 / 7) / 2
    for name, second in (("per_image", 1.0), ("per_image_absent_zero", 0.5), ("per_image_absent_one", 1.0)):
        assert scores(matrices, RULES[name]).mean_iou == pytest.approx((first + second) / 2), name
    batches = scores(matrices, Rule(over="batch", batch_size=1))
    assert batches.mean_iou == scores(matrices, RULES["per_image"]).mean_iou


def test_the_rule_says_how_scores_are_counted() -> None:
    assert Rule().describe(11) == (
        "11 classes, void excluded, accumulated over the set, at each image's own size, "
        "classes absent from truth and prediction left out, no test-time augmentation"
    )
    assert len({rule.describe(11) for rule in RULES.values()}) == len(RULES)


def test_sets_drawn_anew_are_scored_as_if_their_images_were_repeated() -> None:
    matrices = np.random.default_rng(0).integers(0, 50, (4, 4, 3))
    weights = [[1, 1, 1, 1], [2, 0, 1, 1], [0, 4, 0, 0]]
    for rule in (Rule(), RULES["per_image"], RULES["void_class"], RULES["micro"]):
        mean_iou, class_iou = resampled_iou(matrices, rule, weights)
        for row, mean, classes in zip(weights, mean_iou, class_iou, strict=True):
            whole = scores(np.repeat(matrices, row, axis=0), rule)
            assert mean == pytest.approx(whole.mean_iou)
            assert classes == pytest.approx(whole.class_iou)
    with pytest.raises(ValueError, match="rule over batches"):
        resampled_iou(matrices, RULES["per_batch"], weights)


def test_a_matrix_without_void_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(C \+ 1, C\), void last, not \(2, 2\)"):
        scores([[3, 1], [0, 4]])
