from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_core.data.base import Dataset, Sample
from fcn_core.data.streets import CLASSES, StreetScenes
from fcn_core.settings import VOID, Streets

Masks = NDArray[np.uint8]
THIN = ("pole", "sign", "pedestrian")


def scenes(split: str = "train", seed: int = 0, height: int = 96, width: int = 128) -> Dataset:
    return StreetScenes(Streets(num_train=100, num_val=40, height=height, width=width, seed=seed), split)


def same(a: Sample, b: Sample) -> bool:
    return a.image.tobytes() == b.image.tobytes() and a.mask.tobytes() == b.mask.tobytes()


@pytest.fixture(scope="module")
def masks() -> Masks:
    dataset = scenes()
    return np.stack([dataset.read(index).mask for index in range(len(dataset.names))])


def coarsen(masks: Masks, stride: int) -> Masks:
    """Give every pixel the label that most labelled pixels of its stride x stride cell have."""
    count, height, width = masks.shape
    cells = masks.reshape(count, height // stride, stride, width // stride, stride)
    votes = np.stack([(cells == label).sum((2, 4)) for label in range(len(CLASSES))])
    return np.asarray(votes.argmax(0).repeat(stride, 1).repeat(stride, 2), np.uint8)


def mean_iou(prediction: Masks, masks: Masks) -> float:
    def overlaps() -> Iterator[float]:
        for label in range(len(CLASSES)):
            predicted, true = (prediction == label) & (masks != VOID), masks == label
            yield (predicted & true).sum() / (predicted | true).sum()

    return float(np.mean(list(overlaps())))


def test_a_scene_depends_on_nothing_but_seed_split_and_index() -> None:
    first = scenes().read(3)
    others = scenes()
    for index in (7, 0, 3):
        others.read(index)
    assert same(first, others.read(3))


def test_a_scene_does_not_depend_on_how_many_there_are() -> None:
    assert same(StreetScenes(Streets(num_train=1), "train").read(0), scenes().read(0))


@pytest.mark.parametrize("other", [("train", 0, 4), ("train", 1, 3), ("val", 0, 3)], ids=["index", "seed", "split"])
def test_other_scenes_differ_in_image_and_mask(other: tuple[str, int, int]) -> None:
    split, seed, index = other
    a, b = scenes().read(3), scenes(split, seed).read(index)
    assert (a.image != b.image).any()
    assert (a.mask != b.mask).any()


def test_no_validation_scene_is_a_training_scene() -> None:
    train, val = ({d.read(i).mask.tobytes() for i in range(40)} for d in (scenes("train"), scenes("val")))
    assert len(train) == len(val) == 40
    assert not train & val


def test_names_and_their_number() -> None:
    assert scenes().names[12] == "train-00012"
    assert len(scenes("train").names) == 100
    assert len(scenes("val").names) == 40
    assert scenes().sequence(0) is None


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'test'; splits are train, val"):
        scenes("test")


@pytest.mark.parametrize("index", [-1, 100])
def test_index_outside_the_split_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=f"no scene {index}: scenes are train-00000 to train-00099"):
        scenes().read(index)


@pytest.mark.parametrize(
    ("height", "width"), [(96, 128), (33, 47), (32, 32), (47, 33), (256, 512), (32, 512), (512, 32)]
)
def test_samples_of_any_size(height: int, width: int) -> None:
    dataset = scenes(height=height, width=width)
    for index in range(5):
        image, mask = dataset.read(index)
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == (height, width, 3)
        assert mask.shape == (height, width)
        assert image.flags.writeable
        assert mask.flags.writeable
        assert set(np.unique(mask)) <= {*range(len(CLASSES)), VOID}


def test_the_same_street_at_any_resolution() -> None:
    small, large = scenes().read(5).mask, scenes(height=384, width=512).read(5).mask
    assert (small == large[2::4, 2::4]).mean() > 0.9


def test_classes_are_frequent_enough_to_learn_and_to_score(masks: Masks) -> None:
    share = np.bincount(masks.ravel(), minlength=256) / masks.size
    assert (share[: len(CLASSES)] > 0.004).all()
    assert 0.005 < share[VOID] < 0.06
    for name in THIN:
        label = CLASSES.names.index(name)
        assert (masks == label).any((1, 2)).mean() >= 0.5, name


def test_image_and_mask_have_the_same_edges() -> None:
    """Across a border of the mask the image changes more than elsewhere, and most where the two are not shifted."""

    def contrast(shift: int) -> float:
        total = 0.0
        for index in range(20):
            image, mask = scenes().read(index)
            steps = np.abs(np.diff(image.astype(float).mean(2), axis=1))
            total += steps[np.roll(np.diff(mask.astype(int), axis=1) != 0, shift, axis=1)].mean()
        return total

    assert contrast(0) > 2 * max(contrast(-2), contrast(2))


def test_thin_things_are_lost_at_stride_32(masks: Masks) -> None:
    ceilings = {stride: mean_iou(coarsen(masks, stride), masks) for stride in (8, 16, 32)}
    assert ceilings[8] > ceilings[16] > ceilings[32]
    assert ceilings[8] - ceilings[32] >= 0.2
