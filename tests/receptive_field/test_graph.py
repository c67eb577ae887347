import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from fcn_core.models.fcn import FCN
from fcn_core.receptive_field.graph import Graph, trace
from fcn_core.receptive_field.operations import Kind, Pair
from fcn_core.settings import Model
from tests.receptive_field.poison import hulls, predicted, support
from tests.receptive_field.random_networks import random_network


def narrow(**settings: object) -> FCN:
    return FCN(Model.model_validate({"width": 0.02, "fc_channels": 2, **settings}), num_classes=2).double()


def resnet(name: str) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = torchvision.models.get_model(name, num_classes=2)
    for layer in network.modules():  # As narrow as the class lets it be: the first channels of each layer.
        if isinstance(layer, nn.Conv2d):
            before = 3 if layer.in_channels == 3 else 1
            layer.in_channels, layer.out_channels = before, 1
            layer.weight = nn.Parameter(torch.randn(1, before, *layer.kernel_size))
        if isinstance(layer, nn.BatchNorm2d):
            layer.__init__(1)  # type: ignore[misc]
        if isinstance(layer, nn.Linear):
            layer.__init__(1, 2)  # type: ignore[misc]
    return network.double().eval()


def assert_exact(graph: Graph, axis: int, lines: list[int]) -> None:
    maps = [len(node.shape) == 3 for node in graph.nodes]
    last = maps.index(False) if False in maps else len(maps)
    graph = graph.until(graph.nodes[last - 1].name)
    found = zip(graph.nodes, support(graph, axis, lines), predicted(graph, axis, lines), strict=True)
    for node, truth, (changed, needed) in found:
        np.testing.assert_array_equal(truth, changed, f"changed {node.name}")
        np.testing.assert_array_equal(truth, needed, f"needed {node.name}")


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 32, "geometry": "reference"},
        {"stride": 16, "geometry": "reference"},
        {"stride": 8, "geometry": "reference"},
        {"stride": 32},
        {"stride": 16, "trunk": "vgg16_bn"},
        {"stride": 8},
        {"stride": 8, "at_once": True, "upsampling": "fixed"},
        {"stride": 8, "trunk": "resnet18"},
        {"stride": 16, "trunk": "resnet50"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
@pytest.mark.parametrize(("size", "axis"), [((9, 470), 1), ((71, 3), 0)])
def test_every_layer_of_fcn_sees_what_poison_says(settings: dict[str, object], size: Pair, axis: int) -> None:
    lines = sorted({*range(3), *range(30, 34), *range(0, size[axis], 29), size[axis] - 2, size[axis] - 1})
    assert_exact(trace(narrow(**settings), size=size), axis, lines)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("size", "axis"), [((33, 459), 1), ((97, 32), 0)])
def test_every_layer_of_a_resnet_sees_what_poison_says(name: str, size: Pair, axis: int) -> None:
    lines = sorted({*range(3), *range(30, 34), *range(0, size[axis], 29), size[axis] - 2, size[axis] - 1})
    graph = trace(resnet(name), size=size)
    assert [node.name for node in graph.nodes if node.kind is Kind.GLOBAL] == ["avgpool", "flatten", "fc"]
    assert_exact(graph, axis, lines)


@pytest.mark.parametrize("seeds", [range(start, start + 10) for start in range(0, 60, 10)])
def test_random_networks_see_what_poison_says(seeds: range) -> None:
    for seed in seeds:
        size = 17 + seed % 5, 24 - seed % 7
        graph = trace(random_network(seed, size, holes=False), size=size, channels=2)
        assert not [node.name for node in graph.nodes if node.kind is Kind.GLOBAL]
        for axis in (0, 1):
            assert_exact(graph, axis, list(range(size[axis])))


