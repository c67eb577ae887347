import math

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from fcn_core.receptive_field.effective import effective_field, side_above, side_of_share
from fcn_core.receptive_field.graph import Graph, trace
from fcn_core.receptive_field.theory import extent


def images(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def averaging(depth: int, kernel: int = 3, channels: int = 1) -> Graph:
    """Return the paper's plainest network: convolutions of equal weights, without activations."""
    network = nn.Sequential(
        *[nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False) for _ in range(depth)]
    )
    for layer in network:
        assert isinstance(layer, nn.Conv2d)
        nn.init.constant_(layer.weight, 1 / kernel**2)
    return trace(network.double(), size=(61, 61))


def test_equal_weights_give_a_gaussian_whose_side_grows_with_the_root_of_the_depth() -> None:
    sides = {}
    for depth in (4, 16):
        field = effective_field(averaging(depth), images(1, 1, 61, 61).double())
        rows = field.sum(1)
        mean = (rows * np.arange(61)).sum()
        assert field.sum() == pytest.approx(1)
        assert mean == pytest.approx(30)
        variance = (rows * (np.arange(61) - mean) ** 2).sum()
        assert variance == pytest.approx(depth * 2 / 3), "each layer adds the variance of three equal weights"
        gaussian = np.exp(-((np.arange(61) - 30) ** 2) / 2 / variance) / math.sqrt(2 * math.pi * variance)
        assert abs(rows - gaussian).max() < 0.02
        sides[depth] = side_above(field)
    assert sides[16] / sides[4] == pytest.approx(2, abs=0.2)
    assert sides[16] < 0.75 * 33, "the theoretical field has 33 pixels"


def test_one_layer_counts_as_its_weights() -> None:
    layer = nn.Conv2d(2, 3, 3, bias=False).double()
    graph = trace(layer, size=(7, 8))
    field = effective_field(graph, images(2, 2, 7, 8).double(), (1, 4), channel=2)
    expected = np.zeros((7, 8))
    expected[1:4, 4:7] = layer.weight[2].abs().sum(0).detach()
    np.testing.assert_allclose(field, expected)
    together = effective_field(graph, images(2, 2, 7, 8).double(), (1, 4))
    np.testing.assert_allclose(together[1:4, 4:7], layer.weight.sum(0).abs().sum(0).detach())


@pytest.mark.parametrize("layer", ["layer2", "layer3"])
def test_it_lies_inside_the_theoretical_field_and_fills_less(layer: str) -> None:
    torch.manual_seed(0)
    graph = trace(torchvision.models.resnet18(), layer, size=(151, 203))
    some = images(3, 3, 151, 203)
    field = effective_field(graph, some, (9, 11) if layer == "layer2" else (4, 5))
    rows, columns = extent(graph, layer, (9, 11) if layer == "layer2" else (4, 5))
    outside = field.copy()
    outside[slice(*rows), slice(*columns)] = 0
    assert not outside.any()
    assert field.any()
    full = math.sqrt((rows[1] - rows[0]) * (columns[1] - columns[0]))
    assert side_of_share(field, 0.5) < side_of_share(field) < full
    assert side_above(field) < full


def test_it_is_the_mean_over_images_and_leaves_no_gradients() -> None:
    network = torchvision.models.resnet18()
    graph = trace(network, "layer1", size=(40, 40))
    some = images(3, 3, 40, 40)
    alone = [effective_field(graph, [image], channel=0) for image in some]
    np.testing.assert_allclose(effective_field(graph, iter(some), channel=0), sum(alone) / 3)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_classifiers_score_has_a_field_too() -> None:
    field = effective_field(
        trace(torchvision.models.resnet18(num_classes=4), size=(33, 40)), images(1, 3, 33, 40), channel=3
    )
    assert field.shape == (33, 40)
    assert field.any()


def test_sides_are_those_of_squares_of_equal_area() -> None:
    field = np.zeros((20, 20))
    field[3:9, 10:16] = 1.0
    assert side_of_share(field, 1.0) == side_above(field) == 6
    assert side_of_share(field, 0.25) == 3
    field[0, 0] = 0.04
    assert side_above(field) == 6
    field[0, 0] = 0.05
    assert side_above(field) == math.sqrt(37)
    assert side_of_share(np.zeros((3, 3))) == side_above(np.zeros((3, 3))) == 0, "of a unit that is never active"


def test_mistakes_get_one_line() -> None:
    graph = averaging(1)
    with pytest.raises(ValueError, match=r"0 has 1 channels of 61 x 61 units, so there is no unit at \(1, 30, 30\)"):
        effective_field(graph, images(1, 1, 61, 61).double(), channel=1)
    with pytest.raises(ValueError, match=r"no unit at \(None, 61, 0\)"):
        effective_field(graph, images(1, 1, 61, 61).double(), (61, 0))
    with pytest.raises(ValueError, match=r"the graph is that of images \(1, 61, 61\), not \(1, 60, 61\)"):
        effective_field(graph, images(1, 1, 60, 61).double())
    with pytest.raises(ValueError, match="there is none"):
        effective_field(graph, [])
