"""What a data set is to the rest of the software."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fcn_core.settings import Classes


class Sample(NamedTuple):
    """One image and its mask, at the image's own size."""

    image: NDArray[np.uint8]
    """(H, W, 3) uint8, RGB."""
    mask: NDArray[np.uint8]
    """(H, W) uint8, labels from 0; every pixel without a class is `VOID`."""


class Dataset(Protocol):
    """A fixed sequence of named samples. `read` must be safe to call from several threads and after a fork."""

    classes: Classes

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each sample, unique within the set."""
        ...

    def read(self, index: int) -> Sample:
        """Decode sample `index`; a ValueError names the file where that is not possible."""
        ...

    def sequence(self, index: int) -> str | None:
        """Return the video sequence that sample `index` was taken from, where the data set knows it."""
        ...


class Subset:
    """The samples of a data set at some indexes, in that order."""

    def __init__(self, dataset: Dataset, indexes: Sequence[int]) -> None:
        """Keep the samples of `dataset` at `indexes`; a ValueError says which index it has not."""
        if outside := [index for index in indexes if not 0 <= index < len(dataset.names)]:
            raise ValueError(f"no sample {outside[0]} in a data set of {len(dataset.names)}")
        self.classes = dataset.classes
        self.names = tuple(dataset.names[index] for index in indexes)
        self._dataset = dataset
        self._indexes = tuple(indexes)

    def read(self, index: int) -> Sample:
        """Decode the sample kept as number `index`."""
        return self._dataset.read(self._indexes[index])

    def sequence(self, index: int) -> str | None:
        """Return the video sequence of the sample kept as number `index`."""
        return self._dataset.sequence(self._indexes[index])
