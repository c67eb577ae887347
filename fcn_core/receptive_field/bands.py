"""What must be computed again of each map for each position of an occluder, in windows of few sizes.

Along each axis an occluder changes an interval of each map, and what is asked for needs one; their intersection must be
computed again. A batch of positions needs windows of one size: the positions are put into bands of like windows, and in
a band the windows are as large as the largest. What is in a window beyond what must be computed is then either what it
was or of no influence on what is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcn_core.receptive_field.graph import Graph
from fcn_core.receptive_field.intervals import Intervals, Sight, Spread, Window, intersect, is_empty, whole
from fcn_core.receptive_field.steps import Indices, Step

BORDERS = (0.0, -np.inf)
"""What is read outside a map: by convolutions, by maxima. A map has one more row and column for each."""
POSITIONS = 8
"""Of a band along each axis, on average: fewer are less work, in batches that are too small to be fast."""


class Windows(NamedTuple):
    """Parts of a map along one axis, one for each position of a band."""

    starts: Indices
    """(positions,)"""
    size: int


class Line(NamedTuple):
    """What is read along one axis for each position of a band, each (positions, k)."""

    at: NDArray[np.int32]
    """Where on the map; outside it, on that one of its borders whose number is wanted."""
    local: NDArray[np.int32]
    """Where in the window that was computed again; of the image, as `at`."""
    fresh: NDArray[np.bool_]
    """Whether it is in the window."""

    def take(self, columns: Indices) -> "Line":
        """Return some of what is read, for all positions."""
        return Line(self.at[:, columns], self.local[:, columns], self.fresh[:, columns])

    def part(self, chosen: slice) -> "Line":
        """Return some of the positions."""
        return Line(self.at[chosen], self.local[chosen], self.fresh[chosen])


@dataclass(frozen=True)
class Band:
    """Positions along one axis.

    Attributes:
        positions: on the grid.
        windows: of each node that is computed again; those of the image are the occluders.
        reads: for the output of each step, what it reads of each of its inputs.
        wanted: what is asked for, read from the target.
    """

    positions: Indices
    windows: Mapping[int, Windows]
    reads: Mapping[int, tuple[Line, ...]]
    wanted: Line

    def part(self, chosen: slice) -> "Band":
        """Return some of the positions."""
        windows = {node: Windows(one.starts[chosen], one.size) for node, one in self.windows.items()}
        reads = {node: tuple(line.part(chosen) for line in lines) for node, lines in self.reads.items()}
        return Band(self.positions[chosen], windows, reads, self.wanted.part(chosen))


@dataclass(frozen=True)
class Plan:
    """How a part of the last map of a graph is computed for all positions of the grid that matter to it.

    Attributes:
        steps: in their order.
        wanted: rows and columns of the part, (2, 2).
        rows: bands of rows.
        columns: bands of columns.
    """

    steps: Sequence[Step]
    wanted: Intervals
    rows: Sequence[Band]
    columns: Sequence[Band]

    @property
    def macs(self) -> int:
        """Multiplications for the whole grid."""
        return sum(
            len(row.positions) * len(column.positions) * step.macs * area(row, column, step.output)
            for row, column, step in product(self.rows, self.columns, self.steps)
        )


def area(row: Band, column: Band, node: int) -> int:
    """Return how much of a node's map is computed again for each position."""
    return row.windows[node].size * column.windows[node].size


def plan(graph: Graph, steps: Sequence[Step], occluders: tuple[Intervals, Intervals], wanted: Intervals) -> Plan:
    """Return the plan for a part of the last map.

    Args:
        graph: traced and supported.
        steps: that compute it.
        occluders: the pixels of each position, rows and columns, each (positions, 2).
        wanted: rows and columns of the part, (2, 2).
    """
    axes = [_Axis(graph, steps, axis, occluders[axis], wanted[axis]) for axis in (0, 1)]
    macs = np.array([step.macs for step in steps])
    # What a row costs depends on how wide it is, and the reverse.
    rows, columns = (axis.bands(macs * other.means) for axis, other in zip(axes, axes[::-1], strict=True))
    return Plan(steps, wanted, rows, columns)


def everything(graph: Graph, steps: Sequence[Step], wanted: Intervals) -> tuple[Band, Band]:
    """Return bands of one position, by which all that a part of the last map needs is computed from the image."""
    rows, columns = (_Axis(graph, steps, axis, None, wanted[axis]).band(np.array([0])) for axis in (0, 1))
    return rows, columns


