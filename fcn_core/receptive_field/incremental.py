"""Occlusion that computes again only what an occluder can change and what is asked for needs.

What is around it comes from the activations of the unoccluded image (`bands` says what, `steps` how). The numbers are
those of the plain way up to rounding, and exactly 0 where the occluder is outside the receptive field.

Nakandala, Kumar and Papakonstantinou, "Incremental and Approximate Inference for Faster Occlusion-based Deep CNN
Explanations", SIGMOD 2019, follow the change alone, in windows of one size.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_core.receptive_field.bands import Band, Line, Plan, area, everything, plan
from fcn_core.receptive_field.convolution import Convolution
from fcn_core.receptive_field.graph import trace
from fcn_core.receptive_field.intervals import Intervals, whole
from fcn_core.receptive_field.occlusion import Discrepancy, Occlusion, Site, check_sites, fill_image, read
from fcn_core.receptive_field.operations import Pair
from fcn_core.receptive_field.rows import Rows
from fcn_core.receptive_field.steps import Indices, Place, Step, fuse, narrow, unsupported

BATCH = 2**21
"""Numbers that the largest result of a batch may have, 8 MiB in float32: results of that size stay in the cache."""


class Incremental:
    """Occlusion of images of one size, for one layer of a network.

    The network must not change as long as this is used.

    Args:
        network: as it is in evaluation mode.
        layer: name of a module, or its end.
        size: rows and columns of the images.

    Raises:
        ValueError: there is no such layer, or it cannot be computed in windows; the message says why.
    """

    def __init__(self, network: nn.Module, layer: str, size: Pair) -> None:
        self.size = size
        self.graph = trace(network, layer, size=size)
        reason = unsupported(self.graph)
        if reason:
            raise ValueError(reason)
        self.target = len(self.graph.nodes) - 1
        self.channels = self.graph.nodes[-1].shape[0]
        with torch.no_grad():
            self.steps = fuse(self.graph)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """Map an image (1, 3, H, W) to the layer's activations (1, C, h, w)."""
        return self._maps(image, image, self._whole(), {})[self.target].map()

    @torch.inference_mode()
    def discrepancies(
        self, image: Tensor, sites: Sequence[Site], occlusion: Occlusion | None = None
    ) -> list[Discrepancy]:
        """Return, for each site, how an occluder at every position of the grid changes the activation there.

        As `occlusion.discrepancies`; `batch_size` does not matter here.

        Raises:
            ValueError: a site is outside the layer's maps, or the image is of another size.
        """
        occlusion = occlusion or Occlusion()
        if tuple(image.shape[-2:]) != self.size:
            raise ValueError(f"an image of {tuple(image.shape[-2:])}, but this is for images of {self.size}")
        check_sites(sites, (1, *self.graph.nodes[-1].shape))
        parts = self._parts(sites, occlusion)
        wanted = np.stack([part.plan.wanted for part in parts])
        hull = np.stack([wanted[..., 0].min(0), wanted[..., 1].max(0)], axis=1)
        room = {step.output: max(_room(part.plan, step.output) for part in parts) for step in self.steps}
        maps = self._maps(image, fill_image(image, occlusion), hull, room)
        found: dict[Site, Discrepancy] = {}
        for part in parts:
            found |= {one.site: one for one in self._discrepancies(maps, part, occlusion)}
        return [found[site] for site in sites]

    def macs(self, sites: Sequence[Site], occlusion: Occlusion | None = None) -> tuple[int, int]:
        """Return the multiplications of all occluded replicas of an image: those done here, and the plain way's."""
        occlusion = occlusion or Occlusion()
        replicas = np.prod([len(occlusion.starts(length)) for length in self.size])
        plain = sum(step.macs * np.prod(self.graph.nodes[step.output].extents) for step in self.steps)
        return sum(part.plan.macs for part in self._parts(sites, occlusion)), int(replicas * plain)

    def _parts(self, sites: Sequence[Site], occlusion: Occlusion) -> list["_Part"]:
        """Return the sites all together or position by position, whichever is less work."""
        places: dict[tuple[int, int], list[Site]] = {}
        for site in dict.fromkeys(sites):
            places.setdefault((site.row, site.column), []).append(site)
        together = self._part(list(dict.fromkeys(sites)), occlusion)
        apart: list[_Part] = []
        for alike in places.values():
            if len(places) == 1 or occlusion.follow or sum(part.plan.macs for part in apart) >= together.plan.macs:
                return [together]
            apart.append(self._part(alike, occlusion))
        return min([together], apart, key=lambda parts: sum(part.plan.macs for part in parts))

    def _part(self, sites: list[Site], occlusion: Occlusion) -> "_Part":
        units = sorted({site.unit for site in sites})
        narrowed = narrow(self.steps, units) if len(units) < self.channels else None
        rows, columns = ([site[axis] for site in sites] for axis in (1, 2))
        hull = np.array([[min(rows), max(rows) + 1], [min(columns), max(columns) + 1]])
        wanted = self._whole() if occlusion.follow else hull
        made = plan(self.graph, narrowed or self.steps, self._occluders(occlusion), wanted)
        return _Part(sites, units if narrowed else range(self.channels), made)

    def _whole(self) -> Intervals:
        return np.stack([whole(extent) for extent in self.graph.nodes[-1].extents])

    def _occluders(self, occlusion: Occlusion) -> tuple[Intervals, Intervals]:
        """Return the rows and the columns of the occluders, each (positions, 2)."""
        rows, columns = (
            np.array([(start, min(start + occlusion.size, length)) for start in occlusion.starts(length)])
            for length in self.size
        )
        return rows, columns

    def _maps(self, image: Tensor, fill: Tensor, wanted: Intervals, room: Mapping[int, int]) -> dict[int, Rows]:
        """Return the image and of its activations those that `wanted` needs, with room for what is computed again."""
        maps = {0: Rows(self.graph.nodes[0].shape, int(np.prod(self.size)), image)}
        maps[0].map().copy_(image)
        maps[0].put(fill)
        row, column = everything(self.graph, self.steps, wanted)
        for step in self.steps:
            shape = self.graph.nodes[step.output].shape
            made = Rows(shape, room.get(step.output, 0), image)
            maps[step.output] = made
            if area(row, column, step.output):
                part = _run(step, maps, row, column)
                top, left = (int(band.windows[step.output].starts[0]) for band in (row, column))
                # A transposed convolution may have computed more than there is.
                window = made.map()[..., max(0, top) : top + part.shape[2], max(0, left) : left + part.shape[3]]
                part = part[..., max(0, -top) :, max(0, -left) :]
                window.copy_(part[..., : window.shape[2], : window.shape[3]])
        return maps

    def _discrepancies(self, maps: Mapping[int, Rows], part: "_Part", occlusion: Occlusion) -> list[Discrepancy]:
        narrowed = [step for step in part.plan.steps if step.channels < self.graph.nodes[step.output].shape[0]]
        maps = {**maps, **{step.output: maps[step.output].only(part.units) for step in narrowed}}
        top, left = part.plan.wanted[:, 0]
        sites = [Site(part.units.index(site.unit), site.row - top, site.column - left) for site in part.sites]
        rows, columns = (slice(*interval) for interval in part.plan.wanted)
        base = read(maps[self.target].map()[..., rows, columns], sites, follow=occlusion.follow)  # (1, sites)
        falls = base.new_zeros(len(sites), *(len(occlusion.starts(length)) for length in self.size))
        for row, column, wanted in _computed(part.plan, maps):
            fallen = base - read(wanted, sites, follow=occlusion.follow)
            falls[:, row[:, None], column] = fallen.T.reshape(-1, len(row), len(column))
        if not occlusion.follow:
            falls[~self._reached(part.sites, occlusion)] = 0.0
        return [Discrepancy(site, float(base[0, i]), falls[i].cpu()) for i, site in enumerate(part.sites)]

    def _reached(self, sites: Sequence[Site], occlusion: Occlusion) -> NDArray[np.bool_]:
        """Return which occluders can change a site, (sites, rows, columns); what others seem to change is rounding."""
        changed = [self.graph.changed(one, axis)[self.target] for axis, one in enumerate(self._occluders(occlusion))]
        rows, columns = (
            np.array([(one[:, 0] <= site[axis]) & (site[axis] < one[:, 1]) for site in sites])
            for axis, one in enumerate(changed, start=1)
        )
        reached: NDArray[np.bool_] = rows[:, :, None] & columns[:, None, :]
        return reached


