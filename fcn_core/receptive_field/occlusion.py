"""What a unit sees, by occlusion: it looks where a small occluder makes its activation fall.

The protocol is that of Zhou, Khosla, Lapedriza, Oliva and Torralba, "Object Detectors Emerge in Deep Scene CNNs", ICLR
2015, section 3.2. This is the plain way, which runs the network anew for every position of the occluder, as far as the
layer; it works for any network. `incremental` gives the same numbers in a fraction of the time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from fcn_core.settings import Value

Features = Callable[[Tensor], Tensor]
"""Maps images (N, 3, H, W) to a layer's activations (N, C, h, w)."""


class Occlusion(Value):
    """An occluder, the grid of its positions and what is measured."""

    size: int = Field(11, ge=1, description="pixels of the occluder's side")
    stride: int = Field(3, ge=1, description="pixels from one position to the next, at most `size`")
    fill: Literal["random", "mean", "grey", "blur"] = Field(
        "random",
        description="the occluder shows random pixels, the image's mean colour, grey (0, the mean colour of "
        "preprocessing) or the image blurred",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the random pixels")
    follow: bool = Field(
        False, description="compare maxima over the unit's whole map, not activations at the position of the strongest"
    )
    batch_size: int = Field(32, ge=1, description="replicas that the plain way sends through the network at once")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stride > self.size:
            raise ValueError(f"stride {self.stride} above size {self.size} would leave pixels that are never occluded")
        return self

    def starts(self, length: int) -> range:
        """Return where the occluder starts along an axis of `length` pixels; every pixel is covered.

        The last one is cut off by the image's border where the stride does not end there.

        >>> len(Occlusion().starts(224)), len(Occlusion().starts(227)), Occlusion().starts(20)
        (72, 73, range(0, 12, 3))
        """
        return range(0, max(length - self.size, 0) + self.stride, self.stride)


class Site(NamedTuple):
    """A unit (channel) of a layer and a position on its map."""

    unit: int
    row: int
    column: int


class Discrepancy(NamedTuple):
    """What occlusion does to a unit at a position."""

    site: Site
    base: float
    """The activation without occluder."""
    falls: Tensor
    """(rows, columns) by position of the occluder, in the network's precision, on the CPU: by how much the activation
    is lower than `base`; negative where it rises."""


class Maps:
    """The activations of one layer of a network, which runs no further than there.

    The layer is hooked only during a call. A layer that is called several times gives its first activations; one that
    gives vectors (N, C) gives maps (N, C, 1, 1).

    Raises:
        KeyError: there is no such layer.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        names = dict(network.named_modules())
        if not layer or layer not in names:
            raise KeyError(f"no layer {layer!r}; layers are {', '.join(name for name in names if name)}")
        self.network = network
        self.layer = names[layer]

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to activations (N, C, h, w), in evaluation mode.

        Raises:
            ValueError: the layer is not reached, or gives no map.
        """
        self.network.eval()
        handle = self.layer.register_forward_hook(_stop)
        try:
            self.network(images)
        except _ReachedError as reached:
            maps = reached.maps
        else:
            raise ValueError("the network does not use this layer")
        finally:
            handle.remove()
        if not isinstance(maps, Tensor) or maps.dim() not in {2, 4}:
            raise ValueError("the layer gives no map: neither (N, C, h, w) nor (N, C)")
        return maps if maps.dim() == 4 else maps[:, :, None, None]


class _ReachedError(Exception):
    def __init__(self, maps: object) -> None:
        self.maps = maps


def _stop(_layer: nn.Module, _inputs: object, output: object) -> None:
    raise _ReachedError(output)


def strongest(maps: Tensor, units: Sequence[int]) -> list[Site]:
    """Return where each unit of the activations (1, C, h, w) of an image is strongest, the first such in reading order.

    Raises:
        ValueError: there is no such unit.
    """
    _, channels, _, width = maps.shape
    for unit in units:
        if not 0 <= unit < channels:
            raise ValueError(f"no unit {unit}: the layer has {channels}, from 0 to {channels - 1}")
    flat = maps[0].flatten(1)
    return [Site(unit, *divmod(int(flat[unit].argmax()), width)) for unit in units]


@torch.inference_mode()
def discrepancies(
    features: Features, image: Tensor, sites: Sequence[Site], occlusion: Occlusion | None = None
) -> list[Discrepancy]:
    """Return, for each site, how an occluder at every position of the grid changes the activation there.

    Args:
        features: for example `Maps`.
        image: (1, 3, H, W), preprocessed, in the network's precision and on its device.
        sites: units and positions; `strongest` finds those of the protocol.
        occlusion: the paper's if not given.

    Raises:
        ValueError: a site is outside the layer's maps.
    """
    occlusion = occlusion or Occlusion()
    maps = features(image)
    check_sites(sites, maps.shape)
    base = read(maps, sites, follow=occlusion.follow)  # (1, sites)
    batches = replicas(image, fill_image(image, occlusion), occlusion)
    values = torch.cat([read(features(batch), sites, follow=occlusion.follow) for batch in batches])
    grid = (len(occlusion.starts(image.shape[-2])), len(occlusion.starts(image.shape[-1])))
    falls = (base - values).T.reshape(-1, *grid).cpu()
    return [Discrepancy(site, float(base[0, i]), falls[i].clone()) for i, site in enumerate(sites)]


def fill_image(image: Tensor, occlusion: Occlusion) -> Tensor:
    """Return what occluders show, (1, 3, H, W): an occluder shows the part of it that it covers.

    Random pixels are independent and uniform between the lowest and the highest value of each channel of the image.
    They are drawn once for an image, on the CPU, so that they do not depend on device, batch or order.
    """
    if occlusion.fill == "grey":
        return torch.zeros_like(image)
    if occlusion.fill == "mean":
        return image.mean((2, 3), keepdim=True).expand_as(image)
    if occlusion.fill == "blur":
        return blurred(image, occlusion.size / 2)
    generator = torch.Generator().manual_seed(occlusion.seed)
    noise = torch.rand(image.shape, generator=generator, dtype=torch.float64).to(image)
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    return low + noise * (high - low)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Return images (N, C, H, W) blurred by a Gaussian of `sigma` pixels, cut off at 3 sigma; edges are repeated."""
    radius = max(1, round(3 * sigma))
    line = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float64).square() / (2 * sigma**2))
    weight = (line / line.sum()).to(image).repeat(image.shape[1], 1, 1, 1)  # (C, 1, 1, 2 radius + 1)
    padded = functional.pad(image, (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, weight, groups=image.shape[1])
    return functional.conv2d(rows, weight.mT, groups=image.shape[1])


def replicas(image: Tensor, fill: Tensor, occlusion: Occlusion) -> Iterator[Tensor]:
    """Yield the occluded replicas of an image (1, 3, H, W) by position in reading order, in batches (n, 3, H, W)."""
    height, width = image.shape[-2:]
    places = [(top, left) for top in occlusion.starts(height) for left in occlusion.starts(width)]
    for first in range(0, len(places), occlusion.batch_size):
        chosen = places[first : first + occlusion.batch_size]
        batch = image.repeat(len(chosen), 1, 1, 1)
        for replica, (top, left) in zip(batch, chosen, strict=True):
            window = (slice(None), slice(top, top + occlusion.size), slice(left, left + occlusion.size))
            replica[window] = fill[0][window]
        yield batch


def check_sites(sites: Sequence[Site], shape: Sequence[int]) -> None:
    """Refuse sites outside the activations of `shape` (1, C, h, w).

    Raises:
        ValueError: a unit or position does not exist.
    """
    for site in sites:
        if not all(0 <= index < size for index, size in zip(site, shape[1:], strict=True)):
            raise ValueError(f"no unit {site.unit} at ({site.row}, {site.column}) in maps of shape {tuple(shape[1:])}")


def read(maps: Tensor, sites: Sequence[Site], *, follow: bool) -> Tensor:
    """Return the activations (n, sites) that are compared."""
    units, rows, columns = (list(indices) for indices in zip(*sites, strict=True))
    return maps[:, units].amax((2, 3)) if follow else maps[:, units, rows, columns]
