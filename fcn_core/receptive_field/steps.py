"""A traced network as the few operations by which windows of its maps are computed again.

BatchNorm is folded into the convolution before it, and a convolution, its bias, the sum with a shortcut and the ReLU
that follow are one call of oneDNN where torch has it (CPU, float32). A step gets what it reads with all padding around
it, so it pads nothing itself, and in channels-last layout.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fcn_core.receptive_field.convolution import Convolution
from fcn_core.receptive_field.intervals import IDENTITY, Sight, Spread, Window
from fcn_core.receptive_field.nodes import Graph, Node
from fcn_core.receptive_field.operations import Kind, Pair

Indices = NDArray[np.int64]


class Place(NamedTuple):
    """The windows of a map that a step is to compute, one for each of n replicas, all of one size."""

    rows: Indices
    """(n,) where they start; they may reach over the end of the map."""
    columns: Indices
    height: int
    width: int


Compute = Callable[[Sequence[Tensor], Place], Tensor]
"""Maps what is read of each input (n, C, ., .) to windows (n, C, height, width); may overwrite all but the first."""


@dataclass(frozen=True)
class Step:
    """An operation and what follows it unit by unit.

    Attributes:
        output: index of the last of the nodes that it stands for.
        inputs: indices of the nodes that it reads.
        sees: how it sees each of them, by rows and by columns.
        compute: what it does.
        channels: of its output.
        macs: multiplications for one position of its output.
        tail: what follows.
        border: what it reads outside its inputs.
        adds: the channels that it reads of its second input; all if None.
        channelwise: whether each channel depends on the same channel of its input alone.
    """

    output: int
    inputs: tuple[int, ...]
    sees: tuple[tuple[Sight, Sight], ...]
    compute: Compute
    channels: int
    macs: int
    tail: tuple[Node, ...] = ()
    border: float = 0.0
    adds: Sequence[int] | None = None
    channelwise: bool = False

    def run(self, windows: Sequence[Tensor], place: Place) -> Tensor:
        """Map what is read of each input to the windows (n, C, height, width)."""
        return self.finish(self.compute(windows, place))

    def finish(self, result: Tensor) -> Tensor:
        """Do to windows what follows the operation."""
        for node in self.tail:
            result = node.run(result)
        return result


def unsupported(graph: Graph) -> str | None:
    """Say why the last node of a graph cannot be computed in windows, if so."""
    for node in graph.nodes[1:]:
        local = all(isinstance(sight, Window | Spread) for sights in node.sees for sight in sights)
        filled = node.kind == Kind.PAD and node.options["value"]
        if node.kind in {Kind.GLOBAL, Kind.RESIZE} or not local or filled or len(node.shape) != 3:
            return f"{node.name} ({node.function}) does not work window by window"
    return None


def fuse(graph: Graph) -> list[Step]:
    """Return the steps that compute the last node of a supported graph, each after its inputs."""
    users = Counter(source for node in graph.nodes for source in node.inputs)
    chains: dict[int, list[int]] = {}
    for index, node in enumerate(graph.nodes[1:], start=1):
        hosts = [source for source in node.inputs if users[source] == 1 and _joins(graph, chains.get(source), node)]
        chains[index] = [*chains.pop(hosts[0]), index] if hosts else [index]
    return [_step(graph, chain) for chain in chains.values()]


def narrow(steps: Sequence[Step], units: Sequence[int]) -> list[Step] | None:
    """Return the steps that compute `units` alone of the last one, or None where those take all."""
    users = Counter(source for step in steps for source in step.inputs)
    places = {step.output: place for place, step in enumerate(steps)}
    narrowed = list(steps)
    place: int | None = len(steps) - 1
    while place is not None:
        step = steps[place]
        fewer = replace(step, channels=len(units), macs=step.macs * len(units) // step.channels)
        if not all(_is_channelwise(node) for node in step.tail):
            return None
        if isinstance(step.compute, Convolution) and step.compute.groups == 1:
            narrowed[place] = replace(fewer, compute=step.compute.only(units), adds=units)
            return narrowed
        if not step.channelwise or users[step.inputs[0]] > 1:
            return None
        narrowed[place] = fewer
        place = places.get(step.inputs[0])
    return None


def _joins(graph: Graph, chain: Sequence[int] | None, node: Node) -> bool:
    """Tell whether a node can be computed at once with the chain of nodes that leads to it."""
    if chain is None:
        return False
    head, *tail = (graph.nodes[index] for index in chain)
    if node.kind != Kind.ADD:
        return node.kind == Kind.POINTWISE
    alike = all(graph.nodes[source].shape == node.shape for source in node.inputs) and len(set(node.inputs)) == 2
    bare = head.kind == Kind.CONVOLUTION and [node.function for node in tail] in ([], ["batch_norm"])
    return bare and alike and node.options.get("alpha", 1) == 1


def _step(graph: Graph, chain: Sequence[int]) -> Step:
    head, *tail = (graph.nodes[index] for index in chain)
    if head.kind == Kind.CONVOLUTION:
        return _convolution(chain, head, tail)
    read = graph.nodes[head.inputs[0]]
    step = Step(chain[-1], head.inputs, head.sees, _run(head), head.shape[0], head.shape[0], tuple(tail))
    if head.kind == Kind.TRANSPOSED:
        return replace(step, compute=_transposed(head), macs=head.options["weight"].numel())
    if head.kind == Kind.MAX_POOL:
        return replace(step, compute=_max_pool(head), border=-torch.inf, channelwise=True)
    if head.kind == Kind.AVERAGE_POOL:
        return replace(step, compute=_average_pool(head, read.extents), channelwise=True)
    if head.kind == Kind.PAD or (head.kind == Kind.SLICE and head.shape[0] == read.shape[0]):
        return replace(step, compute=_as_read, channelwise=True)
    return replace(step, channelwise=head.kind == Kind.POINTWISE and _is_channelwise(head))


def _convolution(chain: Sequence[int], head: Node, tail: list[Node]) -> Step:
    """Return a convolution that does at once what it can of its tail."""
    weight, bias = head.options["weight"], head.options["bias"]
    convolution = Convolution(weight, bias, _stride(head), head.options["dilation"], head.options["groups"])
    inputs, sees = head.inputs, head.sees
    if tail and tail[0].function == "batch_norm":
        convolution = convolution.fold(tail.pop(0))
    if tail and tail[0].kind == Kind.ADD:
        other = next(source for source in tail.pop(0).inputs if source not in chain)
        inputs, sees = (*inputs, other), (*sees, (IDENTITY, IDENTITY))
    if tail and tail[0].function == "relu":
        convolution = replace(convolution, relu=bool(tail.pop(0)))
    return Step(chain[-1], inputs, sees, convolution.pack(), head.shape[0], weight.numel(), tuple(tail))


def _stride(node: Node) -> Pair:
    """Return the stride in what is read, where nothing lies between what a kernel of one sees."""
    rows, columns = (
        1 if isinstance(sight, Window) and sight.size == 1 else step
        for sight, step in zip(node.sees[0], node.options["stride"], strict=True)
    )
    return rows, columns


def _run(node: Node) -> Compute:
    return lambda windows, _place: node.run(*windows)


def _as_read(windows: Sequence[Tensor], _place: Place) -> Tensor:
    return windows[0]


def _transposed(node: Node) -> Compute:
    """Return a transposed convolution of windows that start where its stride starts anew."""
    options = node.options
    stride, dilation = options["stride"], options["dilation"]
    kernel = [Window(sight.window.size) for sight in node.sees[0] if isinstance(sight, Spread)]

    def compute(windows: Sequence[Tensor], place: Place) -> Tensor:
        (features,) = windows
        size = (place.height, place.width)
        before = [(one.size - 1) // step * step for one, step in zip(kernel, stride, strict=True)]
        made = [(n - 1) * step + one.size for n, step, one in zip(features.shape[2:], stride, kernel, strict=True)]
        more = [max(0, skip + wanted - has) for skip, wanted, has in zip(before, size, made, strict=True)]
        weight, bias = options["weight"], options["bias"]
        result = functional.conv_transpose2d(features, weight, bias, stride, 0, more, options["groups"], dilation)
        return result[..., before[0] : before[0] + size[0], before[1] : before[1] + size[1]]

    return compute


def _max_pool(node: Node) -> Compute:
    kernel, dilation = node.options["kernel_size"], node.options["dilation"]
    return lambda windows, _place: functional.max_pool2d(windows[0], kernel, _stride(node), 0, dilation)


def _average_pool(node: Node, extents: Pair) -> Compute:
    """Return an average pooling that counts what torch counts: padding if asked, never what is beyond it."""
    options, kernel, stride = node.options, node.options["kernel_size"], node.options["stride"]

    def counts(axis: int, starts: Indices, size: int) -> Indices:
        pad = options["padding"][axis] if options["count_include_pad"] else (0, 0)
        first = stride[axis] * (starts[:, None] + np.arange(size)) - options["padding"][axis][0]
        inside = np.minimum(first + kernel[axis], extents[axis] + pad[1]) - np.maximum(first, -pad[0])
        counted: Indices = np.maximum(inside, 1)  # Beyond the map, which nothing reads, there may be none.
        return counted

    def compute(windows: Sequence[Tensor], place: Place) -> Tensor:
        total = functional.avg_pool2d(windows[0], kernel, _stride(node), divisor_override=1)
        if options["divisor_override"]:
            divided: Tensor = total / options["divisor_override"]
            return divided
        rows, columns = counts(0, place.rows, place.height), counts(1, place.columns, place.width)
        return total / torch.from_numpy(rows[:, None, :, None] * columns[:, None, None, :]).to(total)

    return compute


def _is_channelwise(node: Node) -> bool:
    """Tell whether a function unit by unit treats all channels alike and each alone."""
    arguments = (*node.call[1], *node.call[2].values())
    mixing = {"softmax", "log_softmax", "local_response_norm"}
    return node.function not in mixing and not any(isinstance(value, Tensor) for value in arguments)
