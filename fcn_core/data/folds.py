"""Grouped k-fold: parts of a data set that share no video sequence."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from fcn_core.data.base import Dataset, Sample, Subset
from fcn_core.data.files import FileDataset


class Joined:
    """The samples of two data sets of the same classes, one after the other."""

    def __init__(self, first: Dataset, second: Dataset) -> None:
        self.classes = first.classes
        self.names = (*first.names, *second.names)
        self._parts = (first, second)
        self._starts = tuple(accumulate((len(first.names), len(second.names)), initial=0))

    def read(self, index: int) -> Sample:
        """Decode sample `index`."""
        part, place = self._find(index)
        return part.read(place)

    def sequence(self, index: int) -> str | None:
        """Return the video sequence of sample `index`."""
        part, place = self._find(index)
        return part.sequence(place)

    def _find(self, index: int) -> tuple[Dataset, int]:
        number = int(index >= self._starts[1])
        return self._parts[number], index - self._starts[number]


def fold_of(first: Dataset, second: Dataset, folds: int, fold: int) -> tuple[Dataset, Dataset]:
    """Return what to train and to validate on in one fold of both sets together.

    No sequence is in both; where the data set knows no sequences, each image stands for itself.

    Raises:
        ValueError: there are fewer sequences than folds, or a name is in both sets.
    """
    pool = _join(first, second)
    indexes = range(len(pool.names))
    parts = grouped([pool.sequence(index) or f"image {index}" for index in indexes], folds)
    val = set(parts[fold])
    return _part(pool, [index for index in indexes if index not in val]), _part(pool, parts[fold])


def grouped(groups: Sequence[str], folds: int) -> list[list[int]]:
    """Part indexes so that equal groups stay together and parts are about equal in size.

    The largest group goes first, each to the part that is smallest so far.

    Args:
        groups: the group of each index.
        folds: number of parts.

    Raises:
        ValueError: there are fewer groups than parts.
    """
    sizes = Counter(groups)
    if len(sizes) < folds:
        shown = ", ".join(f"{group} ({size} images)" for group, size in sorted(sizes.items())[:10])
        raise ValueError(f"{folds} folds ask for as many sequences, and there are {len(sizes)}: {shown}; lower folds")
    filled, part_of = [0] * folds, {}
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        smallest = filled.index(min(filled))
        filled[smallest] += size
        part_of[group] = smallest
    return [[index for index, group in enumerate(groups) if part_of[group] == part] for part in range(folds)]


def _join(first: Dataset, second: Dataset) -> Dataset:
    if isinstance(first, FileDataset) and isinstance(second, FileDataset):
        entries, unpaired = (*first.entries, *second.entries), (*first.unpaired, *second.unpaired)
        return dataclasses.replace(first, entries=entries, unpaired=unpaired)
    return Joined(first, second)


def _part(pool: Dataset, indexes: Sequence[int]) -> Dataset:
    if isinstance(pool, FileDataset):
        return dataclasses.replace(pool, entries=tuple(pool.entries[index] for index in indexes))
    return Subset(pool, indexes)
