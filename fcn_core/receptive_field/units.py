"""Where the units of a layer look on an image, and what one unit sees over the images that activate it most."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_core.receptive_field.empirical import (
    Centre,
    Empirical,
    Extent,
    Size,
    extent,
    field_mask,
    recentred_mean,
    segment,
    spread,
)
from fcn_core.receptive_field.graph import trace
from fcn_core.receptive_field.occlusion import Occlusion, Site
from fcn_core.receptive_field.theory import LayerField, receptive_fields


class Geometry:
    """The theoretical receptive field of a layer, for images of any size.

    Raises:
        ValueError: the layer is called more than once, so that its name does not say which map is meant.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        self._network, self._layer = network, layer
        self._fields: dict[Size, LayerField | None] = {}

    def centre(self, site: Site, size: Size, extents: Size) -> Centre:
        """Return where on an image a unit at a position looks: row and column of the middle of what it can see.

        Of layers whose units see everything, or that cannot be followed, the place in proportion.

        Args:
            site: unit and position.
            size: of the image.
            extents: rows and columns of the layer's map.
        """
        field = self.field(size)
        along = (field.rows, field.columns) if field else (None, None)
        row, column = (
            (place + 0.5) * pixels / units - 0.5
            if one is None or one.everywhere
            else float(one.stride * place + one.offset)
            for one, place, pixels, units in zip(along, site[1:], size, extents, strict=True)
        )
        return row, column

    def field(self, size: Size) -> LayerField | None:
        """Return the receptive field of the layer for images of a size; None if the network cannot be followed."""
        if size not in self._fields:
            self._fields[size] = self._field(size)
        return self._fields[size]

    def _field(self, size: Size) -> LayerField | None:
        try:
            graph = trace(self._network, self._layer, size=size)
        except ValueError:
            return None
        if f"{self._layer}:2" in graph.names:
            raise ValueError(f"layer {self._layer!r} is called more than once: choose the block that it is part of")
        return receptive_fields(graph)[-1]


class Look(NamedTuple):
    """One unit in one image."""

    name: str
    """Of the image."""
    image: NDArray[np.uint8]
    """(H, W, 3) RGB, as the network sees it."""
    activation: float
    site: Site
    centre: Centre
    falls: Tensor
    """(H, W) float64: the mean discrepancy of the occluders that cover a pixel."""

    @classmethod
    def of(cls, name: str, image: NDArray[np.uint8], site: Site, centre: Centre, found: "Found") -> "Look":
        """Return a look from what occlusion gave."""
        falls = spread(torch.from_numpy(found.falls), found.occlusion, (image.shape[0], image.shape[1]))
        return cls(name, image, found.activation, site, centre, falls)


class Found(NamedTuple):
    """What occlusion gave of a unit in an image."""

    activation: float
    falls: NDArray[np.float32]
    """(rows, columns) of the grid."""
    occlusion: Occlusion


class UnitField(NamedTuple):
    """What a unit sees."""

    unit: int
    looks: tuple[Look, ...]
    """The images that activate it most, the strongest first."""
    empirical: Empirical
    mask: Tensor
    """bool, which pixels of the mean belong to the field."""
    extent: Extent

    @classmethod
    def of(cls, unit: int, looks: Sequence[Look], threshold: float) -> "UnitField":
        """Average the maps of a unit in the order of its images."""
        empirical = recentred_mean([look.falls for look in looks], [look.centre for look in looks])
        mask = field_mask(empirical, threshold)
        return cls(unit, tuple(looks), empirical, mask, extent(mask))

    def segmented(self, look: Look) -> NDArray[np.bool_]:
        """Return which pixels (H, W) of an image the field covers."""
        covered: NDArray[np.bool_] = segment(self.mask, look.centre, (look.image.shape[0], look.image.shape[1])).numpy()
        return covered
