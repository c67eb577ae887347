"""What the driver of a run does while workers train: it shows, keeps the record of restarts, and passes SIGTERM on."""
# Ray gives its objects no types.
# ruff: noqa: ANN401

import os

# What is unpickled is what our own workers put on our own board.
import pickle  # nosec B403
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

from fcn_core.checkpoint import Epoch
from fcn_core.training import Progress
from jobs._board import Board
from jobs._console import Console
from jobs._metrics import RunMetrics, Started
from jobs._ray import on_this_node
from jobs._restarts import Lost, Restarts

LOOK_EVERY_S = 1.0
END_S = 10.0
"""How long the end of a run waits for what is still to be shown, and a stop for workers that take steps."""


def start_board() -> Any:
    """Start a `Board` of this process's, and return its handle."""
    # A node that is lost must not take the console with it.
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=on_this_node()).remote()


class Watch:
    """Looks at the board and passes a stop on while the block runs, each in a thread: what shows may have to wait.

    Args:
        board: handle of the board.
        console: where people look.
        restarts: the record.
        metrics: for Prometheus.
        new_epoch: called after each epoch.
    """

    def __init__(
        self, board: Any, console: Console, restarts: Restarts, metrics: RunMetrics, new_epoch: Callable[[], None]
    ) -> None:
        self.stop = threading.Event()
        """To be set when the workers are to save and end."""
        self._board = board
        self._console = console
        self._restarts = restarts
        self._metrics = metrics
        self._new_epoch = new_epoch
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._unkept = False
        self._training = False
        """Whether workers take steps; else they are waited for, start or restore."""

    def __enter__(self) -> Self:
        self._thread.start()
        threading.Thread(target=self._pass_on, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(timeout=END_S)
        self._metrics.end()
        self._console.done()

    def _pass_on(self) -> None:
        while not self.stop.wait(LOOK_EVERY_S):
            if self._done.is_set():
                return
        self._board.stop.remote()
        while not self._done.wait(END_S):
            # Nobody is there to save, and the next workers may be long in coming: `sigterm_sets` lets this one through.
            if not self._training:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _look(self) -> None:
        last = False
        while not last:
            last = self._done.wait(LOOK_EVERY_S)
            try:
                taken = ray.get(self._board.take.remote())
            except RayError:
                # Lost with the node of this process; whoever waits for the workers says so.
                return
            items = [pickle.loads(item) for item in taken]  # noqa: S301  # nosec B301
            newest = max((place for place, item in enumerate(items) if isinstance(item, Progress)), default=None)
            for place, item in enumerate(items):
                self._note(item)
                # Workers tell of each step; people see the last.
                if not isinstance(item, Progress) or place == newest:
                    self._show(item)

    def _note(self, item: object) -> None:
        """Keep the record; a storage that is away or refuses ends neither the run nor what is shown of it."""
        self._training = isinstance(item, Started) or (self._training and not isinstance(item, Lost))
        try:
            self._restarts.note(item)
        except OSError as error:
            if not self._unkept:
                self._console.say(f"the record of restarts cannot be kept: {error}")
            self._unkept = True

    def _show(self, item: object) -> None:
        if isinstance(item, Lost):
            self._console.say(f"{item.cause}; starting again")
        self._metrics.show(item)
        self._console.show(item)
        if isinstance(item, Epoch):
            self._new_epoch()


@contextmanager
def sigterm_sets(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM set an event, a second one end at once; and give SIGINT back, which Ray Train takes over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupt, terminate = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def heed(*_: object) -> None:
        signal.signal(signal.SIGTERM, terminate)
        stop.set()

    signal.signal(signal.SIGTERM, heed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
