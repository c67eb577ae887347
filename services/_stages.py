"""From uploaded files to encoded answers: decode, infer and encode, each with threads of its own.

Inference has one thread, which takes one image after the other: the device never waits for a PNG, and an answer never
depends on its neighbours. What stands in all queues together is bounded, and beyond that nobody is let in.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

from fcn_core.data.pictures import Pixels
from services._answers import Answer, compute
from services._encode import encode, encode_all
from services._images import decode
from services._metrics import Metrics
from services._models import Served
from services._problems import Problem
from services._settings import Serving

_T = TypeVar("_T")
Times = dict[str, float]
"""Seconds of a request in each stage."""
CODEC_THREADS = 2


class Segmented(NamedTuple):
    """An image and its answer."""

    image: Pixels
    answer: Answer


class Stages:
    """The stages of a replica."""

    def __init__(self, settings: Serving, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._decoding = ThreadPoolExecutor(CODEC_THREADS, "decode")
        self._inference = ThreadPoolExecutor(1, "inference")
        self._encoding = ThreadPoolExecutor(CODEC_THREADS, "encode")
        self._inside = 0
        self._mean_s = 0.0
        self._broken: str | None = None
        metrics.watch_waiting(lambda: self._inside)

    def close(self) -> None:
        """End the threads. What has not begun is not done."""
        for pool in (self._decoding, self._inference, self._encoding):
            pool.shutdown(wait=False, cancel_futures=True)

    def check_device(self) -> None:
        """Check that the device still works.

        Raises:
            Problem: it does not (503), and will not before this process ends.
        """
        if self._broken:
            raise Problem(503, f"the device failed: {self._broken}")

    def check_room(self, images: int = 1) -> None:
        """Check that there is room for more images.

        Raises:
            Problem: there is none (503).
        """
        if self._inside + images > self._settings.max_waiting:
            detail = f"{self._inside} images wait already, at most {self._settings.max_waiting} do"
            raise Problem.try_again(503, detail, self._inside * self._mean_s, "capacity")

    @contextmanager
    def room(self, images: int) -> Iterator[None]:
        """Take the room of some images.

        Raises:
            Problem: there is none (503).
        """
        self.check_room(images)
        self._inside += images
        try:
            yield
        finally:
            self._inside -= images

    async def segment(self, served: Served, file: bytes, wanted: str, name: str, times: Times) -> Segmented:
        """Decode an image file and compute its answer.

        Args:
            served: version.
            file: contents.
            wanted: media type of the answer.
            name: what messages call the image.
            times: gets the seconds of each stage added, without those of waiting for it.

        Raises:
            Problem: it is no image that can be used.
        """
        dropped, own = threading.Event(), Times()
        try:
            image = await self._run(self._decoding, "decode", own, decode, file, self._settings, name)
            answer = await self._run(self._inference, "inference", own, compute, served, image, wanted, dropped)
        except torch.OutOfMemoryError as error:
            raise Problem.try_again(503, f"there is no memory for {name} at present", 1, "memory") from error
        except torch.AcceleratorError as error:
            self._broken = str(error)
            raise
        finally:
            dropped.set()
        # Of the first there is no mean yet.
        self._mean_s += (0.1 if self._mean_s else 1) * (own["inference"] - self._mean_s)
        for stage, seconds in own.items():
            times[stage] = times.get(stage, 0) + seconds
        return Segmented(image, answer)

    async def encode(self, served: Served, one: Segmented, wanted: str, times: Times) -> bytes:
        """Return an answer as the media type that is wanted."""

        def counted() -> bytes:
            self._metrics.found(served, one.answer.labels)
            return encode(served, one.image, one.answer, wanted)

        return await self._run(self._encoding, "encode", times, counted)

    async def encode_all(self, served: Served, several: Sequence[Segmented], wanted: str, times: Times) -> bytes:
        """Return several answers as the media type that is wanted."""
        answers = [one.answer for one in several]

        def counted() -> bytes:
            for answer in answers:
                self._metrics.found(served, answer.labels)
            return encode_all(served, answers, wanted)

        return await self._run(self._encoding, "encode", times, counted)

    async def _run(self, pool: Executor, stage: str, times: Times, function: Callable[..., _T], *args: object) -> _T:
        """Call a function in a pool. If nobody waits any more and it has not begun, it is not called."""

        def measured() -> _T:
            with self._metrics.stage(stage, times):
                return function(*args)

        return await asyncio.get_running_loop().run_in_executor(pool, measured)
