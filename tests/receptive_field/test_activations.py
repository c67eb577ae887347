from collections import OrderedDict
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fcn_core.receptive_field.activations import (
    Top,
    activations,
    find_layer,
    top_activations,
)

MOST = 3


def network() -> nn.Sequential:
    """Small whole numbers, so that equal activations are common."""
    generator = torch.Generator().manual_seed(0)
    layers = {
        "conv1": nn.Conv2d(3, 4, 3, padding=1),
        "relu1": nn.ReLU(inplace=True),
        "stage": nn.Sequential(OrderedDict(conv=nn.Conv2d(4, 5, 2, stride=2), relu=nn.ReLU(inplace=True))),
        "flat": nn.Flatten(),
    }
    net = nn.Sequential(OrderedDict(layers)).eval()
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randint(-2, 3, value.shape, generator=generator))
    return net


def images() -> list[Tensor]:
    """Nine images of two sizes, of which four are one and the same."""
    generator = torch.Generator().manual_seed(1)
    found = [torch.randint(0, 3, (3, 6, 6 + 2 * (index % 2)), generator=generator).float() for index in range(9)]
    return [found[1] if index in (4, 7, 8) else image for index, image in enumerate(found)]


NET, IMAGES = network(), images()
LAYERS = ("conv1", "stage.conv")


def top_of(indexes: Sequence[int]) -> dict[str, Top]:
    return top_activations(NET, LAYERS, ((index, IMAGES[index]) for index in indexes), MOST)


def assert_equal(ours: Top, theirs: Top) -> None:
    for name, one, other in zip(Top._fields, ours, theirs, strict=True):
        first, second = np.asarray(one), np.asarray(other)
        assert (first.dtype, first.tolist()) == (second.dtype, second.tolist()), name


def by_sorting(layer: str, unit: int) -> list[tuple[float, int, tuple[int, int]]]:
    """Return value, image and position of the strongest, from a list of everything."""
    found = []
    for index, image in enumerate(IMAGES):
        plane = activations(NET, [layer], image)[layer][unit]
        places = [(-float(plane[row, column]), row, column) for row, column in np.ndindex(*plane.shape)]
        value, row, column = min(places)
        found.append((-value, index, (row, column)))
    return sorted(found, key=lambda one: (-one[0], one[1]))[:MOST]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_strongest_are_those_of_sorting_everything(layer: str) -> None:
    top = top_of(range(len(IMAGES)))[layer]
    ties = 0
    for unit, values in enumerate(top.values):
        expected = by_sorting(layer, unit)
        positions = [(int(row), int(column)) for row, column in top.positions[unit]]
        assert list(zip(values.tolist(), top.images[unit].tolist(), positions, strict=True)) == expected
        ties += len(set(values.tolist())) < MOST
    assert ties, "equal activations are among them"
    assert top.seen.tolist() == list(range(9))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=9, max_size=9), st.randoms(use_true_random=False))
def test_any_parts_in_any_order_merge_to_the_same_bits(owners: list[int], random: Random) -> None:
    groups = [[index for index, owner in enumerate(owners) if owner == one] for one in set(owners)]
    for group in groups:
        random.shuffle(group)
    random.shuffle(groups)
    parts, whole = [top_of(group) for group in groups], top_of(range(9))
    for layer in LAYERS:
        assert_equal(Top.merge([part[layer] for part in parts]), whole[layer])


def test_fewer_images_than_are_kept_are_all_kept() -> None:
    top = top_of([4, 2])["conv1"]
    assert (top.values.shape, top.positions.shape) == ((4, 2), (4, 2, 2))
    assert all(sorted(row) == [2, 4] for row in top.images.tolist())


def test_an_image_is_not_counted_twice() -> None:
    parts = [top_of([0, 1])["conv1"], top_of([2, 1])["conv1"]]
    with pytest.raises(ValueError, match="an image is in two parts"):
        Top.merge(parts)


def test_parts_of_unlike_layers_or_counts_are_refused() -> None:
    one, other = top_of([0]), top_of([1])
    with pytest.raises(ValueError, match="of one layer and keep the same number"):
        Top.merge([one["conv1"], other["stage.conv"]])
    with pytest.raises(ValueError, match="of one layer and keep the same number"):
        Top.merge([one["conv1"], other["conv1"]._replace(most=4)])


def test_what_follows_in_place_changes_nothing() -> None:
    found = activations(NET, ["conv1"], IMAGES[0])["conv1"]
    assert torch.equal(found, NET.get_submodule("conv1")(IMAGES[0][None])[0])
    assert (found < 0).any()


def test_a_vector_is_a_map_of_one_place() -> None:
    assert activations(NET, ["flat"], IMAGES[0])["flat"].shape == (45, 1, 1)


def test_nothing_after_the_last_layer_is_run_and_no_hook_remains() -> None:
    class Broken(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise RuntimeError("too far")

    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 1), broken=Broken(), never=nn.ReLU()))
    activations(net, ["conv"], IMAGES[0])
    with pytest.raises(RuntimeError, match="too far"):
        activations(net, ["conv", "never"], IMAGES[0])
    assert not any(module._forward_hooks for module in net.modules())


def test_activations_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="'conv1' gives activations that are not finite"):
        activations(NET, ["conv1"], IMAGES[0] * float("nan"))
    with pytest.raises(ValueError, match=r"'0' gives tuple, neither a map \(1, C, h, w\) nor a vector"):
        activations(nn.Sequential(nn.AdaptiveMaxPool2d(1, return_indices=True)), ["0"], IMAGES[0])
    with pytest.raises(ValueError, match="'unused' takes no part"):
        activations(Unused(), ["unused"], IMAGES[0])


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_layers_are_found_by_their_end() -> None:
    assert find_layer(NET, "conv1") == "conv1"
    assert find_layer(NET, "conv") == "stage.conv"
    with pytest.raises(ValueError, match=r"no layer 'conv2'; did you mean stage\.conv or conv1\?"):
        find_layer(NET, "conv2")
    with pytest.raises(ValueError, match="no layer ''; layers are conv1, relu1, stage, flat"):
        find_layer(NET, "")
    twice = nn.ModuleDict({"a": network(), "b": network()})
    with pytest.raises(ValueError, match=r"2 layers are called 'conv1': say which, a\.conv1 or b\.conv1"):
        find_layer(twice, "conv1")
