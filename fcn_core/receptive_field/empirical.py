"""The empirical receptive field of a unit: the discrepancy maps of several images, re-centred and averaged.

Zhou et al., ICLR 2015, section 3.2. All sums are in float64 and in the order of the images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fcn_core.receptive_field.occlusion import Occlusion

Size = tuple[int, int]
"""Height and width of an image, pixels."""
Centre = tuple[float, float]
"""Row and column on an image, pixels, where a unit looks: the centre of its theoretical receptive field."""


class Empirical(NamedTuple):
    """A mean of re-centred maps, float64 (2 a + 1, 2 b + 1); the unit looks at its middle pixel (a, b)."""

    mean: Tensor
    """By pixel, over the images that have a pixel there; 0 where none has."""
    counts: Tensor
    """int64, how many images have a pixel there."""


class Extent(NamedTuple):
    """How large a field is, in pixels."""

    top: int
    """Of the bounding box, relative to where the unit looks; so is `left`."""
    left: int
    height: int
    width: int
    area: int

    @property
    def size(self) -> float:
        """The side of a square of the same area, by which the paper compares layers."""
        return math.sqrt(self.area)


def spread(falls: Tensor, occlusion: Occlusion, size: Size) -> Tensor:
    """Bring a discrepancy map from the grid to pixels (H, W), float64: the mean of the occluders that cover each."""
    lines = _spread_rows(falls.to(torch.float64), occlusion, size[0])
    return _spread_rows(lines.T, occlusion, size[1]).T


def _spread_rows(rows: Tensor, occlusion: Occlusion, length: int) -> Tensor:
    total, count = rows.new_zeros(length, rows.shape[1]), rows.new_zeros(length, 1)
    for start, row in zip(occlusion.starts(length), rows, strict=True):
        total[start : start + occlusion.size] += row
        count[start : start + occlusion.size] += 1
    return total / count


def recentred_mean(maps: Sequence[Tensor], centres: Sequence[Centre]) -> Empirical:
    """Average maps by pixel (H, W), which may differ in size, each moved so that its centre comes to lie in the middle.

    Centres between two pixels are moved to the one before, in all maps alike. A pixel counts only where it is seen.

    Raises:
        ValueError: there are no maps.
    """
    if not maps:
        raise ValueError("no maps to average")
    corners = [(_pixel(row), _pixel(column)) for row, column in centres]
    sizes = [tuple(one.shape) for one in maps]
    reach = [
        max(max(corner[axis], size[axis] - 1 - corner[axis]) for corner, size in zip(corners, sizes, strict=True))
        for axis in (0, 1)
    ]
    total = torch.zeros(2 * reach[0] + 1, 2 * reach[1] + 1, dtype=torch.float64)
    counts = torch.zeros_like(total, dtype=torch.int64)
    for one, (row, column), (height, width) in zip(maps, corners, sizes, strict=True):
        window = (
            slice(reach[0] - row, reach[0] - row + height),
            slice(reach[1] - column, reach[1] - column + width),
        )
        total[window] += one
        counts[window] += 1
    return Empirical(total / counts.clamp_min(1), counts)


def field_mask(empirical: Empirical, threshold: float = 0.5) -> Tensor:
    """Return which pixels belong to the field, bool: those with at least `threshold` times the maximum of the mean.

    None belongs to it if the mean is positive nowhere.
    """
    peak = empirical.mean.max()
    return (empirical.mean >= threshold * peak) & (peak > 0) & (empirical.counts > 0)


def extent(mask: Tensor) -> Extent:
    """Measure a field (2 a + 1, 2 b + 1); all is 0 if it is empty."""
    rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return Extent(0, 0, 0, 0, 0)
    top, left = int(rows[0]), int(columns[0])
    return Extent(
        top - mask.shape[0] // 2,
        left - mask.shape[1] // 2,
        int(rows[-1]) - top + 1,
        int(columns[-1]) - left + 1,
        int(mask.sum()),
    )


def segment(mask: Tensor, centre: Centre, size: Size) -> Tensor:
    """Return which pixels of an image a field (2 a + 1, 2 b + 1) covers where the unit looks, bool (H, W)."""
    segmented = torch.zeros(size, dtype=torch.bool)
    corner = [_pixel(at) - side // 2 for at, side in zip(centre, mask.shape, strict=True)]
    inside = mask.nonzero() + torch.tensor(corner)
    inside = inside[((inside >= 0) & (inside < torch.tensor(size))).all(1)]
    segmented[inside[:, 0], inside[:, 1]] = True
    return segmented


def _pixel(coordinate: float) -> int:
    return int(coordinate // 1)