@pytest.mark.parametrize("seeds", [range(start, start + 10) for start in range(100, 140, 10)])
def test_sets_with_holes_lie_in_their_intervals(seeds: range) -> None:
    for seed in seeds:
        size = 19 + seed % 5, 24 - seed % 7
        graph = trace(random_network(seed, size, holes=True, steps=4), size=size, channels=2)
        for axis in (0, 1):
            lines = range(size[axis])
            found = zip(graph.nodes, support(graph, axis, lines), predicted(graph, axis, lines), strict=True)
            for node, truth, (changed, needed) in found:
                assert not (truth & ~changed).any(), (seed, node.name)
                assert not (truth & ~needed).any(), (seed, node.name)


def test_dilated_fields_reach_from_the_first_to_the_last_pixel() -> None:
    layers = [nn.Conv2d(1, 1, 3, dilation=4), nn.MaxPool2d(3, 2, dilation=2), nn.Conv2d(1, 1, 3, dilation=3)]
    graph = trace(nn.Sequential(*layers).double(), size=(60, 50))
    for axis in (0, 1):
        lines = range((60, 50)[axis])
        found = zip(support(graph, axis, lines), predicted(graph, axis, lines), strict=True)
        assert all((hulls(truth) == needed).all() for truth, (_, needed) in found)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_padding_that_keeps_the_size_has_more_after_than_before() -> None:
    layers = [nn.Conv2d(2, 1, (4, 2), padding="same"), nn.MaxPool2d(2), nn.Conv2d(1, 1, (6, 3), padding="same")]
    graph = trace(nn.Sequential(*layers).double(), size=(17, 16))
    for axis, extent in enumerate((17, 16)):
        assert_exact(graph, axis, list(range(extent)))


@pytest.mark.parametrize("size", [(33, 47), (23, 19)])
@pytest.mark.parametrize("seed", [3, 104, 117])
def test_nodes_compute_what_the_network_computes(seed: int, size: Pair) -> None:
    network = random_network(seed, size, holes=seed > 100)
    images = torch.randn(2, 2, *size, dtype=torch.float64)
    assert torch.equal(trace(network, size=size, channels=2).outputs(images)[-1], network(images))


def test_modules_end_at_the_nodes_that_made_their_results() -> None:
    network = torchvision.models.resnet18().eval()
    images = torch.randn(1, 3, 45, 51)
    returned: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _module, _args, result, name=name: returned.update({name: result.clone()}))
    graph = trace(network, size=(45, 51))
    network(images)
    del returned[""]
    outputs = graph.outputs(images)
    assert len(returned) == 67
    for name, result in returned.items():
        assert torch.equal(outputs[graph.find(name)], result), name


def test_an_fcn_is_followed_through_its_crops_and_lists_of_layers() -> None:
    graph = trace(narrow(geometry="reference"), size=(37, 52))
    assert graph.nodes[-1].kind is Kind.SLICE
    assert graph.nodes[-1].extents == (37, 52)
    ends = {"pool5": "trunk.stages.4.pool5", "trunk.stages.2": "trunk.stages.2.pool3", "trunk": "trunk.relu:2"}
    ends |= {"trunk.stages": "trunk.stages.4.pool5", "trunk.drop6": "trunk.relu:1", "conv1_1": "trunk.stages.0.conv1_1"}
    assert {name: graph.nodes[graph.find(name)].name for name in ends} == ends
    shorter = trace(narrow(geometry="reference"), "conv4_3", size=(37, 52))
    assert shorter.nodes[-1].name == "trunk.stages.3.conv4_3"
    assert [node.kind for node in shorter.nodes if node.kind is Kind.TRANSPOSED] == []


