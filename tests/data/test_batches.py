import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fcn_core.data.base import Sample
from fcn_core.data.batches import Batch, LoaderSettings, Order, preloaded, sample_seed, training_batches
from fcn_core.settings import VOID, Classes, Data

FILL = (124, 116, 104)
DATA = Data(crop=(12, 10), zoom=(0.8, 1.25), colour=0.5)
ORDER = Order(seed=3, num_samples=14, batch_size=4, accumulate=2)
FROM_DISK, IN_PROCESSES = LoaderSettings(memory_gib=0), LoaderSettings(processes=2)

# A machine with one core is told that two processes are too many for it.
processes = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")


class Numbered:
    """Images of noise whose masks are full of the sample's index; it notes what is read."""

    classes = Classes(names=tuple("abc"), colours=((0, 0, 0),) * 3)

    def __init__(self, size: int) -> None:
        self.names = tuple(map(str, range(size)))
        self.read_before: list[int] = []

    def read(self, index: int) -> Sample:
        self.read_before.append(index)
        image = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        return Sample(image, np.full((16, 16), index, np.uint8))

    def sequence(self, index: int) -> str | None:
        return f"sequence {index}"


def batches(steps: range, loader: LoaderSettings = FROM_DISK, order: Order = ORDER) -> list[list[Batch]]:
    return list(training_batches(Numbered(order.num_samples), DATA, order, steps, FILL, loader))


def same(ours: Sequence[Sequence[Batch]], theirs: Sequence[Sequence[Batch]]) -> bool:
    pairs = zip(flatten(ours), flatten(theirs), strict=True)
    return all(torch.equal(*tensors) for one, other in pairs for tensors in zip(one, other, strict=True))


def flatten(steps: Sequence[Sequence[Batch]]) -> list[Batch]:
    return list(itertools.chain.from_iterable(steps))


def indexes(order: Order, steps: range) -> list[int]:
    return [index for step in steps for part in order.keys(step) for _, index in part]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(14, 4), (12, 4), (7, 7), (5, 1)])
def test_an_epoch_shows_each_sample_at_most_once(num_samples: int, batch_size: int) -> None:
    order = Order(0, num_samples, batch_size, 1)
    assert order.steps_per_epoch == num_samples // batch_size
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        keys = [key for step in steps for part in order.keys(step) for key in part]
        assert {found for found, _ in keys} == {epoch}
        assert len({index for _, index in keys}) == len(keys) == order.steps_per_epoch * batch_size
        assert {index for _, index in keys} <= set(range(num_samples))


def test_every_epoch_and_seed_has_an_order_of_its_own() -> None:
    orders = {tuple(indexes(ORDER._replace(seed=seed), range(at, at + 3))) for seed in (0, 1) for at in (0, 3, 6)}
    assert len(orders) == 6
    assert indexes(ORDER, range(9)) == indexes(ORDER, range(9))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_workers_together_have_the_same_global_batch(workers: int, accumulate: int) -> None:
    for step in range(6):
        (expected,) = Order(0, 20, 8, 1).keys(step)
        shares = [Order(0, 20, 8, accumulate, rank, workers).keys(step) for rank in range(workers)]
        assert {len(share) for share in shares} == {accumulate}
        assert {len(part) for share in shares for part in share} == {8 // workers // accumulate}
        assert sorted(key for share in shares for part in share for key in part) == sorted(expected)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(0, 20, 8, 1, 0, 3), "optim.batch_size 8 does not divide over 3 workers .* a multiple of 3 does"),
        (Order(0, 20, 8, 4, 0, 4), "does not divide over 4 workers x optim.accumulate 4; a multiple of 16 does"),
        (Order(0, 7, 8, 1), "7 training samples do not fill one batch of optim.batch_size 8"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(order: Order, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order.check()
    Order(0, 20, 8, 2, 0, 4).check()


def test_every_sample_of_every_epoch_has_a_seed_of_its_own() -> None:
    seeds = [sample_seed(seed, epoch, index) for seed in range(5) for epoch in range(10) for index in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert 2**60 < max(seeds) < 2**62
    assert min(seeds) >= 0
    assert sample_seed(4, 9, 99) == seeds[-1]


def test_batches_hold_what_the_order_says() -> None:
    for step, parts in zip(range(5, 8), batches(range(5, 8)), strict=True):
        assert len(parts) == ORDER.accumulate
        for batch, keys in zip(parts, ORDER.keys(step), strict=True):
            assert (batch.images.shape, batch.images.dtype) == ((2, 3, 12, 10), torch.uint8)
            assert (batch.masks.shape, batch.masks.dtype) == ((2, 12, 10), torch.uint8)
            assert batch.seeds.tolist() == [sample_seed(3, *key) for key in keys]
            assert [int(mask[mask != VOID].unique()) for mask in batch.masks] == [index for _, index in keys]


@processes
@pytest.mark.parametrize("loader", [FROM_DISK, LoaderSettings(), IN_PROCESSES])
def test_a_resumed_run_gets_the_same_batches_bit_by_bit(loader: LoaderSettings) -> None:
    whole = batches(range(8))
    assert same(batches(range(8), loader), whole)
    assert same(batches(range(5, 8), loader), whole[5:])
    assert not same(batches(range(5, 8), loader), whole[:3])
    assert batches(range(8, 8), loader) == []


def test_workers_augment_a_sample_alike() -> None:
    def by_seed(order: Order) -> dict[int, bytes]:
        found = flatten(batches(range(4), order=order))
        return {
            int(seed): image.numpy().tobytes()
            for batch in found
            for image, seed in zip(batch.images, batch.seeds, strict=True)
        }

    two = by_seed(ORDER._replace(rank=0, workers=2)) | by_seed(ORDER._replace(rank=1, workers=2))
    assert two == by_seed(ORDER)


def test_nothing_is_read_for_the_steps_before() -> None:
    dataset = Numbered(14)
    assert len(list(training_batches(dataset, DATA, ORDER, range(5, 8), FILL, FROM_DISK))) == 3
    assert dataset.read_before == indexes(ORDER, range(5, 8))


@pytest.mark.parametrize(("memory_gib", "ahead"), [(0, 0), (1e-9, 64), (70 * 1024 / 2**30, 128), (1, 150)])
def test_samples_are_decoded_ahead_until_memory_is_full(memory_gib: float, ahead: int) -> None:
    dataset = Numbered(150)
    loaded = preloaded(dataset, memory_gib)
    assert sorted(dataset.read_before) == list(range(ahead))
    dataset.read_before.clear()
    for index in (0, 63, 64, 127, 128, 149):
        assert (loaded.read(index).mask == index).all()
    assert dataset.read_before == [index for index in (0, 63, 64, 127, 128, 149) if index >= ahead]
    assert (loaded.names, loaded.classes, loaded.sequence(5)) == (dataset.names, dataset.classes, "sequence 5")
