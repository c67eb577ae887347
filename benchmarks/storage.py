"""How fast checkpoints go up, and how long a save keeps training waiting; arms alternate, ratios are of pairs.

    python benchmarks/storage.py               # against OpenStack Swift and moto, both on loopback

A 134 M parameter FCN with momentum is about 1 GB; --mib is what is uploaded here, half of it in each of two files.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.runtime import LocalRuntime
from fcn_core.saving import Saver
from fcn_core.storage.calls import open_url
from fcn_core.training import Training
from tests.faulty import Fault, Proxy, faulty_s3, use_s3
from tests.swift_server import swift
from tests.test_checkpoint import CLASSES, card


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with pytest.MonkeyPatch.context() as patch, swift() as access, use_s3(patch, access, 60, 300):
        # Not through the proxy, which would be measured too.
        patch.setenv("AWS_ENDPOINT_URL", access["AWS_ENDPOINT_URL"])
        uploads("Swift", options.mib, options.pairs)
    with pytest.MonkeyPatch.context() as patch, faulty_s3(patch, 60, 300) as proxy:
        blocking(proxy, options.mib, options.pairs)


def uploads(server: str, mib: int, pairs: int) -> None:
    """Compare a folder published file by file, part by part, with what `publishing` does."""
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"file-{number}" for number in range(2)]
        for file in files:
            file.write_bytes(torch.randint(256, (mib * 2**19,), dtype=torch.uint8).numpy().tobytes())

        def serial() -> None:
            place = open_url("s3://lab/serial")
            for file in files:
                place.filesystem.put_file(str(file), f"{place.path}/{file.name}", max_concurrency=1)

        def parallel() -> None:
            with storage.publishing("s3://lab/parallel") as folder:
                for file in files:
                    (folder / file.name).hardlink_to(file)

        report(f"{server}: upload of {mib} MiB", ("serial", serial), ("published", parallel), pairs)


class Still:
    """What a save needs of a `Training`, with a state of a given size."""

    def __init__(self, mib: int) -> None:
        self.weights = {"weight": torch.zeros(mib * 2**17)}
        self.rest = {"momentum": torch.zeros(mib * 2**17)}
        self.step = 2
        self.epochs: list[Epoch] = []

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return weights and the rest."""
        return self.weights, self.rest


class Measured(Saver):
    """Saves what is no network."""

    def _card(self, training: Training) -> object:  # type: ignore[override]
        return card(training.step)


def blocking(proxy: Proxy, mib: int, pairs: int) -> None:
    """Compare how long a save that waits for the upload keeps training with one that does not."""
    training = Still(mib)

    def save(*, wait: bool) -> Callable[[], None]:
        def carry_out() -> None:
            saver = Measured(RunFolder(f"s3://lab/run-{wait}"), CLASSES, 1, LocalRuntime())
            saver._wait = wait  # noqa: SLF001
            savers.append(saver)
            saver(training)  # type: ignore[arg-type]

        return carry_out

    savers: list[Saver] = []

    def settle() -> None:
        while savers:
            savers.pop().__exit__(None, None, None)

    with proxy.failing(Fault("slow", "PUT")):
        title = f"a save of {mib} MiB on moto, 0.6 s more for each PUT"
        report(title, ("waiting", save(wait=True)), ("in a thread", save(wait=False)), pairs, settle)


def report(
    title: str,
    one: tuple[str, Callable[[], None]],
    other: tuple[str, Callable[[], None]],
    pairs: int,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Print median times of both arms and the paired ratio."""
    times: dict[str, list[float]] = {one[0]: [], other[0]: []}
    for number in range(pairs):
        for name, arm in (one, other) if number % 2 == 0 else (other, one):
            start = time.perf_counter()
            arm()
            times[name].append(time.perf_counter() - start)
            between()
    ratios = sorted(a / b for a, b in zip(times[one[0]], times[other[0]], strict=True))
    medians = ", ".join(f"{name} {statistics.median(taken):.2f} s" for name, taken in times.items())
    spread = f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
    print(f"{title}: {medians}; ratio {statistics.median(ratios):.1f} ({spread}), {pairs} pairs")


if __name__ == "__main__":
    main()
