from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fcn_core.models.fcn import FCN
from fcn_core.models.trunks import VGG16
from fcn_core.settings import Model

VARIANTS = [
    pytest.param({"trunk": "vgg16"}, id="vgg16"),
    pytest.param({"trunk": "vgg16", "geometry": "reference"}, id="reference"),
    pytest.param({"trunk": "resnet18"}, id="resnet18"),
]
STRIDES = [32, 16, 8]
Variant = dict[str, str]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(num_classes: int = 2, **chosen: object) -> FCN:
    """Build a network that is so narrow that it costs nothing."""
    return FCN(Model.model_validate({"width": 0.05, "fc_channels": 8} | chosen), num_classes)


def randomise(network: FCN) -> FCN:
    """Give scores, biases and kernels that start at zero or bilinear random values too."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if not name.startswith("trunk.") or name.endswith("bias"):
            nn.init.normal_(parameter.data, std=0.3, generator=generator)
    return network


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# Where things come out.


def passing_centres(**chosen: object) -> FCN:
    """Let every convolution pass its centre on, so that nothing but the geometry of the network is left."""
    network = build(1, **chosen, width=0.001, fc_channels=1).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            row, column = (size // 2 for size in layer.kernel_size)
            layer.weight.data[..., row, column] = 1 / layer.in_channels
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


@torch.no_grad()
def displacements(network: FCN, size: int, *, upright: bool) -> tuple[float, float]:
    """Move a line over one period of the coarsest map, and return the mean and the largest way it is displaced by."""
    places = torch.arange(62, 94)
    images = torch.zeros(32, 3, 48, size)
    images[torch.arange(32), :, :, places] = 1
    scores = network(images if upright else images.mT)
    profile = (scores if upright else scores.mT).double().sum((1, 2))  # (places, size)
    mass, moment = profile.sum(1), (profile * (torch.arange(size) - places[:, None])).sum(1)
    seen = mass > 0
    return float(moment.sum() / mass.sum()), float((moment[seen] / mass[seen]).abs().max())


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_line_comes_out_where_it_went_in_at_every_size(variant: Variant, stride: int) -> None:
    network = passing_centres(**variant, stride=stride)
    for size in (160, 161, 166, 175, 183, 191):
        for upright in (True, False):
            mean, largest = displacements(network, size, upright=upright)
            assert abs(mean) < 1e-4
            # No more than pooling hides: half a unit of the coarsest map.
            assert largest < 15.51


@pytest.mark.parametrize("stride", STRIDES)
def test_the_line_tells_a_crop_that_is_one_unit_off(stride: int) -> None:
    crops = passing_centres(geometry="reference", stride=stride).crops
    for cropped in crops:
        network = passing_centres(geometry="reference", stride=stride)
        network.crops[cropped] += 1
        mean, _ = displacements(network, 160, upright=True)
        assert abs(mean) > 0.9


def reach(network: FCN) -> int:
    """Return how many pixels away from an output the network looks."""
    assert isinstance(network.trunk, VGG16)
    layers = [*(layer for stage in network.trunk.stages for layer in stage.children()), network.trunk.fc6]
    pixels, unit = 0.0, 1
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel = layer.kernel_size[0] if isinstance(layer.kernel_size, tuple) else layer.kernel_size
            pixels += (kernel - 1) / 2 * unit
            unit *= 2 if isinstance(layer, nn.MaxPool2d) else 1
    assert 2 * pixels + 1 == 404
    # Bilinear kernels take from less than a unit away, at each of the strides.
    return int(pixels) + 1 + 32 + sum(network.skips)


@pytest.mark.parametrize("stride", STRIDES)
def test_the_reference_geometry_agrees_with_same_padding_away_from_the_border(stride: int) -> None:
    same = randomise(build(stride=stride)).double().eval()
    reference = build(stride=stride, geometry="reference").double().eval()
    reference.load_state_dict(same.state_dict())
    # Padding by 100 moves the grid by 3 pixels against blocks of 32, so the reference sees the image cut by as much.
    shift = int(same.trunk.grids[32].offset - reference.trunk.grids[32].offset) % 32
    assert shift == 3
    image = noise(1, 3, 583, 606)
    with torch.no_grad():
        ours, theirs = same(image)[..., shift:, shift:], reference(image[..., shift:, shift:])
    inside = slice(reach(same), -reach(same))
    ours, theirs = ours[..., inside, inside], theirs[..., inside, inside]
    assert min(ours.shape[-2:]) >= 64
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# Any size.


@pytest.mark.parametrize("stride", STRIDES)
def test_the_reference_geometry_fits_every_size_up_to_699(stride: int) -> None:
    with torch.device("meta"):
        network = build(3, geometry="reference", stride=stride, width=0.001, fc_channels=1).eval()
        for side in range(1, 351):
            assert network(torch.empty(1, 3, side, 700 - side)).shape == (1, 3, side, 700 - side)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_images_from_1x1_have_finite_scores_everywhere(variant: Variant, stride: int) -> None:
    network = randomise(build(3, **variant, stride=stride, width=0.02)).eval()
    for height, width in [(1, 1), *((side, 71 - side) for side in range(1, 71))]:
        with torch.no_grad():
            scores = network(noise(2, 3, height, width).float())
        assert scores.shape == (2, 3, height, width)
        assert scores.isfinite().all()
        assert (scores.abs().sum(1) > 0).all()


def test_filling_up_to_a_multiple_of_32_is_with_the_mean_colour() -> None:
    network = randomise(build()).double().eval()
    image = noise(1, 3, 40, 50)
    filled = functional.pad(image, (0, 14, 0, 24))
    assert torch.equal(network(image), network(filled)[..., :40, :50])


# How it starts, and what learns.


def test_fcn_8s_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = FCN(Model(upsampling="fixed"), num_classes=21)
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    # 134.3 M in the paper, of which fc6 has 102.8 M.
    assert trainable == 134_362_751


def prefixed(network: FCN, prefix: str) -> Iterator[Tensor]:
    return (parameter for name, parameter in network.named_parameters() if name.startswith(prefix))


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_start_at_zero_and_are_all_that_learns_at_the_first_step(variant: Variant) -> None:
    network = build(4, **variant)
    scores = network(noise(2, 3, 40, 50).float(), torch.tensor([1, 2]))
    assert not scores.any()
    functional.cross_entropy(scores, torch.ones(2, 40, 50, dtype=torch.int64)).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in prefixed(network, "trunk."))
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in prefixed(network, "scores."))


@pytest.mark.parametrize(
    ("stride", "upsampling", "learning"),
    [
        (8, "fixed", []),
        (8, "learned", ["upscore2", "upscore_pool4", "upscore8"]),
        (8, "learned_but_last", ["upscore2", "upscore_pool4"]),
        (16, "learned", ["upscore2", "upscore16"]),
        (16, "learned_but_last", ["upscore2"]),
        (32, "learned", ["upscore32"]),
        (32, "learned_but_last", []),
    ],
)
def test_the_policy_decides_which_kernels_learn(stride: int, upsampling: str, learning: list[str]) -> None:
    network = build(stride=stride, upsampling=upsampling)
    learned = [name for name, parameter in network.upscores.named_parameters() if parameter.requires_grad]
    assert learned == [f"{name}.weight" for name in learning]
    scores = sum(parameter.requires_grad for parameter in network.scores.parameters())
    assert scores == {32: 2, 16: 4, 8: 6}[stride]


def test_at_once_scales_pool4_and_pool3_before_their_scores() -> None:
    plain = randomise(build()).double().eval()
    at_once = build(at_once=True).double().eval()
    at_once.load_state_dict(plain.state_dict())
    image = noise(1, 3, 64, 96)
    assert not torch.allclose(at_once(image), plain(image))
    # Before: weights that are so much larger undo it. After, the biases would be scaled too.
    for name, scale in (("score_pool4", 0.01), ("score_pool3", 0.0001)):
        at_once.scores.get_parameter(f"{name}.weight").data /= scale
    torch.testing.assert_close(at_once(image), plain(image), rtol=1e-9, atol=1e-9)


def test_the_same_image_and_seed_give_the_same_scores_in_any_batch() -> None:
    network = randomise(build(fc_channels=64)).double()
    images, seeds = noise(3, 3, 40, 50), torch.tensor([1, 2**40, 3])
    together = network(images, seeds)
    torch.testing.assert_close(network(images[1:2], seeds[1:2]), together[1:2], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(network(images, torch.tensor([1, 2**41, 3]))[1], together[1])