class _Axis:
    """One axis of a graph under occlusion, or without any, where all that is needed is computed from what is there."""

    def __init__(
        self, graph: Graph, steps: Sequence[Step], axis: int, occluders: Intervals | None, wanted: Intervals
    ) -> None:
        self.extents = [node.extents[axis] for node in graph.nodes]
        self.steps = steps
        self.axis = axis
        self.wanted = wanted
        target = len(graph.nodes) - 1
        self.occluded = occluders is not None
        every = [whole(extent)[None] for extent in self.extents]
        changed = every if occluders is None else graph.changed(occluders, axis)
        needed = graph.needed(target, wanted, axis)
        again = [intersect(*both) for both in zip(changed, needed, strict=True)]
        self.positions = np.flatnonzero(~is_empty(again[target]))
        """Those that matter to what is asked for."""
        self.occluders = (every[0] if occluders is None else occluders)[self.positions]
        self.spans = [self._aligned(step, again[step.output][self.positions]) for step in steps]
        """For each step, what must be computed again, (positions, 2)."""
        self.sizes = np.array([span[:, 1] - span[:, 0] for span in self.spans])

    @property
    def means(self) -> NDArray[np.float64]:
        """For each step, the mean over positions of what must be computed again."""
        means: NDArray[np.float64] = self.sizes.sum(1) / max(1, len(self.positions))
        return means

    def bands(self, weights: NDArray[np.float64]) -> list[Band]:
        """Return the bands of all positions for which the sum of sizes, weighted by step, is least."""
        order = np.argsort(weights @ self.sizes, kind="stable")
        cuts = _partition(self.sizes[:, order], weights, max(1, len(order) // POSITIONS))
        return [self.band(np.sort(order[first:stop])) for first, stop in pairwise(cuts)]

    def band(self, chosen: Indices) -> Band:
        """Return the band of some of the positions that matter."""
        occluders = self.occluders[chosen]
        windows = {0: Windows(occluders[:, 0], int((occluders[:, 1] - occluders[:, 0]).max()))}
        windows |= {
            step.output: self._windows(step, span[chosen]) for step, span in zip(self.steps, self.spans, strict=True)
        }
        made = windows if self.occluded else dict.fromkeys(windows, Windows(np.zeros_like(chosen), 0))
        reads = {step.output: self._reads(step, windows[step.output], made) for step in self.steps}
        target = len(self.extents) - 1
        asked = np.tile(np.arange(*self.wanted), (len(chosen), 1))
        return Band(self.positions[chosen], windows, reads, self._line(asked, target, made))

    def _aligned(self, step: Step, spans: Intervals) -> Intervals:
        """Let what is computed by a transposed convolution start where its stride starts anew."""
        starts = spans[:, 0] - _offsets(step, self.axis, spans[:, 0])
        return np.where(is_empty(spans)[:, None], 0, np.stack([starts, spans[:, 1]], axis=1))

    def _windows(self, step: Step, spans: Intervals) -> Windows:
        starts, size = spans[:, 0], int((spans[:, 1] - spans[:, 0]).max())
        if _is_spread(step, self.axis):
            return Windows(starts - _offsets(step, self.axis, starts), size)
        return Windows(np.minimum(starts, self.extents[step.output] - size), size)

    def _reads(self, step: Step, windows: Windows, made: Mapping[int, Windows]) -> tuple[Line, ...]:
        return tuple(
            self._line(_coordinates(sights[self.axis], windows), source, made, step.border)
            for source, sights in zip(step.inputs, step.sees, strict=True)
        )

    def _line(self, at: Indices, source: int, made: Mapping[int, Windows], border: float = 0.0) -> Line:
        local = at - made[source].starts[:, None]
        inside = (at >= 0) & (at < self.extents[source])
        place = np.where(inside, at, self.extents[source] + BORDERS.index(border)).astype(np.int32)
        fresh = inside & (local >= 0) & (local < made[source].size)
        return Line(place, local.astype(np.int32) if source else place, fresh)


def _offsets(step: Step, axis: int, starts: Indices) -> Indices:
    """Return how far each start is past the last one at which the stride of a transposed convolution starts anew."""
    sight = step.sees[0][axis]
    if isinstance(sight, Spread):
        return (starts - sight.window.start) % sight.window.step
    return np.zeros_like(starts)


def _is_spread(step: Step, axis: int) -> bool:
    return isinstance(step.sees[0][axis], Spread)


def _coordinates(sight: Sight, windows: Windows) -> Indices:
    """Return what is read for each window, (positions, k): without what lies between if units see one unit each."""
    if isinstance(sight, Spread):
        kernel, stride = sight.window.size, sight.window.step
        before = (kernel - 1) // stride
        starts, stride, count = (
            (windows.starts - sight.window.start) // stride - before,
            1,
            before - (-windows.size // stride),
        )
    elif isinstance(sight, Window):
        starts, stride, count = sight.step * windows.starts + sight.start, sight.step, windows.size
        if sight.size > 1:
            stride, count = 1, sight.step * (windows.size - 1) + sight.size
    else:
        raise TypeError(f"{sight} does not see window by window")
    return starts[:, None] + stride * np.arange(count if windows.size else 0)


def _partition(sizes: Indices, weights: NDArray[np.float64], count: int) -> list[int]:
    """Cut positions (steps, positions) in their order into at most `count` groups; return their starts and the end.

    A group costs the weighted sum of its largest sizes for each of its positions. Found by dynamic programming.
    """
    total = sizes.shape[1]
    costs = np.full((total + 1, total + 1), np.inf)  # of a group from the first to before the second
    for first in range(total):
        largest = np.maximum.accumulate(sizes[:, first:], axis=1)
        costs[first, first + 1 :] = weights @ largest * np.arange(1, total - first + 1)
    best, cuts = np.where(np.arange(total + 1) == 0, 0.0, np.inf), [[0]] * (total + 1)
    for _ in range(count):
        through = best[:, None] + costs
        through[:, 0] = best[0]
        sources = through.argmin(0)
        cuts = [cuts[source] + [stop] if stop else [0] for stop, source in enumerate(sources)]
        best = through.min(0)
    return cuts[total]
