import math

import pytest
import torch
from torch import Tensor

from fcn_core.models.dropout import SampleDropout

SHAPE = (64, 24, 32)
SIZE = math.prod(SHAPE)


def seeds(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def kept(values: Tensor, probability: float = 0.5, salt: int = 6) -> Tensor:
    """Tell which elements of a sample with each of the seeds stay."""
    dropped: Tensor = SampleDropout(probability, salt)(torch.ones(len(values), *SHAPE), values)
    return dropped != 0


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])


def test_a_mask_is_decided_by_the_seed_of_its_sample_alone() -> None:
    together = kept(seeds(3, 2**40 + 1, 3, 11))
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[1:2], kept(seeds(2**40 + 1)))
    torch.manual_seed(1)
    assert torch.equal(together, kept(seeds(3, 2**40 + 1, 3, 11)))


def test_masks_are_the_same_for_ever() -> None:
    mask = SampleDropout(0.5, salt=6)(torch.ones(1, 1, 2, 16), seeds(2**33 + 5))
    assert "".join(str(int(value > 0)) for value in mask.flatten()) == "10101101011001000100100110011011"


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_probability(probability: float) -> None:
    share = (~kept(torch.arange(8), probability)).double().mean((1, 2, 3))
    deviation = math.sqrt(probability * (1 - probability) / SIZE)
    assert (share - probability).abs().max() < 4.5 * deviation
    assert abs(share.mean() - probability) < 4.5 * deviation / math.sqrt(8)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_no_channel_row_or_column_is_dropped_more_than_another(dim: int) -> None:
    others = [other for other in range(4) if other != dim]
    share = kept(torch.arange(8)).double().mean(others)
    assert (share - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(8 * SIZE / SHAPE[dim - 1])


@pytest.mark.parametrize("other", [1, 2**31, 2**32, 2**33, 2**61, 2**62 - 1])
def test_every_bit_of_a_seed_gives_another_mask(other: int) -> None:
    one, another = kept(seeds(0, other))
    assert abs(correlation(one, another)) < 4.5 / math.sqrt(SIZE)


def test_layers_with_other_salts_and_neighbours_drop_independently() -> None:
    mask = kept(seeds(7))[0]
    assert abs(correlation(mask, kept(seeds(7), salt=7)[0])) < 4.5 / math.sqrt(SIZE)
    for dim in range(3):
        size = mask.shape[dim] - 1
        assert abs(correlation(mask.narrow(dim, 0, size), mask.narrow(dim, 1, size))) < 4.7 / math.sqrt(SIZE)


def test_what_stays_grows_so_that_the_mean_stays() -> None:
    features = torch.rand(2, *SHAPE)
    dropped = SampleDropout(0.2, salt=1)(features, seeds(1, 2))
    stays = dropped != 0
    torch.testing.assert_close(dropped[stays], features[stays] / 0.8)
    assert 0.79 < stays.double().mean() < 0.81


def test_the_gradient_passes_only_what_stays() -> None:
    features = torch.rand(1, *SHAPE, requires_grad=True)
    dropped = SampleDropout(0.5, salt=1)(features, seeds(1))
    dropped.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, 2 * (dropped != 0))


def test_memory_layout_and_precision_change_nothing() -> None:
    features = torch.rand(2, *SHAPE)
    layer = SampleDropout(0.5, salt=1)
    expected = layer(features, seeds(1, 2))
    nhwc = layer(features.contiguous(memory_format=torch.channels_last), seeds(1, 2))
    assert torch.equal(nhwc, expected)
    assert nhwc.is_contiguous(memory_format=torch.channels_last)
    half = layer(features.bfloat16(), seeds(1, 2))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, expected.bfloat16())


def test_nothing_is_dropped_in_evaluation_or_with_probability_0() -> None:
    features = torch.rand(1, *SHAPE)
    assert SampleDropout(0.5, salt=1).eval()(features, seeds(1)) is features
    assert SampleDropout(0.0, salt=1)(features, seeds(1)) is features


def test_a_printed_network_tells_what_is_dropped() -> None:
    assert repr(SampleDropout(0.5, salt=6)) == "SampleDropout(probability=0.5, salt=6)"


def test_without_seeds_torch_draws_them() -> None:
    layer = SampleDropout(0.5, salt=1)
    torch.manual_seed(0)
    one, another = (layer(torch.ones(2, *SHAPE)) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(layer(torch.ones(2, *SHAPE)), one)
    assert not torch.equal(one, another)
    assert not torch.equal(one[0], one[1])
