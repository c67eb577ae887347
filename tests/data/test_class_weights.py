import math

import pytest

from fcn_core.data.audit import SplitAudit, class_weights

SPLIT = SplitAudit(
    num_samples=2,
    kept=(0, 1),
    class_pixels=(5, 1, 0),
    class_image_pixels=(8, 4, 0),
    void_pixels=2,
    sizes=((1, 4),),
    num_sizes=1,
    digest="",
)


def test_median_frequency_is_over_the_classes_that_are_there() -> None:
    # Frequencies 5/8 and 1/4, so that the median is 7/16.
    assert class_weights(SPLIT, "median_frequency") == pytest.approx((0.7, 1.75, 0))


def test_enet_takes_the_share_in_all_labelled_pixels() -> None:
    expected = (1 / math.log(1.02 + 5 / 6), 1 / math.log(1.02 + 1 / 6), 0)
    assert class_weights(SPLIT, "enet") == pytest.approx(expected)


def test_none_weighs_all_classes_alike() -> None:
    assert class_weights(SPLIT, "none") == (1, 1, 1)
