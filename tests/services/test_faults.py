"""Short versions of what benchmarks/serve_faults.py measures: nothing is lost, whatever happens to a replica."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fcn_core.registry.store import MODELS, Registry
from tests.registry.made import Made, made_champion
from tests.services.faults import (
    Background,
    crowning,
    kill_replicas,
    leave,
    overload,
    send_hostile,
    slow_loris,
    update_under_load,
)
from tests.services.hostile import uploads
from tests.services.load import Client
from tests.services.server import Server, running, with_haproxy
from tests.services.serving import encoded, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
IMAGES = [encoded(scene(64, 64, number)) for number in range(4)]
EAGER = {"max_replicas": 2, "upscale_delay_s": 1, "downscale_delay_s": 3, "look_back_period_s": 2}
PUSH = {f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5" for who in ("REPLICA", "HANDLE")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Sockets have paths of at most 107 bytes, too few for pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="fcn") as name:
        yield Path(name)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_replica_that_bears_everything_but_kills(folder: Path, lab: Path) -> None:
    settings = with_haproxy(folder) | {"FCN_SERVE_MAX_WAITING": "8"}
    with running(folder, lab, settings, {"num_replicas": 1}) as server:
        (replica,) = server.replicas()
        full = overload(server, IMAGES, seconds=4, times=10)
        assert set(full.load.statuses) == {200, 503}
        # How much is for benchmarks/serve_faults.py to say.
        assert full.goodput > 0.1
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in full.refusals)
        assert full.grown_bytes < 200 * 2**20
        assert left_early(server) <= 2
        loris = slow_loris(server, IMAGES, seconds=4, number=100)
        assert set(loris.alone.statuses + loris.beside.statuses) == {200}
        hostile = send_hostile(server, uploads())
        assert hostile.wrong == []
        assert hostile.grown_bytes < 500 * 2**20
        assert server.replicas() == [replica]


def left_early(server: Server) -> float:
    """Return how many of six large images were computed although nobody waited."""
    return leave(server, encoded(scene(1200, 1200)), 6, wait_s=0.5)


def test_killed_replicas_and_new_champions_fail_no_request(
    folder: Path, tmp_path: Path, made: Made, other: Made
) -> None:
    registry = Registry(str(tmp_path / MODELS))
    made_champion(registry, made.candidate())
    with running(folder, tmp_path, with_haproxy(folder), {"num_replicas": 2}) as server:
        crowns = crowning(other.candidate()), crowning(made.candidate(), damaged=True)
        update = update_under_load(server, registry, crowns, IMAGES)
        assert set(update.load.statuses) == {200}
        assert set(update.versions) == {"1", "2"}
        assert update.mixed == 0
        assert len(update.refused) == 1
        wait_until(lambda: len(server.ready()) == 2)
        killed = kill_replicas(server, IMAGES, seconds=20, every_s=4)
        assert killed.kills >= 1
        assert set(killed.load.statuses) == {200}


def test_a_second_replica_comes_under_load_and_goes_after_it(folder: Path, lab: Path) -> None:
    with running(folder, lab, PUSH, {"autoscaling_config": EAGER}) as server:
        wait_until(lambda: len(server.replicas()) == 1)
        load = Background(
            lambda: Client(server.port, IMAGES).keep_asking(8, 120, done=lambda: len(server.replicas()) > 1)
        )
        load.start()
        assert set(load.result().statuses) == {200}
        assert len(server.replicas()) == 2
        wait_until(lambda: len(server.replicas()) == 1)
