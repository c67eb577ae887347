"""The order of training samples: a pure function of (seed, step), for any number of workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from fcn_core.data.base import Dataset, Sample
from fcn_core.data.transforms import augment
from fcn_core.settings import Classes, Data

Key = tuple[int, int]
"""(epoch, index of the sample)."""


class Batch(NamedTuple):
    """What one worker puts through the network at once."""

    images: Tensor
    """(N, 3, H, W) uint8, RGB."""
    masks: Tensor
    """(N, H, W) uint8."""
    seeds: Tensor
    """(N,) int64, of each sample's dropout."""


class Order(NamedTuple):
    """How the samples of each step are chosen and shared out."""

    seed: int
    num_samples: int
    batch_size: int
    accumulate: int
    rank: int = 0
    workers: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data; samples that do not fill a batch wait for another epoch's order."""
        return self.num_samples // self.batch_size

    def keys(self, step: int) -> list[list[Key]]:
        """Return the keys of this worker's batches in step `step`, one list per forward pass."""
        epoch, place = divmod(step, self.steps_per_epoch)
        indexes = _permutation(self.seed, epoch, self.num_samples)
        batch = indexes[place * self.batch_size : (place + 1) * self.batch_size]
        parts = batch.reshape(self.accumulate, -1)
        return [[(epoch, int(index)) for index in part[self.rank :: self.workers]] for part in parts]

    def check(self) -> None:
        """Refuse an order that cannot be carried out.

        Raises:
            ValueError: the batch does not divide over the workers, or is larger than the data set.
        """
        if self.batch_size % (self.accumulate * self.workers):
            raise ValueError(
                f"optim.batch_size {self.batch_size} does not divide over {self.workers} workers x optim.accumulate "
                f"{self.accumulate}; a multiple of {self.accumulate * self.workers} does"
            )
        if self.num_samples < self.batch_size:
            raise ValueError(
                f"{self.num_samples} training samples do not fill one batch of optim.batch_size {self.batch_size}"
            )


class LoaderSettings(NamedTuple):
    """How batches are prepared; it changes no number."""

    processes: int = 0
    memory_gib: float = 2.0
    """Decoded samples up to this size stay in memory."""
    pin_memory: bool = False


def training_batches(
    dataset: Dataset, data: Data, order: Order, steps: range, fill: tuple[int, int, int], loader: LoaderSettings
) -> Iterator[list[Batch]]:
    """Yield this worker's batches of each of `steps`, one list per step. Nothing is read for steps before the first."""
    samples = _Augmented(preloaded(dataset, loader.memory_gib), data, order.seed, fill)
    options: dict[str, Any] = {"prefetch_factor": 4} if loader.processes else {}
    batches = DataLoader(
        samples,
        batch_sampler=_Keys(order, steps),
        num_workers=loader.processes,
        pin_memory=loader.pin_memory,
        **options,
    )
    stream = (Batch(*batch) for batch in batches)
    return ([next(stream) for _ in range(order.accumulate)] for _ in steps)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed, below 2**62, of everything random about a sample in an epoch."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0] >> np.uint64(2))


def preloaded(dataset: Dataset, memory_gib: float) -> Dataset:
    """Return the data set with its samples decoded ahead until they fill `memory_gib`; others are read on demand."""
    limit = memory_gib * 2**30
    samples: list[Sample] = []
    used = 0
    chunk = 64
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for start in range(0, len(dataset.names), chunk):
            if used >= limit:
                break
            samples += pool.map(dataset.read, range(start, min(start + chunk, len(dataset.names))))
            used = sum(sample.image.nbytes + sample.mask.nbytes for sample in samples)
    return _Preloaded(dataset, samples)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class _Keys(Sampler[list[Key]]):
    def __init__(self, order: Order, steps: range) -> None:
        self._order = order
        self._steps = steps

    def __iter__(self) -> Iterator[list[Key]]:
        return (part for step in self._steps for part in self._order.keys(step))


class _Preloaded:
    def __init__(self, dataset: Dataset, samples: list[Sample]) -> None:
        self._dataset = dataset
        self._samples = samples
        self.classes: Classes = dataset.classes

    @property
    def names(self) -> tuple[str, ...]:
        return self._dataset.names

    def read(self, index: int) -> Sample:
        return self._samples[index] if index < len(self._samples) else self._dataset.read(index)

    def sequence(self, index: int) -> str | None:
        return self._dataset.sequence(index)


class _Augmented(TorchDataset[tuple[Tensor, Tensor, int]]):
    def __init__(self, dataset: Dataset, data: Data, seed: int, fill: tuple[int, int, int]) -> None:
        self._dataset = dataset
        self._data = data
        self._seed = seed
        self._fill = fill

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        epoch, index = key
        seed = sample_seed(self._seed, epoch, index)
        return (*augment(self._dataset.read(index), self._data, self._fill, seed), seed)