class _Part(NamedTuple):
    """Sites that are computed together, and how."""

    sites: list[Site]
    units: Sequence[int]
    """The channels of the target as it is computed."""
    plan: Plan


def _computed(plan: Plan, maps: Mapping[int, Rows]) -> Iterator[tuple[Indices, Indices, Tensor]]:
    """Yield rows and columns of the grid, and what is wanted of the target with the occluder there, (n, C, h, w)."""
    target = plan.steps[-1].output
    for row, column in product(plan.rows, plan.columns):
        height = _batch(plan, row, column)
        for first in range(0, len(row.positions), height):
            part = row.part(slice(first, first + height))
            for step in plan.steps:
                if area(row, column, step.output):
                    maps[step.output].put(_run(step, maps, part, column))
            yield part.positions, column.positions, _read(maps, target, (part, column), (part.wanted, column.wanted))


def _run(step: Step, maps: Mapping[int, Rows], row: Band, column: Band) -> Tensor:
    """Return the windows (n, C, h, w) that a step computes for all pairs of rows and columns."""
    rows, columns = row.windows[step.output], column.windows[step.output]
    lines = list(zip(row.reads[step.output], column.reads[step.output], strict=True))
    added = [_read(maps, source, (row, column), pair) for source, pair in zip(step.inputs[1:], lines[1:], strict=True)]
    if step.adds is not None:
        added = [window[:, list(step.adds)] for window in added]
    compute, size = step.compute, (rows.size, columns.size)
    if isinstance(compute, Convolution) and compute.prefers_matrix(*size):
        kernel = (compute.weight.shape[2], compute.weight.shape[3])
        apart = zip(lines[0], size, compute.stride, compute.dilation, kernel, strict=True)
        first, second = (_tapped(*one) for one in apart)
        return step.finish(
            compute.multiply([_read(maps, step.inputs[0], (row, column), (first, second), kernel), *added])
        )
    starts = np.repeat(rows.starts, len(columns.starts)), np.tile(columns.starts, len(rows.starts))
    read = _read(maps, step.inputs[0], (row, column), lines[0])
    return step.run([read, *added], Place(*starts, *size))


