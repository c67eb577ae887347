"""A map, and windows of it that were computed again, so that any mixture of both is read at once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fcn_core.receptive_field.bands import BORDERS, Line
from fcn_core.receptive_field.operations import Pair


class Rows:
    """A map of shape (C, H, W), with one more row and column for each of `BORDERS`, and windows computed again.

    All are kept as rows of C numbers, so that a mixture is read by their places alone.
    """

    def __init__(self, shape: Sequence[int], room: int, like: Tensor) -> None:
        self.channels, self.height, self.width = shape
        self.stride = self.width + len(BORDERS)
        self.base = (self.height + len(BORDERS)) * self.stride
        self.rows = like.new_empty(self.base + room, self.channels)
        bordered = self._bordered()
        for place, border in enumerate(BORDERS):
            bordered[self.height + place] = border
            bordered[:, self.width + place] = border

    def map(self) -> Tensor:
        """Return the unoccluded map (1, C, H, W)."""
        return self._bordered()[None, : self.height, : self.width].permute(0, 3, 1, 2)

    def put(self, windows: Tensor) -> None:
        """Keep windows (n, C, ., .) computed again."""
        rows = windows.permute(0, 2, 3, 1).reshape(-1, self.channels)
        self.rows[self.base : self.base + len(rows)] = rows

    def only(self, units: Sequence[int]) -> "Rows":
        """Return some of the channels."""
        some = Rows((len(units), self.height, self.width), len(self.rows) - self.base, self.rows)
        some.map().copy_(self.map()[:, list(units)])
        return some

    def read(self, row: Line, column: Line, windows: Pair, taps: Pair = (1, 1)) -> Tensor:
        """Return what all pairs of positions read, (rows * columns, taps * C, ., .).

        Args:
            row: what the positions of an occluder's row read.
            column: the same of columns.
            windows: numbers from one window computed again to the next, and from one of its rows to the next.
            taps: how many of what is read, one after the other, make up one position of the result.
        """
        count = (len(row.at), len(column.at))
        index = self.stride * row.at[:, None, :, None] + column.at[:, None]
        if row.fresh.any() and column.fresh.any():
            numbers = np.arange(count[0] * count[1], dtype=index.dtype).reshape(*count, 1, 1)
            rows = self.base + windows[0] * numbers + windows[1] * row.local[:, None, :, None]
            index = np.where(row.fresh[:, None, :, None] & column.fresh[:, None], rows + column.local[:, None], index)
        height, width = index.shape[2] // taps[0], index.shape[3] // taps[1]
        if taps != (1, 1):
            index = index.reshape(-1, height, taps[0], width, taps[1]).swapaxes(2, 3)
        places = torch.from_numpy(index.reshape(-1)).to(self.rows.device)
        read = self.rows.index_select(0, places)
        return read.view(count[0] * count[1], height, width, -1).permute(0, 3, 1, 2)

    def _bordered(self) -> Tensor:
        return self.rows[: self.base].view(self.height + len(BORDERS), self.stride, self.channels)
