import pytest
import torch
from torchvision.transforms.functional import normalize

from fcn_core.models.preprocessing import Preprocessing, mean_colour, preprocess


def test_torchvision_scales_as_torchvision_does() -> None:
    images = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = normalize(images / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    torch.testing.assert_close(preprocess(images, "torchvision"), expected)


def test_caffe_wants_blue_first_less_the_published_mean() -> None:
    red, green, blue = 10, 20, 30
    image = torch.tensor([red, green, blue], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([blue - 104.00699, green - 116.66877, red - 122.67892]).view(1, 3, 1, 1)
    torch.testing.assert_close(preprocess(image, "caffe"), expected)


@pytest.mark.parametrize(("rule", "levels"), [("torchvision", (124, 116, 104)), ("caffe", (123, 117, 104))])
def test_the_mean_colour_becomes_0(rule: Preprocessing, levels: tuple[int, int, int]) -> None:
    assert mean_colour(rule) == levels
    image = torch.tensor(levels, dtype=torch.uint8).view(1, 3, 1, 1)
    half_a_level = 0.5 / (57 if rule == "torchvision" else 1)
    assert preprocess(image, rule).abs().max() <= half_a_level


@pytest.mark.parametrize("rule", ["torchvision", "caffe"])
def test_images_stay_as_they_are_and_come_back_in_float32(rule: Preprocessing) -> None:
    images = torch.full((1, 3, 2, 2), 200, dtype=torch.uint8)
    processed = preprocess(images, rule)
    assert processed.dtype == torch.float32
    assert processed.shape == images.shape
    assert (images == 200).all()
