"""Many writers at once, and writers that are killed."""

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from fcn_core.registry.gate import GateFailedError, promote
from fcn_core.registry.store import ChampionMovedError, Entry, Registry
from fcn_core.registry.version import Version
from tests.registry.made import NAME, Made, assert_a_chain, believe, made_champion, quiet


@pytest.mark.usefixtures("_as_a_store_does")
def test_of_many_who_promote_at_once_one_wins_each_time_and_readers_see_a_whole_champion(
    registry: Registry, made: Made
) -> None:
    versions = [registry.pack(NAME, made.scored(50 + hits)) for hits in (3, 0, 5, 1, 4, 2)]
    start, done = threading.Barrier(len(versions) + 1), threading.Event()

    def write(version: Version) -> Entry | None:
        start.wait()
        try:
            return promote(registry, version, believe(version), None, quiet)
        except (GateFailedError, ChampionMovedError):
            return None

    def look() -> list[int]:
        seen = []
        start.wait()
        is_last = False
        while not is_last:
            is_last = done.is_set()
            champion = registry.read_champion(NAME)
            seen += [champion.facts.version] if champion else []
        return seen

    with ThreadPoolExecutor(len(versions) + 1) as threads:
        reading = threads.submit(look)
        won = [entry for entry in threads.map(write, versions) if entry]
        done.set()
        seen = reading.result()
    history = registry.history(NAME)
    assert sorted(history, key=lambda entry: entry.number) == sorted(won, key=lambda entry: entry.number)
    assert_a_chain(history)
    order = [entry.version for entry in history]
    assert seen[-1] == order[-1]
    assert [order.index(one) <= order.index(next_) for one, next_ in pairwise(seen)] == [True] * (len(seen) - 1)
    scored = [registry.read(NAME, version).report.scores.mean_iou or 0 for version in order]
    assert scored == sorted(scored)


@pytest.mark.usefixtures("_as_a_store_does")
def test_many_who_pack_at_once_get_a_number_each(registry: Registry, made: Made) -> None:
    with ThreadPoolExecutor(6) as threads:
        packed = list(threads.map(lambda hits: registry.pack(NAME, made.scored(hits)), range(6)))
    assert sorted(version.facts.version for version in packed) == registry.versions(NAME) == [1, 2, 3, 4, 5, 6]
    for version in packed:
        assert registry.read(NAME, version.facts.version) == version


HELPERS = """
    import os, random, signal, sys, time
    import torch

    torch.set_num_threads(1)
    from pathlib import Path
    from fcn_core.registry.gate import promote
    from fcn_core.registry.store import Registry
    from tests.registry.made import NAME, Made, believe, evaluated, quiet

    registry = Registry(sys.argv[1])
    made = Made(sys.argv[2], sys.argv[3], evaluated(sys.argv[2]))

    def promote_next():
        version = registry.pack(NAME, made.scored(50, 60))
        return promote(registry, version, believe(version), None, quiet)
"""

PROMOTE_AT_ONCE = """
    waiting, go = os.pipe()
    for _ in range(4):
        if os.fork() == 0:
            os.close(go)
            os.read(waiting, 1)
            for _ in range(5):
                promote_next()
            os._exit(0)
    os.close(go)
    codes = [os.waitpid(-1, 0)[1] for _ in range(4)]
    sys.exit(max(codes) != 0)
"""

PROMOTE_UNTIL_KILLED = """
    start = time.monotonic()
    promote_next()
    duration = time.monotonic() - start
    for _ in range(15):
        child = os.fork()
        if child == 0:
            while True:
                promote_next()
        time.sleep(random.uniform(0, 3 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for number in registry.versions(NAME):
            registry.read(NAME, number)
        assert registry.read_champion(NAME)
"""


def in_processes(script: str, registry: Registry, made: Made) -> None:
    program = textwrap.dedent(HELPERS) + textwrap.dedent(script)
    child = subprocess.run(
        [sys.executable, "-c", program, registry.url, made.url, made.weights],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr


def test_processes_that_promote_at_once_make_one_chain(local: Registry, made: Made) -> None:
    in_processes(PROMOTE_AT_ONCE, local, made)
    assert local.versions(NAME) == list(range(1, 21))
    history = local.history(NAME)
    assert_a_chain(history)
    assert sorted(entry.version for entry in history) == list(range(1, 21))


def test_whenever_a_promotion_is_killed_nothing_torn_is_read_and_the_next_goes_on(local: Registry, made: Made) -> None:
    in_processes(PROMOTE_UNTIL_KILLED, local, made)
    history = local.history(NAME)
    assert_a_chain(history)
    before = local.versions(NAME)
    entry = made_champion(local, made.scored(50, 60))
    assert entry.number == len(history) + 1
    assert entry.version > before[-1]
