import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.vgg import VGG, make_layers

from fcn_core.models.fcn import FCN
from fcn_core.models.weights import Weights, _adapt, check_trunk, load_classifier, read_weights, start_from
from fcn_core.settings import Model, Trunk


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(**chosen: object) -> FCN:
    num_classes = 4 if chosen.pop("more_classes", False) else 3
    return FCN(Model.model_validate({"width": 0.05, "fc_channels": 8} | chosen), num_classes)


def randomise(network: nn.Module) -> nn.Module:
    """Give everything that starts at 0 or 1, statistics too, random values."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            nn.init.uniform_(value, 0.5, 1.5) if name.endswith("var") else nn.init.normal_(value, std=0.2)
    return network


def narrow_vgg16(*, batch_norm: bool = False) -> VGG:
    """Make torchvision's VGG16 as narrow as ours."""
    channels = [max(1, round(base * 0.05)) for base in (64, 128, 256, 512, 512)]
    layers: list[str | int] = []
    for width, count in zip(channels, (2, 2, 3, 3, 3), strict=True):
        layers += [width] * count
        layers.append("M")
    features = make_layers(layers, batch_norm=batch_norm)
    with torch.device("meta"):
        classifier = VGG(features, init_weights=False)
    classifier.classifier[0] = nn.Linear(channels[-1] * 49, 8)
    classifier.classifier[3] = nn.Linear(8, 8)
    classifier.classifier[6] = nn.Linear(8, 10)
    randomise(classifier)
    return classifier.eval()


# Classifiers.


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("trunk", ["vgg16", "vgg16_bn"])
def test_fc7_of_a_vgg16_is_what_the_classifier_computes_on_a_window(trunk: Trunk, suffix: str, tmp_path: Path) -> None:
    classifier = narrow_vgg16(batch_norm=trunk == "vgg16_bn")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(classifier.state_dict(), path)
    else:
        save_file(classifier.state_dict(), path)
    network = build(trunk=trunk).eval()
    load_classifier(network, str(path), trunk)
    image = torch.randn(2, 3, 224, 224)
    pooled = classifier.features(image)
    fc7 = nn.Sequential(*list(classifier.classifier.children())[:5])(pooled.flatten(1))
    maps = network.trunk(image)
    # The unit in the middle sees the window of 7x7 units and no padding.
    assert fc7.std() > 0
    torch.testing.assert_close(maps[32][..., 3, 3], fc7)


