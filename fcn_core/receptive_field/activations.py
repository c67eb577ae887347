"""The images and positions that activate each unit of a layer most: one pass over the images, over any workers.

Images go through the network one by one, so that what is kept of an image does not depend on its neighbours.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Indexes = NDArray[np.int64]


class Top(NamedTuple):
    """The strongest images of each of C units among those seen: K of them, or all where fewer were seen.

    Of equal activations that of the image with the lower index comes first; images are numbered in the order of their
    names. So the strongest of a set are among the strongest of its parts, and parts of any images in any order merge
    to the same bits.
    """

    most: int
    """K, how many are kept at most."""
    seen: Indexes
    """(N,) indexes of the images seen, ascending."""
    values: NDArray[np.float32]
    """(C, min(K, N)) strongest activation in each image, descending."""
    images: Indexes
    """(C, min(K, N)) indexes of the images."""
    positions: Indexes
    """(C, min(K, N), 2) row and column in the feature map of the strongest activation, the first of equals."""

    @classmethod
    def of(cls, index: int, activations: Tensor, most: int) -> "Top":
        """Return what is kept of one image, given the feature map (C, h, w) of a layer."""
        strongest, places = activations.flatten(1).max(1)
        rows = np.stack(np.unravel_index(places.cpu().numpy(), activations.shape[1:]), axis=-1)
        values = strongest.float().cpu().numpy()[:, None]
        return cls(most, np.array([index]), values, np.full(values.shape, index, np.int64), rows[:, None])

    @classmethod
    def merge(cls, parts: Sequence["Top"]) -> "Top":
        """Return the strongest of all parts.

        Raises:
            ValueError: an image is in two parts, or parts are of other units or keep another number of images.
        """
        if len({(part.most, len(part.values)) for part in parts}) != 1:
            raise ValueError("parts that are merged must be of one layer and keep the same number of images")
        most, seen = parts[0].most, np.sort(np.concatenate([part.seen for part in parts]))
        if (seen[1:] == seen[:-1]).any():
            raise ValueError("an image is in two parts: each must be seen once")
        values = np.concatenate([part.values for part in parts], axis=1)
        images = np.concatenate([part.images for part in parts], axis=1)
        positions = np.concatenate([part.positions for part in parts], axis=1)
        order = np.lexsort((images, -values))[:, :most]
        return cls(
            most=most,
            seen=seen,
            values=np.take_along_axis(values, order, 1),
            images=np.take_along_axis(images, order, 1),
            positions=np.take_along_axis(positions, order[..., None], 1),
        )


def top_activations(
    network: nn.Module, layers: Sequence[str], images: Iterable[tuple[int, Tensor]], most: int
) -> dict[str, Top]:
    """Return the `most` strongest images of every unit of some layers, and where in them the unit is strongest.

    Args:
        network: in evaluation mode; only its part up to the last of `layers` is run.
        layers: full names of modules.
        images: index and preprocessed image (3, H, W) float32 of each, at least one; they may differ in size.
        most: images kept of each unit.

    Raises:
        ValueError: a layer gives no map, or activations that are not finite; as `Top.merge`.
    """
    kept: dict[str, Top] = {}
    for index, image in images:
        for layer, found in activations(network, layers, image).items():
            one = Top.of(index, found, most)
            kept[layer] = Top.merge([kept[layer], one]) if layer in kept else one
    return kept


@torch.inference_mode()
def activations(network: nn.Module, layers: Sequence[str], image: Tensor) -> dict[str, Tensor]:
    """Return the feature map (C, h, w) of each layer for a preprocessed image (3, H, W); of a vector (C, 1, 1).

    A layer that is run several times gives its first map.

    Raises:
        ValueError: a layer was not run, gives no map, or activations that are not finite.
    """
    found: dict[str, Tensor] = {}

    def keep(layer: str, output: object) -> None:
        found.setdefault(layer, _checked(layer, output))
        if len(found) == len(set(layers)):
            raise _AllSeenError

    with _watched(network, layers, keep):
        try:
            network(image[None])
        except _AllSeenError:
            return found
    missing = next(layer for layer in layers if layer not in found)
    raise ValueError(f"layer {missing!r} takes no part in what the network computes")


def find_layer(network: nn.Module, name: str) -> str:
    """Return the full name of a module that `name` is, or is the end of, such as conv4_3 of trunk.stages.3.conv4_3.

    Raises:
        ValueError: there is none, or several; the message names those that are near.
    """
    names: list[str] = [full for full, _ in network.named_modules() if full]
    if name in names:
        return name
    ends = [full for full in names if full.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ValueError(f"{len(ends)} layers are called {name!r}: say which, {' or '.join(ends[:8])}")
    short = {full.rpartition(".")[2]: full for full in reversed(names)}
    near = [short.get(one, one) for one in difflib.get_close_matches(name, [*names, *short], n=3)]
    known = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"layers are {', '.join(_upper(names))}"
    raise ValueError(f"no layer {name!r}; {known}")


class _AllSeenError(Exception):
    """What comes after the last layer is of no interest."""


@contextmanager
def _watched(network: nn.Module, layers: Sequence[str], keep: Callable[[str, object], None]) -> Iterator[None]:
    """Hand the output of each layer to `keep` within the block; no hook outlives it."""

    def hook(layer: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: keep(layer, output)

    handles = [network.get_submodule(layer).register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checked(layer: str, output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() not in (2, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"layer {layer!r} gives {shape}, neither a map (1, C, h, w) nor a vector (1, C)")
    if not torch.isfinite(output).all():
        raise ValueError(f"layer {layer!r} gives activations that are not finite")
    # What follows may write into it: activation functions often work in place.
    return output.reshape(*output.shape[1:], *(1, 1)[: 4 - output.dim()]).clone()  # (C, h, w)


def _upper(names: Sequence[str]) -> list[str]:
    """Return the names at the least depth at which there are several."""
    depths = [name.count(".") for name in names]
    level = next((depth for depth in sorted(set(depths)) if depths.count(depth) > 1), 0)
    return [name for name, depth in zip(names, depths, strict=True) if depth <= level][:20]
