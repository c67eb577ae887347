"""Faults and loads that a server must bear, each with the figures of how it did."""

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx2

from fcn_core.registry.store import Registry
from fcn_core.registry.version import Candidate, manifest_of
from tests.registry.made import NAME, crown_as_it_is
from tests.services.hostile import Upload
from tests.services.load import Answer, Client, Load, percentile
from tests.services.server import Server
from tests.services.serving import opened


class Background(threading.Thread):
    """Load in a thread of its own, until it is stopped or its time is over."""

    def __init__(self, ask: Callable[[], Load]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.load: Load | None = None

    def run(self) -> None:
        self.load = self._ask()

    def result(self) -> Load:
        self.join(300)
        assert self.load is not None
        return self.load


class Kills(NamedTuple):
    load: Load
    kills: int


def kill_replicas(server: Server, images: Sequence[bytes], seconds: float, every_s: float) -> Kills:
    """Kill some replica again and again under load, as long as there is another; who asks may ask twice more."""
    client, kills, end = Client(server.port, images), 0, time.monotonic() + seconds
    asking = Background(lambda: client.keep_asking(4, seconds, retries=2))
    asking.start()
    while time.monotonic() < end:
        time.sleep(every_s)
        # A replica takes seconds to start, on a busy machine many: with the last one the service would be gone.
        if len(replicas := server.ready()) > 1:
            with suppress(ProcessLookupError):
                os.kill(random.choice(replicas), signal.SIGKILL)  # noqa: S311 -- no secret.
                kills += 1
    return Kills(asking.result(), kills)


class Update(NamedTuple):
    load: Load
    versions: list[str]
    """That answered, in the order in which they did."""
    mixed: int
    """Masks beyond one for each image and version."""
    refused: list[str]


Crown = Callable[[Registry], int]
"""Makes another version champion and returns its number."""


def crowning(candidate: Candidate, *, damaged: bool = False) -> Crown:
    def crown(registry: Registry) -> int:
        version = registry.pack(NAME, candidate)
        if damaged:
            with (Path(version.url) / "model.safetensors").open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"\xff\xff\xff\xff")
            crown_as_it_is(registry, version.facts.version, manifest_of(version.url))
        else:
            registry.crown(version, registry.champion(NAME), "a test")
        return version.facts.version

    return crown


def update_under_load(server: Server, registry: Registry, crowns: Sequence[Crown], images: Sequence[bytes]) -> Update:
    """Crown versions one after the other under load, and wait each time until replicas took it up or refused it."""
    client, done, refused = Client(server.port, images), threading.Event(), list[str]()
    asking = Background(lambda: client.keep_asking(4, 240, done=done.is_set))
    asking.start()
    for crown in crowns:
        refused = wait_until_settled(server, crown(registry))
    done.set()
    load = asking.result()
    masks: dict[tuple[str, int], set[bytes]] = {}
    for answer in load.good:
        key = answer.headers["model-version"], answer.image
        masks.setdefault(key, set()).add(opened(answer.body).tobytes())
    # One version, one mask: whatever mixed two would be another.
    mixed = sum(len(found) - 1 for found in masks.values())
    return Update(load, [answer.headers["model-version"] for answer in load.good], mixed, refused)


def wait_until_settled(server: Server, version: int, times: int = 8) -> list[str]:
    """Wait until a version is served or refused by whoever answers, so many times in a row; return what is refused."""
    row, deadline = 0, time.monotonic() + 120
    refused: list[str] = []
    while row < times:
        assert time.monotonic() < deadline, f"version {version} was neither served nor refused"
        found = httpx2.get(f"{server.url}/v1/models", timeout=30).json()
        refused = found["refused"]
        is_settled = found["models"][0]["version"] == version or any(f"/{version}" in reason for reason in refused)
        row = row + 1 if is_settled else 0
        time.sleep(0.1)
    return refused


