"""What a network does to an image of one size, call by call, and which units depend on which.

Along each axis units depend on intervals of others: exactly, or, where dilated kernels or strides larger than kernels
leave holes, with no unit missing and some too many.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from fcn_core.receptive_field.intervals import Intervals, Sight, hull, intersect, whole
from fcn_core.receptive_field.operations import Input, Kind, Pair, extents


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a function of torch.

    Attributes:
        name: of the module that called it, with the function's name unless the module has no parts (`layer1.0.conv1`,
            `layer1.0.add`), and with `:1`, `:2`, ... where that happened more than once.
        kind: what it does to space.
        function: its name, such as `batch_norm` or `relu`.
        inputs: indices of the nodes that it takes, in the order of its arguments.
        shape: of what it returns, without the batch: (C, H, W) of a map.
        sees: for each input, how its rows and its columns are seen.
        options: its other arguments by name, sizes as pairs (rows, columns), paddings as pairs of (before, after);
            `weight`, `bias`, `running_mean` and so on are the network's own tensors.
    """

    name: str
    kind: Kind
    function: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    sees: tuple[tuple[Sight, Sight], ...]
    options: Mapping[str, Any]
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], int | None]

    @property
    def extents(self) -> Pair:
        """Rows and columns; (1, 1) of what is no map."""
        return extents(self.shape)

    def run(self, *inputs: Tensor) -> Tensor:
        """Return what the node makes of its inputs (N, ...), which it leaves as they are; gradients flow."""
        function, args, kwargs, index = self.call
        args, kwargs = exchange((args, kwargs), Input, lambda place: inputs[place.number])
        result = function(*args, **kwargs)
        chosen: Tensor = result if index is None else result[index]
        return chosen


@dataclass(frozen=True, eq=False)
class Graph:
    """The nodes of a network, each after its inputs; the first is the image and the last is what was asked for."""

    nodes: tuple[Node, ...]
    names: Mapping[str, int]
    """Index of the node that ends each node, module and part of a module by its dotted name."""

    def find(self, name: str) -> int:
        """Return the index of a node, of the last node of a module, or of the only one whose name ends in `.name`.

        Raises:
            ValueError: there is none.
        """
        if name in self.names:
            return self.names[name]
        found = [known for known in self.names if known.endswith(f".{name}")]
        if len(found) == 1:
            return self.names[found[0]]
        near = found or _near(name, self.names)
        raise ValueError(f"no layer {name!r}: did you mean {', '.join(near)}?")

    def until(self, name: str) -> "Graph":
        """Return the part of the graph that leads to a layer.

        Raises:
            ValueError: there is no such layer.
        """
        last = self.find(name)
        kept = {0, last}
        for index in range(last, 0, -1):
            if index in kept:
                kept.update(self.nodes[index].inputs)
        places = {index: place for place, index in enumerate(sorted(kept))}
        nodes = (self.nodes[index] for index in places)
        moved = tuple(replace(node, inputs=tuple(places[source] for source in node.inputs)) for node in nodes)
        return Graph(moved, {known: places[index] for known, index in self.names.items() if index in places})

    def needed(self, node: int, units: Intervals, axis: int, *, clipped: bool = True) -> list[Intervals]:
        """Return which units of the nodes up to `node` any of its `units` depends on.

        Args:
            node: index of a node.
            units: intervals (..., 2) of its rows or columns.
            axis: 0 for rows, 1 for columns.
            clipped: to what exists; else layers go on without end, as the theory of receptive fields has it.

        Returns:
            Intervals (..., 2) for each of the nodes 0 to `node`.
        """
        nothing = np.zeros_like(units)
        found = [nothing] * node + [self._clip(node, units, axis) if clipped else units]
        for index in range(node, 0, -1):
            for source, sights in zip(self.nodes[index].inputs, self.nodes[index].sees, strict=True):
                sight, asked = sights[axis], found[index]
                if clipped:  # What sees padding alone needs nothing.
                    seen = intersect(asked, sight.changed(whole(self.nodes[source].extents[axis])))
                    seen = self._clip(source, sight.needed(seen), axis)
                else:
                    seen = sight.needed(asked)
                found[source] = hull(found[source], seen)
        return found

    def changed(self, pixels: Intervals, axis: int) -> list[Intervals]:
        """Return which units of each node depend on any of these rows or columns (..., 2) of the image."""
        found = [self._clip(0, pixels, axis)]
        for index, node in enumerate(self.nodes[1:], start=1):
            total = np.zeros_like(pixels)
            for source, sights in zip(node.inputs, node.sees, strict=True):
                sight = sights[axis]
                reaching = intersect(found[source], sight.needed(whole(node.extents[axis])))
                total = hull(total, self._clip(index, sight.changed(reaching), axis))
            found.append(total)
        return found

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Return what each node makes of images (N, C, H, W) of the size that was traced; gradients flow."""
        made = [images]
        for node in self.nodes[1:]:
            made.append(node.run(*(made[source] for source in node.inputs)))
        return made

    def _clip(self, node: int, units: Intervals, axis: int) -> Intervals:
        return intersect(units, whole(self.nodes[node].extents[axis]))


def exchange(values: Any, kind: type, by: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    """Return nested tuples, lists and dicts with each value of a kind exchanged."""
    if isinstance(values, kind):
        return by(values)
    if isinstance(values, dict):
        return {name: exchange(value, kind, by) for name, value in values.items()}
    if type(values) in (tuple, list):
        return type(values)(exchange(value, kind, by) for value in values)
    return values


def _near(name: str, names: Mapping[str, int]) -> list[str]:
    last = {known.rpartition(".")[2]: known for known in names}
    close = difflib.get_close_matches(name, names, 3, 0.4) + [
        last[end] for end in difflib.get_close_matches(name.rpartition(".")[2], last, 3, 0.6)
    ]
    return list(dict.fromkeys(close))[:4] or [*names][:4]
