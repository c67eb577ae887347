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


def test_confusion_is_that_of_scikit_learn_and_torchmetrics(predicted: Tensor, truth: Tensor) -> None:
    ours = confusion(predicted, truth, CLASSES)
    for image, one, other in zip(ours, predicted, truth, strict=True):
        labelled = other != VOID
        theirs = sklearn.confusion_matrix(other[labelled], one[labelled], labels=range(CLASSES))
        assert image[:-1].tolist() == theirs.tolist()
        void = np.bincount(one[other == VOID], minlength=CLASSES)
        assert image[-1].tolist() == void.tolist()
    theirs = classification.multiclass_confusion_matrix(predicted.int(), truth.int(), CLASSES, ignore_index=VOID)
    assert ours.sum(0)[:-1].tolist() == theirs.tolist()


def test_void_pixels_are_counted_apart(predicted: Tensor, truth: Tensor) -> None:
    counted = confusion(predicted, truth, CLASSES)
    assert counted.sum((1, 2)).tolist() == [truth[0].numel()] * len(truth)
    assert counted[:, -1].sum(1).tolist() == (truth == VOID).sum((1, 2)).tolist()
    others = predicted.where(truth != VOID, CLASSES - 1 - predicted)
    assert torch.equal(confusion(others, truth, CLASSES)[:, :-1], counted[:, :-1])


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


def test_shapes_that_differ_are_refused(predicted: Tensor, truth: Tensor) -> None:
    with pytest.raises(ValueError, match=r"prediction of shape \(3, 17, 11\) but truth of shape \(2, 17, 11\)"):
        confusion(predicted, truth[:2], CLASSES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_are_counted_in_int64(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[254, 0]], [[100, 254]]]).to(dtype)
    counted = confusion(labels, labels, VOID)
    assert counted.dtype == torch.int64
    assert counted.nonzero().tolist() == [[0, 0, 0], [0, 254, 254], [1, 100, 100], [1, 254, 254]]
