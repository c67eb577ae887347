import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from fcn_core.models.trunks import VGG16, ResNet, build_trunk
from fcn_core.settings import Model, Trunk

TRUNKS: list[Trunk] = ["vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def narrow(trunk: Trunk = "vgg16", **others: object) -> Model:
    return Model.model_validate({"trunk": trunk, "width": 0.05, "fc_channels": 7} | others)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_vgg16_has_the_layers_of_the_paper() -> None:
    with torch.device("meta"):
        trunk = build_trunk(Model())
    assert isinstance(trunk, VGG16)
    names = [name.split(".")[-1] for name, layer in trunk.named_modules() if isinstance(layer, nn.Conv2d)]
    counts = (2, 2, 3, 3, 3)
    convolutions = [f"conv{stage}_{index}" for stage, count in enumerate(counts, 1) for index in range(1, count + 1)]
    assert names == [*convolutions, "fc6", "fc7"]
    assert num_parameters(trunk.stages) == 14_714_688
    assert num_parameters(trunk.fc6) == 102_764_544
    assert num_parameters(trunk.fc7) == 16_781_312


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_trunk_has_the_parameters_of_its_classifier(trunk: Trunk) -> None:
    with torch.device("meta"):
        ours, classifier = build_trunk(Model(trunk=trunk)), get_model(trunk, weights=None)
    last = classifier.get_submodule("classifier.6" if trunk.startswith("vgg16") else "fc")
    assert num_parameters(ours) == num_parameters(classifier) - num_parameters(last)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_maps_have_the_channels_and_sizes_that_a_trunk_tells(trunk: Trunk) -> None:
    network = build_trunk(narrow(trunk)).eval()
    maps = network(images())
    assert {stride: features.shape for stride, features in maps.items()} == {
        stride: (2, network.channels[stride], 64 // stride, 96 // stride) for stride in (8, 16, 32)
    }


@pytest.mark.parametrize("trunk", TRUNKS)
def test_later_layers_leave_the_maps_of_the_skips_alone(trunk: Trunk) -> None:
    network = build_trunk(narrow(trunk)).eval()
    features = images()
    if isinstance(network, ResNet):
        features = network.maxpool(network.relu(network.bn1(network.conv1(features))))
    stages = network.stages if isinstance(network, VGG16) else network.get_submodule("layers").children()
    alone: dict[int, Tensor] = {}
    for stage in stages:
        features = stage(features)
        alone[64 // features.shape[2]] = features.clone()
    maps = network(images())
    assert torch.equal(maps[8], alone[8])
    assert torch.equal(maps[16], alone[16])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_convolutions_start_so_that_activations_keep_their_size(trunk: Trunk) -> None:
    maps = build_trunk(narrow(trunk, width=0.25, fc_channels=64, dropout=0))(images())
    assert all(0.05 < features.std() < 20 for features in maps.values())


def test_biases_start_at_zero() -> None:
    trunk = build_trunk(narrow())
    biases = [layer.bias for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
    assert len(biases) == 15
    assert all(bias is not None and not bias.any() for bias in biases)


@pytest.mark.parametrize("trunk", ["vgg16", "resnet18"])
def test_dropout_falls_on_the_coarsest_map_by_the_seed_of_each_image(trunk: Trunk) -> None:
    network = build_trunk(narrow(trunk, width=0.25, fc_channels=512)).double().eval()
    whole = network(images().double())
    for layer in network.modules():
        layer.training = not isinstance(layer, nn.BatchNorm2d)
    seeds = torch.tensor([5, 6])
    maps = network(images().double(), seeds)
    assert torch.equal(maps[8], whole[8])
    assert (maps[32] == 0).double().mean() > (whole[32] == 0).double().mean() + 0.15
    alone = network(images().double()[1:], seeds[1:])
    torch.testing.assert_close(alone[32], maps[32][1:])
    other = network(images().double(), torch.tensor([5, 7]))
    assert torch.equal(other[16], maps[16])
    assert torch.equal(other[32][0], maps[32][0])
    assert not torch.equal(other[32][1], maps[32][1])


def test_fc6_and_fc7_drop_other_elements() -> None:
    trunk = build_trunk(narrow())
    assert isinstance(trunk, VGG16)
    ones, seeds = torch.ones(1, 7, 16, 16), torch.tensor([1])
    assert not torch.equal(trunk.drop6(ones, seeds), trunk.drop7(ones, seeds))
