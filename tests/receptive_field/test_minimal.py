from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fcn_core.data.streets import StreetScenes
from fcn_core.receptive_field.minimal import (
    SEGMENTERS,
    ImageJudge,
    Minimal,
    PixelJudge,
    Segments,
    filling,
    minimal_image,
    segments_of,
)
from fcn_core.settings import Streets

SEGMENTS: Segments = np.arange(6).reshape(2, 3)
IMAGE, NOTHING = torch.ones(1, 3, 2, 3), torch.zeros(1, 3, 2, 3)


class Weighted(nn.Module):
    """Two classes: one worth the sum of the pixels by their weights, the other 2.5."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights = torch.tensor(weights).view(2, 3)

    def forward(self, images: Tensor) -> Tensor:
        worth = (images[:, 0] * self.weights).sum((1, 2))
        return torch.stack([torch.full_like(worth, 2.5), worth], 1)


def judge(*weights: float) -> ImageJudge:
    return ImageJudge.of(Weighted(weights), IMAGE, "logit")


def test_what_matters_least_goes_first_until_the_class_is_lost() -> None:
    found = minimal_image(IMAGE, SEGMENTS, NOTHING, judge(3, 1, 0, 2, 0.5, 0.25))
    assert found.order == (2, 5, 4, 1, 3, 0)
    assert found.scores == (6.75, 6.75, 6.5, 6, 5, 3, 0)
    assert found.lost
    assert found.kept.tolist() == [[True, False, False], [False, False, False]]


def test_what_speaks_against_the_class_goes_before_all_else() -> None:
    found = minimal_image(IMAGE, SEGMENTS, NOTHING, judge(5, 1, 0, -2, 0, -1))
    assert found.order == (3, 5, 2, 4, 1, 0)
    assert found.scores == (3, 5, 6, 6, 6, 5, 0)


def test_of_equal_segments_the_lowest_number_goes_first() -> None:
    found = minimal_image(IMAGE, SEGMENTS, NOTHING, judge(1, 1, 1, 1, 1, 1))
    assert found.order == (0, 1, 2, 3)
    assert found.scores == (6, 5, 4, 3, 2)
    assert found.kept.ravel().tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_size_of_batches_changes_nothing(batch_size: int) -> None:
    expected = minimal_image(IMAGE, SEGMENTS, NOTHING, judge(3, 1, 0, 2, 0.5, 0.25))
    found = minimal_image(IMAGE, SEGMENTS, NOTHING, judge(3, 1, 0, 2, 0.5, 0.25), batch_size)
    assert found[1:] == expected[1:]


def test_a_class_that_nothing_is_needed_for_is_never_lost() -> None:
    worthless = ImageJudge(Weighted((0,) * 6), 0, "logit")
    found = minimal_image(IMAGE, SEGMENTS, NOTHING, worthless)
    assert (found.lost, len(found.order), len(found.scores)) == (False, 6, 7)
    assert not found.kept.any()


def test_a_probability_is_the_share_of_the_class() -> None:
    sure = ImageJudge.of(Weighted((3, 1, 0, 2, 0.5, 0.25)), IMAGE, "probability")
    score, kept = sure(IMAGE)
    assert score.item() == pytest.approx(1 / (1 + np.exp(2.5 - 6.75)))
    assert kept.item()


class Bright(nn.Module):
    """Gives each pixel the class 1 if its first channel is above 0.5, and class 0 if not."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([torch.full_like(images[:, 0], 0.5), images[:, 0]], 1)


def test_a_class_of_pixels_is_lost_when_more_than_half_of_them_are() -> None:
    image = torch.tensor([1.0, 1, 1, 1, 0, 0]).view(1, 1, 2, 3).expand(1, 3, 2, 3)
    ours = PixelJudge.of(Bright(), image, "logit", 1)
    assert ours.pixels.tolist() == [[True, True, True], [True, False, False]]
    found = minimal_image(image, SEGMENTS, NOTHING, ours)
    assert found.order == (4, 5, 0, 1, 2)
    assert found.scores == (1, 1, 1, 0.75, 0.5, 0.25)
    assert found.kept.tolist() == [[False, False, True], [True, False, False]]


def test_the_class_with_most_pixels_is_taken_if_none_is_named() -> None:
    image = torch.tensor([1.0, 1, 0, 0, 0, 0]).view(1, 1, 2, 3).expand(1, 3, 2, 3)
    assert PixelJudge.of(Bright(), image, "logit").label == 0
    with pytest.raises(ValueError, match="no pixel has the class"):
        PixelJudge.of(Bright(), torch.zeros(1, 3, 2, 3), "logit", 1)


def test_images_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(ValueError, match="has not the class"):
        minimal_image(IMAGE, SEGMENTS, NOTHING, ImageJudge(Weighted((9,) * 6), 0))
    with pytest.raises(ValueError, match="scores that are not finite"):
        minimal_image(IMAGE, SEGMENTS, NOTHING * float("nan"), judge(1, 1, 1, 1, 1, 1))
    for wrong in (SEGMENTS[:1], SEGMENTS + 1, SEGMENTS * 2):
        with pytest.raises(ValueError, match="must number the pixels of the image"):
            minimal_image(IMAGE, wrong, NOTHING, judge(1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segments_number_every_pixel_the_same_way_each_time(name: Any) -> None:  # noqa: ANN401
    image = StreetScenes(Streets(height=64, width=80), "val").read(0).image
    settings = Minimal(segments=name, num_segments=12)
    found = segments_of(image, settings)
    assert found.shape == (64, 80)
    assert np.unique(found).tolist() == list(range(found.max() + 1))
    assert found.max() > 2
    assert np.array_equal(found, segments_of(image, settings))


def test_a_long_edge_is_a_segment_of_its_own() -> None:
    image = np.full((96, 96, 3), 40, np.uint8)
    image[:, 48:] = 220
    found = segments_of(image, Minimal(segments="edges_and_regions"))
    edge = found[48, 48]
    assert (found == edge).any(1).all()
    assert 5 <= (found == edge)[48].sum() <= 9
    assert len({int(found[48, 4]), int(found[48, 90]), int(edge)}) == 3


@pytest.mark.parametrize("fill", ["mean", "grey", "blur"])
def test_what_is_left_has_the_shape_of_the_image(fill: Any) -> None:  # noqa: ANN401
    image = torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    left = filling(image, Minimal(fill=fill))
    assert left.shape == image.shape
    expected = {"mean": image.mean((2, 3)), "grey": torch.zeros(1, 3), "blur": left.mean((2, 3))}[fill]
    assert torch.allclose(left[..., 15, 20], expected, atol=0.1)
