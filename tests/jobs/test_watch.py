"""What the driver does while workers train, on a board of this process."""

import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from jobs import _watch
from jobs._board import Board
from jobs._console import Console
from jobs._metrics import RunMetrics, Started
from jobs._restarts import Lost, Restarts, read_restarts
from jobs._watch import Watch


class Said(Console):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 -- as Ray's handles.
    monkeypatch.setattr(_watch, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(_watch, "END_S", 0.1)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    board = Board()
    names = ("put", "take", "stop", "stopping")
    return SimpleNamespace(**{name: SimpleNamespace(remote=getattr(board, name)) for name in names})


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> RunMetrics:
    monkeypatch.setattr(RunMetrics, "__init__", lambda *_: None)
    monkeypatch.setattr(RunMetrics, "show", lambda *_: None)
    monkeypatch.setattr(RunMetrics, "end", lambda *_: None)
    return RunMetrics("run")


def put(board: Any, *items: object) -> None:  # noqa: ANN401
    for item in items:
        board.put.remote(pickle.dumps(item))


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_is_passed_on_while_the_storage_does_not_answer(
    board: Any,  # noqa: ANN401
    metrics: RunMetrics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        asked.set()
        answered.wait(60)

    monkeypatch.setattr(storage, "write_bytes", wait)
    with Watch(board, Said(), Restarts(RunFolder(str(tmp_path))), metrics, lambda: None) as watch:
        put(board, Lost("a worker died"), Started(2, 0))
        assert asked.wait(60)
        watch.stop.set()
        until(board.stopping.remote)
        # The end does not wait for the storage either.
    answered.set()
    watch._thread.join(60)


@pytest.mark.parametrize(("items", "ends"), [([], True), ([Started(2, 0)], False), ([Started(2, 0), Lost("a")], True)])
def test_a_stop_waits_for_no_workers_that_are_not_at_work(
    items: list[object],
    ends: bool,
    board: Any,  # noqa: ANN401
    metrics: RunMetrics,
    tmp_path: Path,
) -> None:
    got, console = threading.Event(), Said()
    before = signal.signal(signal.SIGTERM, lambda *_: got.set())
    try:
        with Watch(board, console, Restarts(RunFolder(str(tmp_path))), metrics, lambda: None) as watch:
            put(board, *items, "seen")
            until(lambda: "seen" in console.lines)
            watch.stop.set()
            until(board.stopping.remote)
            assert got.wait(60 if ends else 1) == ends
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_record_that_cannot_be_kept_is_said_once_and_all_else_goes_on(
    board: Any,  # noqa: ANN401
    metrics: RunMetrics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, console, folder = storage.write_bytes, Said(), RunFolder(str(tmp_path))

    def refuse(*_: object) -> None:
        raise storage.RefusedError("no access")

    monkeypatch.setattr(storage, "write_bytes", refuse)
    with Watch(board, console, Restarts(folder), metrics, lambda: None) as watch:
        put(board, Lost("a"), Started(2, 3), Lost("b"), Started(2, 5), "still here")
        until(lambda: "still here" in console.lines)
        assert console.lines.count("the record of restarts cannot be kept: no access") == 1
        monkeypatch.setattr(storage, "write_bytes", write)
        put(board, Lost("c"), Started(2, 7), "again")
        until(lambda: "again" in console.lines)
        watch.stop.set()
        until(board.stopping.remote)
    assert [(one.cause, one.resumed_at) for one in read_restarts(folder)] == [("a", 3), ("b", 5), ("c", 7)]


def test_a_board_that_is_lost_ends_the_show_without_a_traceback(
    board: Any,  # noqa: ANN401
    metrics: RunMetrics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception of the thread would be a warning, and with it a failure."""

    def lost(_: object) -> None:
        raise ActorDiedError

    monkeypatch.setattr(ray, "get", lost)
    with Watch(board, Said(), Restarts(RunFolder(str(tmp_path))), metrics, lambda: None) as watch:
        watch._thread.join(60)
        assert not watch._thread.is_alive()