def test_options_have_pairs_and_the_networks_own_tensors() -> None:
    layers = nn.Sequential(
        nn.Conv2d(4, 6, (3, 4), (2, 1), padding=(0, 1), groups=2),
        nn.BatchNorm2d(6),
        nn.MaxPool2d(3, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        nn.ConvTranspose2d(6, 1, 3, 2, 1, 1),
        nn.Conv2d(1, 1, 4, padding="same", dilation=3),
        nn.ConstantPad2d((1, -2, 3, 0), 0.5),
    )
    convolution, norm, maximum, average, transposed, same, pad = (
        node.options for node in trace(layers, size=(64, 64), channels=4).nodes[1:]
    )
    assert convolution["weight"] is layers[0].weight
    assert norm["running_var"] is layers[1].running_var
    assert (convolution["stride"], convolution["padding"], convolution["groups"]) == ((2, 1), ((0, 0), (1, 1)), 2)
    assert (maximum["kernel_size"], maximum["stride"], maximum["ceil_mode"]) == ((3, 3), (3, 3), True)
    assert (average["padding"], average["count_include_pad"]) == (((1, 1), (1, 1)), False)
    assert (transposed["output_padding"], transposed["dilation"]) == ((1, 1), (1, 1))
    assert (same["padding"], same["dilation"]) == (((4, 5), (4, 5)), (3, 3))
    assert (pad["padding"], pad["value"]) == (((3, 0), (1, -2)), 0.5)


class Odd(nn.Module):
    """One function of a map, after a convolution that sees a row around."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.before = nn.Conv2d(2, 2, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(2, 1, 1))
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.function(self, self.before(images))  # type: ignore[operator]
        return result


UNDERSTOOD = {
    "scale by a parameter": (lambda net, x: x * net.scale, Kind.POINTWISE),
    "scale by what is computed from one": (lambda net, x: torch.mul(x, 1 + net.scale.exp()), Kind.POINTWISE),
    "softmax over channels": (lambda _, x: x.softmax(1), Kind.POINTWISE),
    "in place": (lambda _, x: x.relu_().add_(x), Kind.ADD),
    "subtract": (lambda _, x: x - x.abs(), Kind.JOIN),
    "with a factor": (lambda _, x: torch.add(x, x, alpha=3), Kind.JOIN),
    "half the channels": (lambda _, x: torch.cat([x.chunk(2, dim=1)[1], x.split(1, 1)[0]], 1), Kind.CONCATENATE),
    "cut": (lambda _, x: x[:, :1, -5:-1], Kind.SLICE),
    "by shape": (lambda _, x: x[..., : x.shape[2] // 2, : x.size(-1) - len(x)], Kind.SLICE),
    "named arguments": (lambda net, x: functional.conv2d(input=x, weight=net.before.weight), Kind.CONVOLUTION),
    "functional kernel": (lambda net, x: functional.conv2d(x, net.before.weight, dilation=2), Kind.CONVOLUTION),
    "resize": (lambda _, x: functional.interpolate(x, size=(20, 9), mode="bilinear"), Kind.RESIZE),
    "constant on the device": (lambda _, x: x * torch.ones(1, device=x.device), Kind.POINTWISE),
}
NOT_UNDERSTOOD = {
    "adaptive_avg_pool2d": lambda _, x: x + functional.adaptive_avg_pool2d(x, 1),
    "instance_norm": lambda _, x: functional.instance_norm(x),
    "transpose": lambda _, x: x.transpose(2, 3),
    "flip": lambda _, x: x.flip(2),
    "softmax": lambda _, x: x.softmax(-1),
    "roll": lambda _, x: torch.roll(x, 3, 2),
    "mul": lambda _, x: x * torch.rand(x.shape[2:]),
    "conv2d": lambda _, x: functional.conv2d(x, x[:, :, :3, :3].detach().clone()),
    "cumsum": lambda _, x: x.cumsum(2),
    "max_pool2d_with_indices": lambda _, x: functional.max_pool2d(x, 2, return_indices=True)[0],
    "setitem": lambda _, x: (x.__setitem__((slice(None), slice(None), 0), 1.0), x)[1],
    "mean": lambda _, x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "getitem": lambda _, x: x[:, :, torch.tensor([5, 1, 3, 7])],
    "conv_transpose2d": lambda _, x: functional.conv_transpose2d(x, x[:, :, :3, :3].transpose(0, 1).detach().clone()),
    "clamp": lambda _, x: x.clamp(min=x.mean()),
    "cat": lambda _, x: torch.cat([x, torch.zeros(1, 1, *x.shape[2:])], dim=1),
    "cat of rows": lambda _, x: torch.cat([x, x], dim=2),
    "chunk": lambda _, x: x.chunk(2, dim=2)[1],
    "getitem of no map": lambda _, x: x.flatten(1)[:, :50],
    "getitem of the batch": lambda _, x: x[:1, 1],
    "pad": lambda _, x: functional.pad(x, (0, 0, 0, 0, 1, 0)),
    "pad by what is there": lambda _, x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "interpolate": lambda _, x: functional.interpolate(x, size=(20, 9), mode="bicubic"),
    "interpolate with antialias": lambda _, x: functional.interpolate(x, (5, 9), mode="bilinear", antialias=True),
    "interpolate a row": lambda _, x: functional.interpolate(x, (1, 9), mode="bilinear", align_corners=True),
    "interpolate by a factor": lambda _, x: functional.interpolate(x, scale_factor=1.3, mode="bilinear"),
    "norm": lambda _, x: x / x.norm(),
    "batch_norm": lambda _, x: functional.batch_norm(x, None, None, training=True),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_functions_of_one_place_stay_in_place(name: str) -> None:
    function, kind = UNDERSTOOD[name]
    network = Odd(function).double()
    graph = trace(network, size=(13, 12))
    images = torch.randn(1, 2, 13, 12, dtype=torch.float64)
    assert torch.equal(graph.outputs(images)[-1], network(images.clone()))
    assert graph.nodes[-1].kind is kind
    assert Kind.GLOBAL not in [node.kind for node in graph.nodes]
    assert_exact(graph, 1, list(range(12)))


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_what_reaches_everywhere_or_is_not_known_is_global_by_name(name: str) -> None:
    network = Odd(NOT_UNDERSTOOD[name])
    graph = trace(network, size=(13, 12))
    assert name.split(maxsplit=1)[0] in [node.function for node in graph.nodes if node.kind is Kind.GLOBAL]
    images = torch.randn(1, 2, 13, 12)
    if name != "mul":  # Draws another constant at each call.
        torch.testing.assert_close(graph.outputs(images)[-1], network(images.clone()))
    last = len(graph.nodes) - 1
    assert graph.needed(last, np.array([0, 1]), 0)[0].tolist() == [0, 13]


@pytest.mark.parametrize(
    "options",
    [
        {"scale_factor": 2},
        {"size": (13, 31)},
        {"size": (5, 4)},
        {"scale_factor": 3, "mode": "bilinear"},
        {"size": (17, 30), "mode": "bilinear"},
        {"size": (6, 4), "mode": "bilinear"},
        {"size": (17, 30), "mode": "bilinear", "align_corners": True},
    ],
    ids=str,
)
def test_resized_maps_see_what_has_weight(options: dict[str, object]) -> None:
    network = nn.Upsample(**options)  # type: ignore[arg-type]
    for axis, extent in enumerate((9, 11)):
        graph = trace(network, size=(9, 11), channels=1)
        assert graph.nodes[-1].kind is Kind.RESIZE
        ones = torch.eye(extent, dtype=torch.float64)[:, None, :, None].expand(-1, 1, -1, (11, 9)[axis])
        weights = graph.outputs(ones if axis == 0 else ones.transpose(2, 3))[-1].mean((1, 3 - axis))
        changed, needed = predicted(graph, axis, range(extent))[-1]
        seen = (weights.abs() > 1e-9).numpy()
        assert not (seen & ~needed).any()
        assert (needed & ~seen).sum() <= seen.shape[1] / 2, "a neighbour of weight 0 is taken to be seen"
        assert (changed == needed).all()


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("densenet121", {"adaptive_avg_pool2d", "flatten", "linear"}),
        ("googlenet", {"adaptive_avg_pool2d", "flatten", "linear"}),
        ("mobilenet_v3_small", {"adaptive_avg_pool2d", "flatten", "linear"}),
        ("deeplabv3_resnet50", {"adaptive_avg_pool2d"}),
        ("shufflenet_v2_x0_5", {"view", "transpose", "mean", "linear"}),
    ],
)
def test_other_architectures_are_followed(name: str, unknown: set[str]) -> None:
    with torch.device("meta"):
        options = {"weights_backbone": None, "aux_loss": True} if name.startswith("deeplab") else {}
        options |= {"init_weights": False} if name == "googlenet" else {}
        network = torchvision.models.get_model(name, **options)
    graph = trace(network, size=(65, 97))
    assert {node.function for node in graph.nodes if node.kind is Kind.GLOBAL} == unknown
    assert all(max(node.inputs) < index for index, node in enumerate(graph.nodes) if index)


def test_a_network_is_left_as_it_was() -> None:
    network = narrow(trunk="resnet18").train()
    next(network.children()).eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="cannot follow"):
        trace(network, size=(64, 64), channels=4)
    trace(network, size=(64, 64))
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_layer_that_does_not_exist_is_an_error_with_names_like_it() -> None:
    graph = trace(torchvision.models.resnet18(), size=(64, 64))
    with pytest.raises(ValueError, match=r"^no layer 'layer5': did you mean .*layer4.*\?$"):
        graph.find("layer5")
    with pytest.raises(ValueError, match=r"no layer 'layer1.conv1': did you mean") as error:
        graph.until("layer1.conv1")
    assert ".conv1, " in str(error.value)
    with pytest.raises(ValueError, match="no layer 'xyz': did you mean input"):
        trace(nn.Conv2d(3, 1, 1), "xyz")


def test_a_network_that_cannot_be_followed_says_why() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    class Empty(nn.Module):
        def forward(self, images: Tensor) -> list[int]:
            return list(images.shape)

    class Foreign(nn.Module):
        hidden = torch.empty(1, device="meta")

        def forward(self, images: Tensor) -> Tensor:
            return images * self.hidden

    with pytest.raises(ValueError, match=r"cannot follow Foreign .* a tensor that no function of torch has made"):
        trace(Foreign())
    with pytest.raises(TypeError, match="given, not computed"):
        trace(nn.ReLU()).nodes[0].run()
    with pytest.raises(ValueError, match=r"cannot follow Conv2d on an image of \(2, 2\): .*Kernel size can't be great"):
        trace(nn.Conv2d(3, 1, 5), size=(2, 2))
    with pytest.raises(ValueError, match="cannot follow Branching"):
        trace(Branching())
    with pytest.raises(ValueError, match="Empty returned nothing that depends on the image"):
        trace(Empty())


def test_a_network_of_a_single_layer_is_named_by_its_function() -> None:
    graph = trace(nn.Conv2d(3, 1, 5), size=(9, 9))
    assert [node.name for node in graph.nodes] == ["input", "conv2d"]
    assert trace(nn.Identity()).nodes[-1].name == "input"


def test_many_intervals_at_once_are_each_as_alone() -> None:
    graph = trace(random_network(7, (21, 21), holes=True), size=(21, 21), channels=2)
    starts = np.random.default_rng(0).integers(0, 15, (4, 5))
    many = np.stack([starts, starts + 3], axis=-1)
    together, last = graph.changed(many, 0), len(graph.nodes) - 1
    units = many % 7
    needed = graph.needed(last, units, 1)
    for place in np.ndindex(4, 5):
        assert all(
            (one[place] == all_[place]).all() for one, all_ in zip(together, graph.changed(many, 0), strict=True)
        )
        alone = graph.needed(last, many[place] % 7, 1)
        assert [units.tolist() for units in alone] == [units[place].tolist() for units in needed]