def test_imagenet_weights_of_a_resnet_give_torchvisions_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = get_model("resnet18", weights=None)
    randomise(classifier).eval()
    published = get_model_weights("resnet18")["IMAGENET1K_V1"].url
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(classifier.state_dict(), tmp_path / "hub/checkpoints" / published.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = FCN(Model(trunk="resnet18"), 3).eval()
    load_classifier(network, "imagenet", "resnet18")
    features = image = torch.randn(1, 3, 64, 96)
    expected = []
    for layer in list(classifier.children())[:-2]:
        features = layer(features)
        expected.append(features)
    maps = network.trunk(image)
    for ours, theirs in zip((maps[8], maps[16], maps[32]), expected[-3:], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("trunk", ["vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"])
def test_every_tensor_of_a_trunk_comes_from_the_classifier_of_its_name(trunk: Trunk) -> None:
    with torch.device("meta"):
        network, classifier = FCN(Model(trunk=trunk), 3), get_model(trunk, weights=None)
    adapted = _adapt(classifier.state_dict(), network.trunk, "torchvision")
    assert {name: value.shape for name, value in adapted.items()} == {
        name: value.shape for name, value in network.trunk.state_dict().items()
    }


def test_fc6_and_fc7_of_another_size_stay_random(tmp_path: Path) -> None:
    torch.save(narrow_vgg16().state_dict(), tmp_path / "weights.pth")
    network = build(fc_channels=16)
    before = {name: value.clone() for name, value in network.trunk.state_dict().items()}
    load_classifier(network, str(tmp_path / "weights.pth"), "vgg16")
    same = [name for name, value in network.trunk.state_dict().items() if torch.equal(value, before[name])]
    assert same == ["fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"]


@pytest.mark.parametrize(
    ("trunk", "theirs", "reason"),
    [
        ("vgg16", "resnet18", "has 0 feature layers with weights, this VGG16 has 13"),
        ("vgg16", "vgg16_bn", "has 26 feature layers with weights, this VGG16 has 13"),
        ("vgg16_bn", "vgg16", "has 13 feature layers with weights, this VGG16 has 26"),
        ("vgg16", "densenet121", "has 0 feature layers with weights, this VGG16 has 13"),
        ("vgg16", "vgg16", "does not fit the trunk: size mismatch for stages"),
        ("resnet18", "vgg16", "does not fit trunk resnet18: [0-9]+ tensors missing, 32 unknown"),
        ("resnet18", "resnet34", "does not fit the trunk: size mismatch"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(trunk: Trunk, theirs: str, reason: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in get_model(theirs, weights=None).state_dict().items()}
    path = str(tmp_path / "weights.pth")
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ValueError, match=f"{path} {reason}"):
        load_classifier(build(trunk=trunk), path, trunk)


@pytest.mark.parametrize(
    ("ours", "theirs", "counts"),
    [
        ("resnet18", "resnet34", "0 tensors missing, 96 unknown"),
        ("resnet34", "resnet18", "80 tensors missing, 0 unknown"),
    ],
)
def test_a_resnet_of_another_depth_is_refused(ours: Trunk, theirs: Trunk, counts: str, tmp_path: Path) -> None:
    weights = build(trunk=theirs).trunk.state_dict()
    path = str(tmp_path / "weights.pth")
    torch.save({name.removeprefix("layers."): value for name, value in weights.items()}, path)
    with pytest.raises(ValueError, match=f"does not fit trunk {ours}: {counts}"):
        load_classifier(build(trunk=ours), path, ours)


def set_to(name: str, value: float) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[name].fill_(value)

    return change


def set_one_to(name: str, value: float) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[name].view(-1)[1] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_one_to("features.3.weight", math.nan), r"has values in trunk.stages.0.conv1_2.weight that are not finite"),
        (set_one_to("classifier.0.bias", math.inf), r"has values in trunk.fc6.bias that are not finite"),
        (
            set_one_to("features.4.running_var", math.nan),
            r"has values in trunk.stages.0.bn1_2.running_var that are not",
        ),
        (set_to("features.3.weight", 0), r"leaves trunk.stages.0.conv1_2.weight all zero: no gradient would pass it"),
    ],
    ids=["NaN", "infinity", "statistics", "zero"],
)
def test_weights_that_cannot_be_trained_from_are_refused(
    change: Callable[[Weights], None], reason: str, tmp_path: Path
) -> None:
    weights = narrow_vgg16(batch_norm=True).state_dict()
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=reason):
        load_classifier(build(trunk="vgg16_bn"), str(tmp_path / "weights.pth"), "vgg16_bn")


def test_zero_biases_are_no_fault() -> None:
    check_trunk(build(), "a network as it starts")


# Files.


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    trap, path = tmp_path / "executed", tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1), "b": Touch(trap)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth holds no tensors that can be read"):
        read_weights(str(path))
    path.write_bytes(pickle.dumps(Touch(trap)))
    with pytest.raises(ValueError, match=r"weights\.pth holds no tensors that can be read"):
        read_weights(str(path))
    assert not trap.exists()


@pytest.mark.parametrize("contents", [{"a": torch.ones(1), "epoch": 3}, [torch.ones(1)], torch.ones(1)])
def test_what_is_no_plain_state_dict_is_refused(contents: object, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth is no plain state dict of tensors"):
        read_weights(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_damaged_or_missing_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=f"{path} holds no tensors that can be read") as caught:
        read_weights(str(path))
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path}"):
        read_weights(str(path))


# Staged training.

STAGES = [(32, 16), (16, 8)]


def trained(**chosen: object) -> FCN:
    """Return a network in which nothing is as it started."""
    network = build(**chosen).double().eval()
    for name, parameter in network.named_parameters():
        if not name.startswith("trunk.") or name.endswith("bias"):
            nn.init.normal_(parameter.data, std=0.3)
    return network


