import pytest
import torch
from captum import attr
from torch import Tensor, nn
from torchvision.models import resnet18, vgg16

from fcn_core.models.fcn import FCN
from fcn_core.receptive_field.empirical import extent, field_mask, recentred_mean, spread
from fcn_core.receptive_field.incremental import Incremental
from fcn_core.receptive_field.occlusion import Discrepancy, Maps, Occlusion, Site, discrepancies, fill_image, strongest
from fcn_core.settings import Model
from tests.receptive_field.networks import random_network, randomise


def an_image(height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def corners_and_middle(shape: torch.Size) -> list[tuple[int, int]]:
    height, width = shape[-2:]
    return [(0, 0), (height - 1, width - 1), (height // 2, width // 2), (0, width // 2), (height - 1, 0)]


def as_after_training(network: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            randomise(layer)
    return network.eval()


@pytest.mark.parametrize("seed", range(52))
def test_incremental_occlusion_equals_the_plain_way(seed: int) -> None:
    """On random networks, for all positions of an occluder, so also those that straddle the rim of what is seen."""
    network, size = random_network(seed), (19 + seed % 5, 19 + seed % 3)
    image, layer = an_image(*size, seed), f"{len(list(network.children())) - 1}"
    features, incremental = Maps(network, layer), Incremental(network, layer, size)
    maps = features(image).detach()
    atol = 1e-10 * float(maps.abs().max())
    torch.testing.assert_close(incremental(image), maps, rtol=0, atol=atol)
    places = corners_and_middle(maps.shape)
    sites = [Site(unit, *place) for unit in range(maps.shape[1]) for place in places]
    for follow in (False, True):
        occlusion = Occlusion(size=1 + seed % 4, stride=1, follow=follow, batch_size=256)
        plain = {one.site: one for one in discrepancies(features, image, sites, occlusion)}
        for asked in (sites, sites[:1], sites[-3:-2]):
            for ours in incremental.discrepancies(image, asked, occlusion):
                torch.testing.assert_close(ours.falls, plain[ours.site].falls, rtol=0, atol=atol)
                torch.testing.assert_close(ours.base, plain[ours.site].base, rtol=0, atol=atol)


@pytest.mark.parametrize(("layer", "size"), [("layer4", (70, 64)), ("layer3", (64, 75)), ("layer2.0.conv1", (64, 75))])
def test_single_precision_is_as_good_as_that_of_the_plain_way(layer: str, size: tuple[int, int]) -> None:
    network = as_after_training(resnet18(weights=None))
    image, occlusion = an_image(*size, dtype=torch.float32), Occlusion(stride=11)
    maps = Maps(network, layer)(image).detach()
    sites = [*strongest(maps, [10, 3]), Site(0, 0, 0)]
    ours = Incremental(network, layer, size).discrepancies(image, sites, occlusion)
    plain = discrepancies(Maps(network, layer), image, sites, occlusion)
    # Random pixels are drawn in float64 and rounded to the image's precision, so they are the same up to that.
    exact = discrepancies(Maps(network.double(), layer), image.double(), sites, occlusion)
    for one, other, truth in zip(ours, plain, exact, strict=True):
        assert one.falls.dtype == torch.float32
        near = (one.falls - other.falls).abs().max() <= 1e-5 * max(1.0, float(maps.abs().max()))
        assert near or (one.falls - truth.falls).abs().max() <= 3 * (other.falls - truth.falls).abs().max()


def test_an_occluder_outside_the_receptive_field_changes_nothing_at_all() -> None:
    """Neither alone nor computed together with sites that see it."""
    network = as_after_training(resnet18(weights=None))
    image, occlusion = an_image(160, 160, dtype=torch.float32), Occlusion(stride=8)
    incremental = Incremental(network, "layer2", (160, 160))
    unit = int(incremental(image)[0, :, 0, 0].argmax())
    corner, others = Site(unit, 0, 0), [Site(unit, *place) for unit in range(64) for place in ((19, 19), (1, 1))]
    (alone,) = incremental.discrepancies(image, [corner], occlusion)
    together = incremental.discrepancies(image, [corner, *others], occlusion)
    for found in (alone, together[0]):
        seen = 99 - 49  # of the field's 99 pixels, which begin 49 before the image
        outside = torch.tensor([start >= seen for start in occlusion.starts(160)])
        assert (found.falls[outside] == 0.0).all()
        assert (found.falls[:, outside] == 0.0).all()
        assert (found.falls[~outside][:, ~outside] != 0.0).any()
    assert (together[1].falls[:5, :5] == 0.0).all()


@pytest.mark.parametrize(("trunk", "layers"), [("vgg16", ["conv4_3", "pool3", "fc6"]), ("resnet18", ["layer3"])])
@pytest.mark.parametrize("stride", [32, 8])
def test_networks_of_this_software(trunk: str, layers: list[str], stride: int) -> None:
    model = Model.model_validate({"trunk": trunk, "stride": stride, "width": 0.1, "fc_channels": 16})
    network = as_after_training(FCN(model, 5)).double()
    image, occlusion = an_image(61, 70), Occlusion(stride=9)
    for layer in [*layers, "scores.score_fr"]:
        incremental = Incremental(network, layer, (61, 70))
        sites = strongest(incremental(image), [0, 1])
        full = next(name for name, _ in network.named_modules() if name.endswith(layer))
        for ours, plain in zip(
            incremental.discrepancies(image, sites, occlusion),
            discrepancies(Maps(network, full), image, sites, occlusion),
            strict=True,
        ):
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10 * max(1.0, abs(plain.base)))


def test_torchvisions_vgg() -> None:
    network, image = vgg16(weights=None).eval(), an_image(64, 64, dtype=torch.float32)
    occlusion = Occlusion(stride=10)
    sites = [Site(10, 3, 3)]
    (ours,) = Incremental(network, "features.21", (64, 64)).discrepancies(image, sites, occlusion)
    (plain,) = discrepancies(Maps(network, "features.21"), image, sites, occlusion)
    torch.testing.assert_close(ours.falls, plain.falls, rtol=0, atol=1e-5 * max(1.0, abs(plain.base)))


def test_a_planted_field_is_recovered_exactly() -> None:
    """A unit behind two convolutions that sees 3 + 2 * 2 pixels, every second of them, from 4 u on."""
    network = nn.Sequential(
        nn.Conv2d(3, 2, 3, stride=2, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 3, stride=2, bias=False)
    )
    for weight in network.parameters():
        nn.init.ones_(weight)
    occlusion = Occlusion(size=1, stride=1, fill="grey")
    maps, centres = [], []
    for size, (row, column) in (((40, 31), (2, 1)), ((33, 50), (0, 6))):
        image = torch.ones(1, 3, *size)
        image[..., 4 * row : 4 * row + 7, 4 * column : 4 * column + 7] = 2
        incremental = Incremental(network, "2", size)
        sites = strongest(incremental(image), [0])
        assert sites == [Site(0, row, column)]
        (found,) = incremental.discrepancies(image, sites, occlusion)
        maps.append(spread(found.falls, occlusion, size))
        centres.append((4.0 * row + 3, 4.0 * column + 3))
    empirical = recentred_mean(maps, centres)
    assert extent(field_mask(empirical, 1e-6)) == (-3, -3, 7, 7, 49)
    assert extent(empirical.mean != 0) == (-3, -3, 7, 7, 49)


def test_what_cannot_be_computed_in_windows_is_said() -> None:
    network = resnet18(weights=None)
    with pytest.raises(ValueError, match="avgpool"):
        Incremental(network, "fc", (64, 64))
    with pytest.raises(ValueError, match="no layer 'layer5'"):
        Incremental(network, "layer5", (64, 64))


def test_images_and_sites_that_do_not_fit_are_refused() -> None:
    incremental = Incremental(resnet18(weights=None), "layer1", (64, 64))
    with pytest.raises(ValueError, match=r"an image of \(64, 60\), but this is for images of \(64, 64\)"):
        incremental.discrepancies(an_image(64, 60, dtype=torch.float32), [Site(0, 0, 0)])
    with pytest.raises(ValueError, match=r"no unit 64 at \(0, 0\)"):
        incremental.discrepancies(an_image(64, 64, dtype=torch.float32), [Site(64, 0, 0)])


def test_the_network_is_left_as_it_was() -> None:
    network = resnet18(weights=None).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    incremental = Incremental(network, "layer2", (64, 64))
    incremental.discrepancies(an_image(64, 64, dtype=torch.float32), [Site(0, 0, 0)], Occlusion(stride=11))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_the_same_call_gives_the_same_bits() -> None:
    network, image = as_after_training(resnet18(weights=None)), an_image(64, 64, dtype=torch.float32)
    found: list[list[Discrepancy]] = [
        Incremental(network, "layer3", (64, 64)).discrepancies(
            image, [Site(1, 2, 2), Site(7, 0, 3)], Occlusion(stride=9)
        )
        for _ in range(2)
    ]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.falls, other.falls)
        assert one.base == other.base


def test_maps_of_captum_follow_from_ours() -> None:
    network = as_after_training(resnet18(weights=None))
    image, occlusion = an_image(70, 64, dtype=torch.float32), Occlusion(size=11, stride=5)
    features = Maps(network, "layer3")
    (site,) = strongest(features(image).detach(), [10])
    theirs = attr.Occlusion(lambda images: features(images)[:, site.unit, site.row, site.column]).attribute(
        image, (3, 11, 11), strides=(3, 5, 5), baselines=fill_image(image, occlusion), perturbations_per_eval=16
    )
    (found,) = Incremental(network, "layer3", (70, 64)).discrepancies(image, [site], occlusion)
    ours = spread(found.falls, occlusion, (70, 64))
    assert (ours - theirs[0, 0]).abs().max() <= 1e-5 * float(theirs.max() - theirs.min())
