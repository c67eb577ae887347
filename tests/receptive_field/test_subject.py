import copy

import numpy as np
import pytest
import torch

from fcn_core.models.classifiers import build_classifier
from fcn_core.models.preprocessing import preprocess
from fcn_core.receptive_field.subject import Subject, View

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
NETWORK = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))


def subject(view: View) -> Subject:
    return Subject("tiny", NETWORK, "torchvision", view, dense=True, classes=("a",))


@pytest.mark.parametrize(
    ("view", "shape"),
    [(View(), (40, 60, 3)), (View(scale=0.5), (20, 30, 3)), (View(size=32), (32, 32, 3)), (View(size=80), (80, 80, 3))],
)
def test_images_are_brought_to_size(view: View, shape: tuple[int, int, int]) -> None:
    seen = view.of(IMAGE)
    assert seen.shape == shape
    assert seen.dtype == np.uint8
    assert view != View() or np.array_equal(seen, IMAGE)


def test_the_square_is_the_middle() -> None:
    assert np.array_equal(View(size=40).of(IMAGE), IMAGE[:, 10:50])


def test_what_is_seen_is_preprocessed() -> None:
    given = subject(View()).tensor(IMAGE)
    expected = preprocess(torch.from_numpy(IMAGE).permute(2, 0, 1)[None], "torchvision")
    assert torch.equal(given, expected)


def test_a_network_is_known_by_its_weights_and_recipe() -> None:
    one = subject(View())
    assert one.digest() == subject(View(size=8)).digest()
    assert one.digest() != one._replace(recipe="other").digest()
    other = copy.deepcopy(NETWORK)
    torch.nn.init.zeros_(other.get_parameter("0.bias"))
    assert one.digest() != one._replace(network=other).digest()


def test_classes_without_a_name_have_a_number() -> None:
    assert [subject(View()).class_name(label) for label in (0, 7)] == ["a", "class 7"]
    assert build_classifier("squeezenet1_1", None)(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