def _tapped(line: Line, size: int, stride: int, dilation: int, kernel: int) -> Line:
    """Return all that each of `size` positions of a convolution reads, one position after the other."""
    taken = (stride * np.arange(size)[:, None] + dilation * np.arange(kernel)).reshape(-1)
    return line.take(taken)


def _read(
    maps: Mapping[int, Rows],
    source: int,
    bands: tuple[Band, Band],
    lines: tuple[Line, Line],
    taps: Pair = (1, 1),
) -> Tensor:
    # What occluders show is kept once, as an image of which each shows its part.
    windows = (0, maps[0].width) if source == 0 else (area(*bands, source), bands[1].windows[source].size)
    return maps[source].read(*lines, windows, taps)


def _batch(plan: Plan, row: Band, column: Band) -> int:
    """Return how many rows of the grid are computed at once."""
    largest = max(step.channels * area(row, column, step.output) for step in plan.steps)
    return max(1, BATCH // max(1, largest * len(column.positions)))


def _room(plan: Plan, node: int) -> int:
    """Return how many positions of a map are computed again in the largest batch."""
    return max(
        (
            min(_batch(plan, row, column), len(row.positions)) * len(column.positions) * area(row, column, node)
            for row, column in product(plan.rows, plan.columns)
        ),
        default=0,
    )