@pytest.mark.parametrize(("coarse", "fine"), STAGES)
@pytest.mark.parametrize("trunk", ["vgg16", "vgg16_bn", "resnet18"])
def test_a_finer_network_takes_over_all_but_its_new_layers(trunk: Trunk, coarse: int, fine: int) -> None:
    weights = trained(trunk=trunk, stride=coarse).state_dict()
    network = build(trunk=trunk, stride=fine).double()
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    stays = start_from(network, weights, "a run")
    new = "pool4" if fine == 16 else "pool3"
    kernels = ["upscore2", "upscore16"] if fine == 16 else ["upscore_pool4", "upscore8"]
    assert stays == [
        f"scores.score_{new}.weight",
        f"scores.score_{new}.bias",
        *(f"upscores.{name}.weight" for name in kernels),
    ]
    for name, value in network.state_dict().items():
        assert torch.equal(value, fresh[name] if name in stays else weights[name])
    assert not any(fresh[name].any() for name in stays if name.startswith("scores."))


def bilinear_stages(trunk: Trunk, coarse: int, fine: int) -> tuple[Tensor, Tensor]:
    """Return the scores of a coarse network and of a finer one that starts from it."""
    before = trained(trunk=trunk, stride=coarse, upsampling="fixed")
    bilinear = build(trunk=trunk, stride=coarse).upscores.state_dict()
    before.upscores.load_state_dict(bilinear)
    after = build(trunk=trunk, stride=fine).double().eval()
    start_from(after, before.state_dict(), "a run")
    image = torch.randn(1, 3, 128, 160, dtype=torch.float64)
    with torch.no_grad():
        return before(image), after(image)


@pytest.mark.parametrize(("coarse", "fine"), STAGES)
def test_a_finer_resnet_starts_with_the_scores_of_the_coarser(coarse: int, fine: int) -> None:
    # Twice linear between units that are among the finer ones is linear again.
    before, after = bilinear_stages("resnet18", coarse, fine)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("coarse", "fine"), STAGES)
def test_a_finer_vgg16_starts_with_the_scores_of_the_coarser_half_way_between_its_units(coarse: int, fine: int) -> None:
    # Between the two finer units on both sides of a coarse one, the finer network cuts the corner.
    before, after = bilinear_stages("vgg16", coarse, fine)
    rows, columns = (_between_units(size, coarse) for size in before.shape[-2:])
    same = torch.outer(rows, columns).expand_as(before)
    assert 0.1 < same.double().mean() < 0.3
    torch.testing.assert_close(after[same], before[same], rtol=1e-12, atol=1e-12)
    assert (after - before).abs().max() < 0.5 * (before.max() - before.min())


def _between_units(size: int, stride: int) -> Tensor:
    """Tell which pixels lie in the inner half between the centres of units."""
    pixels = torch.arange(size)
    away = ((pixels + 0.5) % stride - stride / 2).abs()
    return (away > stride / 4) & (pixels >= stride / 4) & (pixels < size - stride / 4)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"trunk": "vgg16"}, {"trunk": "resnet18"}),
        ({"trunk": "vgg16_bn"}, {"trunk": "vgg16"}),
        ({"trunk": "vgg16"}, {"trunk": "vgg16_bn"}),
        ({"trunk": "resnet34"}, {"trunk": "resnet18"}),
        ({"trunk": "resnet18"}, {"trunk": "resnet34"}),
        ({"width": 0.1}, {}),
        ({"fc_channels": 9}, {}),
        ({"more_classes": True}, {}),
    ],
    ids=lambda value: " ".join(str(part) for part in value.values()) or "plain",
)
def test_another_network_is_refused_and_nothing_taken_over(theirs: dict[str, object], ours: dict[str, object]) -> None:
    network = build(**ours)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = build(**{"stride": 32} | theirs).state_dict()
    with pytest.raises(
        ValueError, match=r"a run is of another network: (trunk|scores.score_fr)\..* tensors do not fit"
    ):
        start_from(network, weights, "a run")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
