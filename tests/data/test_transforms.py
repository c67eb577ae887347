import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fcn_core.data.base import Sample
from fcn_core.data.transforms import augment, resize_image, resize_mask
from fcn_core.settings import VOID, Data

FILL = (255, 255, 255)
COLOURS = torch.tensor([[0, 0, 0], [200, 30, 30], [30, 200, 30], [30, 30, 200], FILL])
LABELS = torch.tensor([0, 3, 100, 254, VOID], dtype=torch.uint8)
"""The label that each colour stands for."""

ALL = Data(crop=(48, 56), zoom=(0.6, 1.8), flip=True, scale=0.9)
COLOURFUL = Data(crop=(48, 56), zoom=(0.6, 1.8), flip=True, scale=0.9, colour=1)


def blocks(seed: int = 0, *, void: bool = True) -> Sample:
    """Draw a mask of blocks of 10 pixels, and an image that shows each label in its colour."""
    drawn = np.random.default_rng(seed).integers(0, 5 if void else 4, (5, 7)).repeat(10, 0).repeat(10, 1)
    return Sample(COLOURS.numpy().astype(np.uint8)[drawn], LABELS.numpy()[drawn])


def shown(image: Tensor) -> Tensor:
    """Return the label whose colour is nearest, for each pixel."""
    distance = (image.permute(1, 2, 0)[:, :, None].float() - COLOURS).square().sum(-1)
    return LABELS[distance.argmin(-1)]


def inside(mask: Tensor) -> Tensor:
    """Tell which pixels have neighbours of the same label only."""
    around = functional.pad(mask.float()[None], (1, 1, 1, 1), mode="replicate")[0].unfold(0, 3, 1).unfold(1, 3, 1)
    return around.amax((2, 3)) == around.amin((2, 3))


@pytest.mark.parametrize("seed", range(20))
def test_image_and_mask_stay_aligned(seed: int) -> None:
    image, mask = augment(blocks(seed), ALL, FILL, seed)
    assert (image.shape, mask.shape) == ((3, 48, 56), (48, 56))
    assert (image.dtype, mask.dtype) == (torch.uint8, torch.uint8)
    assert (type(image), type(mask)) == (Tensor, Tensor)
    there = inside(mask)
    assert there.float().mean() > 0.5
    assert (shown(image) == mask)[there].float().mean() > 0.99


def test_no_label_is_made_up() -> None:
    kept = {label for seed in range(50) for label in augment(blocks(void=False), ALL, FILL, seed)[1].unique().tolist()}
    assert kept == set(LABELS.tolist())


def test_a_sample_is_a_pure_function_of_its_seed() -> None:
    first = augment(blocks(), COLOURFUL, FILL, 7)
    torch.rand(3)
    again, other = augment(blocks(), COLOURFUL, FILL, 7), augment(blocks(), COLOURFUL, FILL, 8)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_the_state_of_torchs_random_numbers_stays() -> None:
    devices = range(torch.cuda.device_count())
    before = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
    augment(blocks(), ALL, FILL, 7)
    after = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("crop", [(60, 90), (60, 30), (20, 90)])
def test_where_the_crop_exceeds_the_image_there_is_fill_and_void_and_nowhere_else(crop: tuple[int, int]) -> None:
    sample = blocks(void=False)
    for seed in range(10):
        image, mask = augment(sample, Data(crop=crop, flip=False), FILL, seed)
        rows, columns = (mask != VOID).any(1), (mask != VOID).any(0)
        assert [int(rows.sum()), int(columns.sum())] == [min(crop[0], 50), min(crop[1], 70)]
        assert ((mask != VOID) == rows[:, None] & columns).all(), "one rectangle"
        assert ((image == 255).all(0) == (mask == VOID)).all()


def test_crops_lie_anywhere_and_half_of_the_images_are_flipped() -> None:
    mask = np.arange(200, dtype=np.uint8).reshape(10, 20)
    sample = Sample(np.zeros((10, 20, 3), np.uint8), mask)
    whole = [augment(sample, Data(), FILL, seed)[1] for seed in range(200)]
    flipped = [torch.equal(each, torch.from_numpy(mask).flip(1)) for each in whole]
    assert all(flip or torch.equal(each, torch.from_numpy(mask)) for flip, each in zip(flipped, whole, strict=True))
    assert 60 < sum(flipped) < 140
    corners = {int(augment(sample, Data(crop=(8, 18), flip=False), FILL, seed)[1][0, 0]) for seed in range(100)}
    assert corners == {20 * row + column for row in range(3) for column in range(3)}


def test_zoom_is_drawn_from_its_range() -> None:
    sample = Sample(np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.uint8))
    data = Data(crop=(250, 250), zoom=(0.5, 2), scale=1.2)
    sizes = sorted(int((augment(sample, data, FILL, seed)[1] == 0).any(0).sum()) for seed in range(100))
    assert 60 <= sizes[0] < 80
    assert 220 < sizes[-1] <= 240


def test_colour_changes_the_image_only() -> None:
    plain, plain_mask = augment(blocks(), ALL, FILL, 7)
    changed, changed_mask = augment(blocks(), COLOURFUL, FILL, 7)
    assert torch.equal(changed_mask, plain_mask)
    assert (changed != plain).float().mean() > 0.5


def test_the_sample_itself_stays() -> None:
    sample, before = blocks(), blocks()
    augment(sample, COLOURFUL, FILL, 7)
    assert (sample.image == before.image).all()
    assert (sample.mask == before.mask).all()


def test_without_augmentation_a_sample_is_itself() -> None:
    image, mask = augment(blocks(), Data(flip=False), FILL, 7)
    assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(blocks().image))
    assert torch.equal(mask, torch.from_numpy(blocks().mask))


@pytest.mark.parametrize("factor", [0.5, 2, 3])
def test_a_resized_mask_keeps_the_borders_of_its_blocks(factor: float) -> None:
    mask = torch.from_numpy(blocks().mask)
    size = round(10 * factor)
    expected = mask[::10, ::10].repeat_interleave(size, 0).repeat_interleave(size, 1)
    assert torch.equal(resize_mask(mask, factor), expected)


def test_a_pixel_of_a_resized_mask_has_the_label_nearest_to_its_centre() -> None:
    mask = torch.arange(30, dtype=torch.uint8).expand(6, 30)
    assert torch.equal(resize_mask(mask, 1 / 3), mask[:2, 1::3])


@pytest.mark.parametrize("factor", [0.5, 0.7, 2])
def test_a_resized_image_is_not_shifted(factor: float) -> None:
    ramp = torch.arange(0, 200, 5, dtype=torch.uint8).expand(3, 20, 40)
    resized = resize_image(ramp, factor)
    size = round(40 * factor)
    assert resized.shape == (3, round(20 * factor), size)
    centres = (torch.arange(size) + 0.5) * 40 / size - 0.5
    assert ((resized - 5 * centres)[:, :, 2:-2].abs() <= 1).all()


def test_nothing_is_resized_to_nothing() -> None:
    assert resize_image(torch.zeros(3, 1, 9, dtype=torch.uint8), 0.1).shape == (3, 1, 1)
    assert resize_mask(torch.zeros(1, 9, dtype=torch.uint8), 0.1).shape == (1, 1)
