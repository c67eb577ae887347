import random
from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from fcn_core.models.fcn import FCN
from fcn_core.models.geometry import PIXELS, Grid
from fcn_core.receptive_field.graph import trace
from fcn_core.receptive_field.operations import Kind
from fcn_core.receptive_field.theory import LayerField, ReceptiveField, extent, receptive_fields
from fcn_core.settings import Model, Trunk
from tests.receptive_field.poison import support
from tests.receptive_field.random_networks import random_network


def fields_of(network: nn.Module, size: tuple[int, int] = (224, 224)) -> dict[str, LayerField]:
    graph = trace(network, size=size)
    fields = receptive_fields(graph)
    return {name: fields[index] for name, index in graph.names.items()}


def fcn(**settings: object) -> FCN:
    with torch.device("meta"):
        return FCN(Model.model_validate({"width": 0.02, "fc_channels": 2, **settings}), num_classes=2)


def figures(field: LayerField) -> tuple[float, float, float]:
    assert field.rows == field.columns
    return field.rows.size, float(field.rows.stride), float(field.rows.padding)


def test_resnets_have_the_published_fields() -> None:
    fields = fields_of(torchvision.models.resnet18())
    published = {"layer1": (43, 4, 21), "layer2": (99, 8, 49), "layer3": (211, 16, 105), "layer4": (435, 32, 217)}
    assert {name: figures(fields[name]) for name in published} == published
    assert fields["layer4"].shape == (512, 7, 7)
    fields = fields_of(torchvision.models.resnet50())
    published = {"layer1": (35, 4, 17), "layer2": (91, 8, 45), "layer3": (267, 16, 133), "layer4": (427, 32, 213)}
    assert {name: figures(fields[name]) for name in published} == published


def test_vgg16_has_the_published_fields() -> None:
    with torch.device("meta"):
        fields = fields_of(torchvision.models.vgg16())
    # conv3_3, conv4_3, conv5_3 and pool5.
    published = {"features.14": (40, 4, 18), "features.21": (92, 8, 42), "features.28": (196, 16, 90)}
    published["features.30"] = (212, 32, 90)
    assert {name: figures(fields[name]) for name in published} == published
    with torch.device("meta"):
        alexnet = fields_of(torchvision.models.alexnet())["features"]
    assert figures(alexnet)[:2] == (195, 32)
    convolutional = fields_of(fcn(stride=32))
    assert figures(convolutional["trunk.stages.4.pool5"]) == (212, 32, 90)
    assert figures(convolutional["trunk.fc6"]) == (404, 32, 186)


@pytest.mark.parametrize("size", [(224, 224), (77, 131)])
def test_fields_do_not_depend_on_the_size_of_the_image(size: tuple[int, int]) -> None:
    for network in (fcn(stride=8), fcn(stride=16, geometry="reference"), fcn(trunk="resnet18")):
        fields, others = fields_of(network, (192, 160)), fields_of(network, size)
        both = fields.keys() & others.keys()
        assert len(both) > 50
        assert all(fields[name][3:] == others[name][3:] for name in both)


def test_scores_of_an_fcn_lie_on_the_pixels() -> None:
    for trunk, geometry in [("vgg16", "same"), ("vgg16", "reference"), ("resnet18", "same")]:
        for stride in (32, 16, 8):
            last = receptive_fields(fcn(stride=stride, trunk=trunk, geometry=geometry), (96, 64))[-1]
            assert last.rows.stride == 1
            assert last.rows.offset == 0
            assert last.rows.period == 32
            assert (last.rows.smallest < last.rows.size) == (stride < 32 or trunk == "resnet18")


def test_fields_behind_a_transposed_convolution_repeat() -> None:
    fields = fields_of(fcn(stride=8))
    deep, up = fields["scores.score_fr"].rows, fields["upscores.upscore2"].rows
    assert deep == ReceptiveField(404, Fraction(32), Fraction(31, 2), 404)
    # A kernel of 4 with stride 2: each fine unit sees 2 coarse ones.
    assert up == ReceptiveField(436, Fraction(16), Fraction(15, 2), 436, 2)
    three = receptive_fields(nn.ConvTranspose2d(1, 1, 3, 2, 1), (9, 9))[-1].rows
    assert three == ReceptiveField(2, Fraction(1, 2), Fraction(0), 1, 2)
    gaps = receptive_fields(nn.ConvTranspose2d(1, 1, 1, 3), (9, 9))[-1].rows
    assert gaps == ReceptiveField(1, Fraction(1, 3), Fraction(0), 0, 3), "two of three units see nothing"


def test_resized_maps_have_fractional_strides() -> None:
    rows, columns = receptive_fields(nn.Upsample((6, 25)), (9, 10))[-1][3:]
    assert (rows.stride, rows.period, rows.size) == (Fraction(3, 2), 2, 1)
    assert (columns.stride, columns.period) == (Fraction(2, 5), 5)
    rows = receptive_fields(nn.Upsample(scale_factor=4, mode="bilinear"), (9, 10))[-1].rows
    assert rows == ReceptiveField(2, Fraction(1, 4), Fraction(-3, 8), 2, 4)


