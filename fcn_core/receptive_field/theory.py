"""How much of an image the units of each layer see, and where: size, stride and offset of receptive fields.

The arithmetic is that of A. Araujo, W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural
Networks", Distill 2019, from the unit back to the image, with the union of all paths. It is done with the network's own
graph, so that it holds for joins, transposed convolutions, crops and paddings of any kind.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from torch import nn

from fcn_core.receptive_field.graph import Graph, Node, trace
from fcn_core.receptive_field.intervals import IDENTITY
from fcn_core.receptive_field.operations import Kind, Pair


class ReceptiveField(NamedTuple):
    """What the units of a layer see along one axis, in pixels, as if the image had no borders.

    Unit `u` has its centre at pixel `stride * u + offset`. Behind a transposed convolution or a resize, fields repeat
    only after `period` units; between, they differ in size by a few pixels, and lie around their centres on average.
    """

    size: int
    """From the first to the last pixel that a unit sees; of the unit that sees most."""
    stride: Fraction
    """Pixels between the centres of two units; 0 where each unit sees everything."""
    offset: Fraction
    """Centre of unit 0."""
    smallest: int
    """Size of the unit that sees least."""
    period: int = 1
    """Units after which fields repeat; where paths of unlike strides meet, they never do, and it is all of the map."""

    @property
    def everywhere(self) -> bool:
        """Whether each unit sees the whole image."""
        return self.stride == 0

    @property
    def padding(self) -> Fraction:
        """Pixels of the field of unit 0 that lie before the image, as the literature counts them."""
        return Fraction(self.size - 1, 2) - self.offset


class LayerField(NamedTuple):
    """The receptive field of one node of a network."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    """(C, H, W), or (F,) of what is no map."""
    rows: ReceptiveField
    columns: ReceptiveField


def receptive_fields(network: nn.Module | Graph, size: Pair = (224, 224)) -> list[LayerField]:
    """Return the receptive field of each node of a network, in the order in which they are computed.

    Size, stride and offset do not depend on the size of the image; shapes do.

    Args:
        network: takes images (N, C, H, W); or its graph.
        size: rows and columns of an image that the network takes.

    Raises:
        ValueError: the network cannot be followed at this size.
    """
    graph = network if isinstance(network, Graph) else trace(network, size=size)
    fields = zip(graph.nodes, _along(graph, 0), _along(graph, 1), strict=True)
    return [LayerField(node.name, node.kind, node.shape, rows, columns) for node, rows, columns in fields]


def extent(graph: Graph, layer: str, unit: Pair, *, clipped: bool = True) -> tuple[Pair, Pair]:
    """Return first and one past the last of the rows, and of the columns, of the image that a unit sees.

    Args:
        graph: of the network.
        layer: name of a node or module.
        unit: its row and column.
        clipped: to the image; else it may begin before 0 and end after the image.

    Raises:
        ValueError: there is no such layer or unit.
    """
    node = graph.find(layer)
    extents = graph.nodes[node].extents
    if not all(0 <= place < end for place, end in zip(unit, extents, strict=True)):
        raise ValueError(f"{layer} has {extents[0]} x {extents[1]} units, so there is none at row and column {unit}")
    seen = (
        graph.needed(node, np.array([place, place + 1]), axis, clipped=clipped)[0] for axis, place in enumerate(unit)
    )
    rows, columns = ((int(first), int(stop)) for first, stop in seen)
    return rows, columns


def _along(graph: Graph, axis: int) -> list[ReceptiveField]:
    fields: list[ReceptiveField] = []
    for index, node in enumerate(graph.nodes):
        same = len(node.inputs) == 1 and node.sees[0][axis] == IDENTITY
        fields.append(fields[node.inputs[0]] if same else _field(graph, index, axis, fields))
    return fields


def _field(graph: Graph, index: int, axis: int, before: list[ReceptiveField]) -> ReceptiveField:
    node = graph.nodes[index]
    strides, period = _rhythm(node, axis, before)
    if 0 in strides:
        pixels = graph.nodes[0].extents[axis]
        return ReceptiveField(pixels, Fraction(0), Fraction(pixels - 1, 2), pixels)
    units = np.arange(period + 1)
    seen = graph.needed(index, np.stack([units, units + 1], axis=-1), axis, clipped=False)[0]
    sizes = (seen[:, 1] - seen[:, 0])[:-1]
    doubled = [int(first + stop - 1) for first, stop in seen]  # Twice the middles, which may lie between pixels.
    stride = strides.pop() if len(strides) == 1 else Fraction(doubled[-1] - doubled[0], 2 * period)
    offsets = [Fraction(doubled[unit], 2) - stride * unit for unit in range(period) if sizes[unit]]
    return ReceptiveField(int(sizes.max()), stride, sum(offsets, Fraction(0)) / len(offsets), int(sizes.min()), period)


def _rhythm(node: Node, axis: int, before: list[ReceptiveField]) -> tuple[set[Fraction], int]:
    """Return the strides of the paths that meet in a node, and the number of units after which their fields repeat."""
    if not node.inputs:
        return {Fraction(1)}, 1
    ratios = [sights[axis].ratio for sights in node.sees]
    fields = [before[source] for source in node.inputs]
    strides = {field.stride * ratio for field, ratio in zip(fields, ratios, strict=True)}
    if len(strides) > 1:
        return strides, node.extents[axis]
    periods = ((ratio / field.period).denominator for field, ratio in zip(fields, ratios, strict=True))
    return strides, math.lcm(*periods)
