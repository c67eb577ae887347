"""The oracle of receptive fields: where a row of NaN gets to."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcn_core.receptive_field.graph import Graph
from fcn_core.receptive_field.intervals import Intervals

Support = NDArray[np.bool_]
"""(L, units): which units depend on which lines of the image."""


def support(graph: Graph, axis: int, lines: Sequence[int], batch: int = 64) -> list[Support]:
    """Return which rows (axis 0) or columns (1) of each node turn NaN if a line of the image does.

    In float64, where torch computes convolutions as they are written, not by Winograd's or Fourier's way.
    """
    images = torch.randn(len(lines), *graph.nodes[0].shape, dtype=torch.float64)
    for image, line in zip(images, lines, strict=True):
        image.select(axis + 1, line).fill_(torch.nan)
    with torch.no_grad():
        parts = [[_lines(output, axis) for output in graph.outputs(some)] for some in images.split(batch)]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def predicted(graph: Graph, axis: int, lines: Sequence[int]) -> list[tuple[Support, Support]]:
    """Return the same by what the graph says of the lines' effect, and of the units' needs."""
    given = np.array(lines)
    changed = graph.changed(np.stack([given, given + 1], axis=-1), axis)
    found = []
    for index, node in enumerate(graph.nodes):
        units = np.arange(node.extents[axis])
        needed = graph.needed(index, np.stack([units, units + 1], axis=-1), axis)[0]
        found.append((_inside(changed[index], units), _inside(needed, given).T))
    return found


def hulls(supports: Support) -> Support:
    """Return each unit's lines from the first to the last."""
    after, before = np.logical_or.accumulate(supports), np.logical_or.accumulate(supports[::-1])[::-1]
    return after & before


def _lines(output: Tensor, axis: int) -> Support:
    found: Support = output.isnan().any(1).any(2 - axis).numpy()
    return found


def _inside(intervals: Intervals, places: NDArray[np.int64]) -> Support:
    found: Support = (intervals[:, :1] <= places) & (places < intervals[:, 1:])
    return found