@pytest.mark.parametrize("trunk", ["vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_the_grids_of_a_network_are_those_of_its_graph(trunk: Trunk, stride: int) -> None:
    network = fcn(trunk=trunk, stride=stride)
    fields = fields_of(network)
    ends = {8: "trunk.stages.2", 16: "trunk.stages.3", 32: "trunk.fc7"}
    if trunk.startswith("resnet"):
        ends = {8: "trunk.layers.layer2", 16: "trunk.layers.layer3", 32: "trunk.layers.layer4"}
    found = {stride: fields[name].rows for stride, name in ends.items()}
    assert {
        stride: Grid(float(field.stride), float(field.offset), field.size) for stride, field in found.items()
    } == network.trunk.grids


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"stride": 8}, (64, 1600)),
        ({"stride": 32, "geometry": "reference"}, (64, 1600)),
        ({"stride": 16, "trunk": "resnet18"}, (1600, 64)),
    ],
)
def test_the_reach_of_a_network_is_enough_and_not_much_more(settings: dict[str, object], size: tuple[int, int]) -> None:
    network = fcn(**settings)
    graph = trace(network, size=size)
    axis = size.index(1600)
    units = np.arange(600, 664)
    first, stop = graph.needed(len(graph.nodes) - 1, np.stack([units, units + 1], -1), axis, clipped=False)[0].T
    farthest = max((units - first).max(), (stop - 1 - units).max())
    assert farthest <= network.reach <= farthest + 1


def test_random_stacks_of_convolutions_have_the_grid_of_their_layers() -> None:
    rng = random.Random(0)  # noqa: S311
    for _ in range(40):
        layers = [nn.Conv2d(1, 1, rng.randint(1, 5), rng.randint(1, 3), rng.randint(0, 2)) for _ in range(4)]
        rows = receptive_fields(nn.Sequential(*layers), (300, 300))[-1].rows
        assert Grid(float(rows.stride), float(rows.offset), rows.size) == PIXELS.after(layers)
        assert (rows.smallest, rows.period) == (rows.size, 1)


def test_units_far_from_any_border_see_exactly_their_field() -> None:
    sizes = []
    for seed in range(200, 240):
        size = 41 + seed % 3, 20
        graph = trace(random_network(seed, size, holes=seed % 2 == 0, steps=3), size=size, channels=2)
        if any(node.kind is Kind.TRANSPOSED for node in graph.nodes) and seed % 2 == 0:
            continue  # Holes between what is spread are not filled.
        truths = support(graph, 0, range(size[0]))
        for index, (field, truth) in enumerate(zip(receptive_fields(graph), truths, strict=True)):
            units = np.arange(truth.shape[1])
            ends = np.stack([units, units + 1], axis=-1)
            free, clipped = (graph.needed(index, ends, 0, clipped=clipped) for clipped in (False, True))
            inside = np.all([(one == other).all(-1) for one, other in zip(free, clipped, strict=True)], axis=0)
            for unit in units[inside]:
                rows = np.flatnonzero(truth[:, unit])
                assert [rows[0], rows[-1] + 1] == free[0][unit].tolist(), (seed, field.name)
                assert field.rows.smallest <= rows[-1] + 1 - rows[0] <= field.rows.size
                sizes.append((rows[-1] + 1 - rows[0], field.rows.size))
    assert len(sizes) > 2000
    assert np.mean([size == largest for size, largest in sizes]) > 0.9


def test_the_extent_of_a_unit_is_clipped_to_the_image_or_not() -> None:
    graph = trace(torchvision.models.resnet18(), size=(200, 333))
    assert extent(graph, "layer4", (0, 10)) == ((0, 200), (103, 333))
    assert extent(graph, "layer4", (0, 10), clipped=False) == ((-217, 218), (103, 538))
    assert extent(graph, "conv1", (99, 3)) == ((195, 200), (3, 10))
    with pytest.raises(ValueError, match=r"layer4 has 7 x 11 units, so there is none at row and column \(7, 0\)"):
        extent(graph, "layer4", (7, 0))


def test_what_sees_everything_says_so() -> None:
    fields = fields_of(torchvision.models.get_model("mobilenet_v3_small"), (64, 96))
    assert not fields["features.0"].rows.everywhere
    squeezed = fields["features.1.block.1"]  # Its output is multiplied by a mean over the whole map.
    assert squeezed.rows.everywhere
    assert (squeezed.rows.size, squeezed.columns.size) == (64, 96)
    assert fields["classifier"].kind is Kind.GLOBAL


def test_paths_of_unlike_strides_have_no_period() -> None:
    class Unlike(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[..., :8, :8] + images[..., ::2, ::2]

    rows = receptive_fields(Unlike(), (16, 16))[-1].rows
    assert (rows.size, rows.smallest, rows.period) == (8, 1, 8)
    assert rows.stride == Fraction(3, 2)
