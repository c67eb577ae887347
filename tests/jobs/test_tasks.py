"""Tasks without a cluster: what Ray would say of them is said here."""

from collections.abc import Sequence
from typing import Any

import pytest
import ray

from jobs import _tasks
from jobs._cli import Resources, RunFailedError
from jobs._tasks import as_done


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks were under way at once; the newest is done first, and nothing is while no node is there."""
    under_way = [0]

    def wait(running: Sequence[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout == 7
        under_way.append(len(running))
        return ([running[-1]], [*running[:-1]]) if "lost" not in running else ([], list(running))

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", str.upper)
    return under_way


def test_each_argument_comes_with_its_result_and_no_more_are_under_way_than_there_are_workers(most: list[int]) -> None:
    resources = Resources(workers=2, wait_for_nodes_s=7)
    done = list(as_done(lambda argument: f"task {argument}", ["a", "b", "c"], resources, {"CPU": 1}, print))
    assert sorted(done) == [("a", "TASK A"), ("b", "TASK B"), ("c", "TASK C")]
    assert max(most) == 2


def test_nobody_waits_for_ever_for_a_node_that_does_not_come(most: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = [1, 1, 0]
    monkeypatch.setattr(_tasks, "room_for", lambda _: rooms.pop(0))
    said: list[str] = []
    with pytest.raises(RunFailedError, match="no node is left that holds a worker, and none came in 7 s"):
        list(as_done(lambda _: "lost", ["a"], Resources(wait_for_nodes_s=7), {"CPU": 1}, said.append))
    assert len(most) == 4
    assert [line.partition(":")[0] for line in said] == ["nothing was done for 7 s, 1 tasks are under way"] * 2
