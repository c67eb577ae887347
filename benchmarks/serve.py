"""How fast the service is beside a bare loop and its peers, as ratios; above 1 ours is the faster.

    python -m benchmarks.serve                                              # after pip install '.[dev,bench]'
    python -m benchmarks.serve --only "resnet18 180x240" --rounds 5 --seconds 6

A champion, trained for a minute, is served from one core, all threads and processes of a server included, with one
torch thread; the client has the other cores. All answers must have the pixels of the bare loop. The arms:

loop      decode, predict, encode, one image after the other: nobody listens
uvicorn   our application alone
serve     our application under Ray Serve with its own proxy
haproxy   and with HAProxy
fastapi   the three steps in a plain function of FastAPI under uvicorn
litserve  the three steps in LitServe, one worker, with its fast queue

Servers that are not measured are stopped (SIGSTOP). Rounds alternate (A B C, C B A, ...), ratios are medians over
rounds of goodput with 32 requests at once; the overhead is that of the median answer to one request at a time over the
loop's. CPU time says more than goodput where others use the same core.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Column, Table

from benchmarks._peers import Model
from benchmarks._serving import CASES, crown, images_of, run_of
from tests.jobs.commands import free_port, processes_of
from tests.services.load import Client, Load, percentile
from tests.services.server import Server, running, started, with_haproxy, without_haproxy
from tests.services.serving import opened

CORE = 0
"""Of the servers."""
CONCURRENCY = 32
OURS, PEERS = ("uvicorn", "serve", "haproxy"), ("loop", "fastapi", "litserve")
SETTINGS = {"OMP_NUM_THREADS": "1", "FCN_SERVE_MAX_WAITING": str(2 * CONCURRENCY), "FCN_SERVE_REFRESH_S": "10"}
"""Room for all requests, since the peers never refuse; the rest is as people have it."""


class Speed(NamedTuple):
    """What an arm did in a round."""

    goodput: float
    """Images a second, with many requests at once."""
    latency: float
    """Seconds of the median answer to one request at a time."""
    cpu: float
    """Seconds of CPU an image, of all that belongs to the server."""
    client: float = 0.0
    """Share of a core that the client took."""


class Loop:
    """The bare loop, in a process on the core of the servers."""

    def __init__(self, lab: Path, images: Sequence[bytes]) -> None:
        self._lab, self._images = str(lab), images
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), os.sched_setaffinity, (0, {CORE}))
        self.masks = self._pool.submit(masks, self._lab, images).result()

    def measure(self, seconds: float) -> Speed:
        """Work for some seconds."""
        taken, cpu = self._pool.submit(repeat, self._lab, self._images, seconds).result()
        return Speed(len(taken) / sum(taken), statistics.median(taken), cpu / len(taken))

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def masks(lab: str, images: Sequence[bytes]) -> list[bytes]:
    """Return the answer to each image."""
    model = Model(lab)
    return [model(image) for image in images]


def repeat(lab: str, images: Sequence[bytes], seconds: float) -> tuple[list[float], float]:
    """Answer images for some seconds, and return the time of each and the CPU time of all."""
    model, taken = Model(lab), list[float]()
    model(images[0])
    cpu = time.process_time()
    while sum(taken) < seconds:
        start = time.perf_counter()
        model(images[len(taken) % len(images)])
        taken.append(time.perf_counter() - start)
    return taken, time.process_time() - cpu


class Arm:
    """A server, stopped while others are measured."""

    def __init__(self, server: Server, images: Sequence[bytes], expected: Sequence[bytes]) -> None:
        self._server, self._images = server, images
        self._expected = [opened(mask).tobytes() for mask in expected]
        self._stop()

    def measure(self, seconds: float) -> Speed:
        """Ask for some seconds, many and one at a time."""
        self._signal(signal.SIGCONT)
        client = Client(self._server.port, self._images)
        client.keep_asking(4, 1)
        before = self._server.cpu_s()
        many = client.keep_asking(CONCURRENCY, seconds)
        cpu = (self._server.cpu_s() - before) / len(many.answers)
        one = client.keep_asking(1, seconds)
        self._stop()
        for load in many, one:
            self._check(load)
        share = (many.cpu_s + one.cpu_s) / (many.seconds + one.seconds)
        return Speed(many.goodput, percentile(one.good, 0.5), cpu, share)

    def close(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _check(self, load: Load) -> None:
        if set(load.statuses) != {200}:
            raise RuntimeError(f"not all answers were good: {load.statuses}")
        for image, body in {(answer.image, answer.body) for answer in load.good}:
            if opened(body).tobytes() != self._expected[image]:
                raise RuntimeError(f"image {image} got another mask than from the bare loop")

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        for process in processes_of(self._server.folder):
            os.kill(process, number)


@contextmanager
def on_the_core() -> Iterator[None]:
    """Start processes that stay on the core of the servers."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def serving(kind: str, folder: Path, lab: Path) -> Iterator[Server]:
    """Start the server of an arm."""
    if kind in ("serve", "haproxy"):
        proxy = with_haproxy if kind == "haproxy" else without_haproxy
        starting = running(folder, lab, SETTINGS | proxy(folder), {"num_replicas": 1})
    else:
        port, ready = free_port(), "/health" if kind == "litserve" else "/readyz"
        command = [sys.executable, "-m", "benchmarks._peers", kind, str(lab), str(port)]
        starting = started(command, folder, port, ready, SETTINGS, patience_s=3)
    with ExitStack() as stack:
        with on_the_core():
            server = stack.enter_context(starting)
        yield server


