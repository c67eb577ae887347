import pytest
import torch
from torch import Tensor

from fcn_core.receptive_field.incremental import Incremental
from fcn_core.receptive_field.occlusion import Maps, Occlusion, Site, discrepancies
from tests.receptive_field.networks import random_network


def an_image(height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def corners_and_middle(shape: torch.Size) -> list[tuple[int, int]]:
    height, width = shape[-2:]
    return [(0, 0), (height - 1, width - 1), (height // 2, width // 2), (0, width // 2), (height - 1, 0)]


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
