"""A cheap client for load: plain sockets in one thread, about 0.1 ms of CPU a request."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple

_Asking = Coroutine[Any, Any, None]
PATIENCE_S = 60
"""For one answer."""


class Answer(NamedTuple):
    """What came back for a request; status 0: nothing did."""

    image: int
    """Which of the images was sent."""
    began: float
    """On the clock of time.perf_counter."""
    seconds: float
    status: int
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes


class Load(NamedTuple):
    """All answers of some seconds."""

    answers: list[Answer]
    """In the order in which they came."""
    seconds: float
    cpu_s: float
    """CPU time of the client."""

    @property
    def good(self) -> list[Answer]:
        """What was answered."""
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(answer.status for answer in self.answers)

    @property
    def goodput(self) -> float:
        """Images answered in a second."""
        return len(self.good) / self.seconds


def _passes(status: int, headers: dict[str, str]) -> bool:
    """Tell whether `services/client.py` would ask again."""
    is_ours = "problem+json" in headers.get("content-type", "")
    return status in (0, 429, 503) or (status // 100 == 5 and not is_ours)


def percentile(answers: Sequence[Answer], share: float) -> float:
    """Return the seconds within which this share of the answers came."""
    taken = sorted(answer.seconds for answer in answers)
    return taken[min(len(taken) - 1, int(share * len(taken)))]


class Client:
    """Sends images to one path of a server, over connections that are kept."""

    def __init__(self, port: int, images: Sequence[bytes], path: str = "/v1/segment") -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/octet-stream\r\n"
        self.requests = [f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image for image in images]
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, number: int, retries: int = 0) -> Answer:
        """Send an image; again where a connection broke or the service says so, as `services/client.py` does."""
        began = time.perf_counter()
        image = number % len(self.requests)
        status, headers, body = await self._try(image)
        for before in range(retries):
            if not _passes(status, headers):
                break
            await asyncio.sleep(float(headers.get("retry-after", before + (status != 0))))
            status, headers, body = await self._try(image)
        return Answer(image, began, time.perf_counter() - began, status, headers, body)

    async def _try(self, image: int) -> tuple[int, dict[str, str], bytes]:
        try:
            return await asyncio.wait_for(self._exchange(self.requests[image]), PATIENCE_S)
        except (OSError, EOFError, TimeoutError):
            return 0, {}, b""

    async def _exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(request)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:
            # Closed, it would wait until what it has to send is sent, longer than the loop lives.
            writer.transport.abort()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._free.append((reader, writer))
        return int(first.split(" ")[1]), headers, body

    def close(self) -> None:
        """Close all connections."""
        while self._free:
            self._free.pop()[1].close()

    def keep_asking(
        self, concurrency: int, seconds: float, retries: int = 0, done: Callable[[], bool] = lambda: False
    ) -> Load:
        """Send as many requests at once for some seconds or until it is done: who is answered asks again."""
        numbers = count()

        async def ask_until(end: float, answers: list[Answer]) -> None:
            while time.perf_counter() < end and not done():
                answers.append(await self.ask(next(numbers), retries))

        return self._measured(lambda end, answers: (ask_until(end, answers) for _ in range(concurrency)), seconds)

    def ask_at(self, rate: float, seconds: float) -> Load:
        """Send so many requests a second, whether or not those before were answered."""
        start, total = time.perf_counter(), int(rate * seconds)

        async def ask_later(number: int, answers: list[Answer]) -> None:
            await asyncio.sleep(start + number / rate - time.perf_counter())
            answers.append(await self.ask(number))

        return self._measured(lambda _, answers: (ask_later(number, answers) for number in range(total)), seconds)

    def _measured(self, clients: Callable[[float, list[Answer]], Iterable[_Asking]], seconds: float) -> Load:
        answers: list[Answer] = []
        start, cpu = time.perf_counter(), time.process_time()

        async def run() -> None:
            await asyncio.gather(*clients(start + seconds, answers))
            self.close()

        asyncio.run(run())
        return Load(answers, time.perf_counter() - start, time.process_time() - cpu)