def measure(case: str, rounds: int, seconds: float, console: Console) -> list[dict[str, Speed]]:
    """Return what each arm did in each round."""
    found = []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fcn")))
        crown(run_of(case), work / "lab")
        images = images_of(case)
        loop = Loop(work / "lab", images)
        stack.callback(loop.close)
        arms: dict[str, Loop | Arm] = {"loop": loop}
        for kind in (*OURS, *PEERS[1:]):
            folder = work / kind
            folder.mkdir()
            arm = Arm(stack.enter_context(serving(kind, folder, work / "lab")), images, loop.masks)
            stack.callback(arm.close)
            arms[kind] = arm
        for number in range(rounds):
            order = list(arms) if number % 2 == 0 else list(arms)[::-1]
            speeds = {kind: arms[kind].measure(seconds) for kind in order}
            found.append({kind: speeds[kind] for kind in arms})
            told = (f"{kind} {speed.goodput:.1f}/s {1000 * speed.latency:.1f} ms" for kind, speed in found[-1].items())
            console.print(f"{case}, round {number + 1}: {', '.join(told)}")
    return found


def tables(case: str, rounds: Sequence[Mapping[str, Speed]]) -> Iterator[Table]:
    """Return the ratios, and what each arm did."""
    ratios = Table(
        case, *(Column(f"over {peer}", justify="right") for peer in PEERS), Column("overhead", justify="right")
    )
    for ours in OURS:
        over = ([one[ours].goodput / one[peer].goodput for one in rounds] for peer in PEERS)
        more = statistics.median(one[ours].latency - one["loop"].latency for one in rounds)
        share = statistics.median(one[ours].latency / one["loop"].latency - 1 for one in rounds)
        ratios.add_row(ours, *map(_spread, over), f"{1000 * more:.1f} ms, {100 * share:.0f} %")
    yield ratios
    names = ("images/s", "p50 alone, ms", "CPU an image, ms", "client, % of a core")
    each = Table(case, *(Column(name, justify="right") for name in names))
    for arm in (*OURS, *PEERS):
        goodput, latency, cpu, client = (
            statistics.median(values) for values in zip(*(one[arm] for one in rounds), strict=True)
        )
        each.add_row(arm, f"{goodput:.1f}", f"{1000 * latency:.1f}", f"{1000 * cpu:.1f}", f"{100 * client:.1f}")
    yield each


def _spread(values: Iterator[float] | list[float]) -> str:
    values = list(values)
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print tables."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.serve", *sys.argv[1:]], environment)  # noqa: S606
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    options = parser.parse_args()
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {CORE})
    console = Console(width=140)
    for case in options.only.split(","):
        console.print(*tables(case, measure(case, options.rounds, options.seconds, console)), sep="\n")


if __name__ == "__main__":
    main()
