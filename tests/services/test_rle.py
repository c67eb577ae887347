import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from services import _rle


def maps(height: int, width: int, num_labels: int, seed: int, block: int) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, num_labels, (height, width), np.uint8)
    return np.ascontiguousarray(small.repeat(block, 0).repeat(block, 1))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([1, 3, 40]))
def test_run_lengths_are_those_of_pycocotools(height: int, width: int, num_labels: int, seed: int, block: int) -> None:
    labels = maps(height, width, num_labels, seed, block)
    found = _rle.encode_classes(labels)
    assert sorted(found) == np.unique(labels).tolist()
    for label, counts in found.items():
        there = labels == label
        assert counts == coco.encode(np.asfortranarray(there.astype(np.uint8)))["counts"].decode()
        assert np.array_equal(_rle.decode(counts, *labels.shape), there)


@pytest.mark.parametrize("counts", ["", "5", "04", "l", "0100"])
def test_run_lengths_of_another_size_are_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="do not describe a mask of 3 x 4 pixels"):
        _rle.decode(counts, 3, 4)