class Overload(NamedTuple):
    capacity: float
    """Images a second, with as many clients as saturate it."""
    load: Load
    grown_bytes: int
    """By which the memory of the replicas grew."""

    @property
    def refusals(self) -> list[Answer]:
        return [answer for answer in self.load.answers if answer.status in (429, 503)]

    @property
    def goodput(self) -> float:
        """Share of the capacity that was answered."""
        return self.load.goodput / self.capacity


def overload(server: Server, images: Sequence[bytes], seconds: float, times: float) -> Overload:
    """Ask for so many times what the server can do."""
    client = Client(server.port, images)
    client.keep_asking(4, 1)
    capacity = client.keep_asking(8, seconds).goodput
    before = sum(map(memory, server.replicas()))
    load = client.ask_at(times * capacity, seconds)
    return Overload(capacity, load, sum(map(memory, server.replicas())) - before)


def memory(process: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Loris(NamedTuple):
    alone: Load
    beside: Load

    @property
    def ratio(self) -> float:
        """How much later the 99th of a hundred good answers comes."""
        return percentile(self.beside.good, 0.99) / percentile(self.alone.good, 0.99)


def slow_loris(server: Server, images: Sequence[bytes], seconds: float, number: int) -> Loris:
    """Hold sockets open that never end their request, half within the head and half within the body."""
    client = Client(server.port, images)
    client.keep_asking(2, 1)
    alone = client.keep_asking(2, seconds)
    with dripping(server.port, number):
        return Loris(alone, client.keep_asking(2, seconds))


@contextmanager
def dripping(port: int, number: int) -> Iterator[None]:
    """Open sockets that send a byte a second."""
    head = b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    starts = head, head + b"Content-Length: 100000\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    for index, one in enumerate(sockets):
        one.sendall(starts[index % 2])
    done = threading.Event()

    def drip() -> None:
        while not done.wait(1):
            for one in sockets:
                with suppress(OSError):
                    one.send(b"x")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for one in sockets:
            one.close()


def computed(server: Server) -> float:
    """Return how many images the replica that answers has brought through its network."""
    page = httpx2.get(f"{server.url}/metrics", timeout=30).text
    lines = (line for line in page.splitlines() if line.startswith('fcn_stage_seconds_count{stage="inference"}'))
    return sum(float(line.split()[1]) for line in lines)


def leave(server: Server, image: bytes, number: int, wait_s: float) -> float:
    """Send so many requests, leave without their answers, and return how many were computed all the same."""
    before = computed(server)
    request = Client(server.port, [image]).requests[0]
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(number)]
    for one in sockets:
        one.sendall(request)
    time.sleep(wait_s)
    for one in sockets:
        one.close()
    quiet, last = 0, computed(server)
    while quiet < 3:
        time.sleep(1)
        now = computed(server)
        quiet, last = (quiet + 1 if now == last else 0), now
    return last - before


class Hostile(NamedTuple):
    wrong: list[str]
    """Names of files whose answer is not what it should be."""
    statuses: Counter[int]
    slowest: tuple[float, str]
    grown_bytes: int


def send_hostile(server: Server, uploads: Sequence[Upload]) -> Hostile:
    """Send files one after the other."""
    wrong, taken, before = [], list[tuple[float, str]](), sum(map(memory, server.replicas()))
    statuses: Counter[int] = Counter()
    peak = before
    with httpx2.Client(base_url=server.url, timeout=60) as http:
        for upload in uploads:
            start = time.perf_counter()
            answer = http.post("/v1/segment", content=upload.contents)
            taken.append((time.perf_counter() - start, upload.name))
            statuses[answer.status_code] += 1
            is_problem = answer.headers["content-type"] == "application/problem+json"
            if answer.status_code != upload.status or is_problem == (answer.status_code == 200):
                wrong.append(upload.name)
            peak = max(peak, sum(map(memory, server.replicas())))
    return Hostile(wrong, statuses, max(taken), peak - before)
