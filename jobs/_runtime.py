"""The cluster as the training loop sees it."""

# What is unpickled is what our own workers put on our own board.
import pickle  # nosec B403
import signal
import threading
import time
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.context import get_train_context

from fcn_core.checkpoint import Epoch
from fcn_core.runtime import DistributedRuntime
from fcn_core.training import PreemptedError, Progress
from jobs._metrics import Started

ASK_EVERY_S = 1.0
"""Time between questions to the driver."""
TERMINATED = threading.Event()
"""Set when this process got SIGTERM."""


class HeedSigterm(WorkerCallback):  # type: ignore[misc] # Ray's classes have no types here.
    """Makes SIGTERM a notice, as a machine gives that is about to be taken away; Ray's own handler ends at once."""

    def after_init_train_context(self) -> None:
        """Take SIGTERM over, in the worker's main thread."""
        signal.signal(signal.SIGTERM, lambda *_: TERMINATED.set())


class RayRuntime(DistributedRuntime):
    """A worker of Ray Train; make it within a training function only.

    Args:
        board: handle of the driver's `jobs._board.Board`, to which the first worker writes.
    """

    def __init__(self, board: Any) -> None:  # noqa: ANN401 -- Ray's actor handles have no type.
        context = ray.train.get_context()
        super().__init__(ray.train.torch.get_device(), context.get_world_rank(), context.get_world_size())
        self._board = board
        self._asked = 0.0
        self._answer: Any = None
        self._stopping = False

    def say(self, message: str) -> None:
        """Show a message of the first worker on the driver's console."""
        self._write(message)

    def show(self, progress: Progress) -> None:
        """Show progress on the driver's console."""
        self._write(progress)

    def begin(self, step: int) -> None:
        """Tell the driver, which keeps the record of restarts."""
        self._write(Started(self.workers, step))

    def finish_epoch(self, epoch: Epoch, checkpoint: str) -> None:
        """Report the epoch to Ray and to the driver's console."""
        self._write(epoch)
        metrics = epoch.model_dump(exclude={"scores"}) | epoch.scores.model_dump() | {"checkpoint": checkpoint}
        ray.train.report(metrics)

    def has_notice(self) -> bool:
        """Tell whether this process got SIGTERM, a node of the run is being drained, or the driver wants to stop."""
        # Ray's public function for this makes all workers wait for each other, in every step.
        drained = get_train_context().preemption_context.preemption_info is not None
        return TERMINATED.is_set() or drained or self._driver_stops()

    def left(self, error: PreemptedError) -> PreemptedError:
        """Return why the run ends here, if the driver wants it to.

        Raises:
            RayActorError: it does not: the run goes on elsewhere, and Ray counts a preemption, not a failure.
        """
        if ray.get(self._board.stopping.remote()):
            return error
        raise RayActorError(error_msg=str(error), preempted=True) from error

    def _driver_stops(self) -> bool:
        """Ask now and then, and never wait for the answer."""
        if self.rank != 0:
            return False
        if self._answer is None and time.monotonic() - self._asked >= ASK_EVERY_S:
            self._asked, self._answer = time.monotonic(), self._board.stopping.remote()
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stopping, self._answer = bool(ray.get(self._answer)), None
        return self._stopping

    def _write(self, item: str | Progress | Epoch | Started) -> None:
        if self.rank == 0:
            self._board.put.remote(pickle.dumps(item))
