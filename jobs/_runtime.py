"""The cluster as the training loop sees it."""

# What is unpickled is what our own workers put on our own board.
import pickle  # nosec B403
import time
from typing import Any

import ray.train
import ray.train.torch

from fcn_core.checkpoint import Epoch
from fcn_core.loop import Progress
from fcn_core.runtime import DistributedRuntime
from jobs._metrics import Started

SHOW_EVERY_S = 1.0


class RayRuntime(DistributedRuntime):
    """A worker of Ray Train; make it within a training function only.

    Args:
        board: handle of the driver's `jobs._board.Board`, to which the first worker writes.
    """

    def __init__(self, board: Any) -> None:  # noqa: ANN401 -- Ray's actor handles have no type.
        context = ray.train.get_context()
        super().__init__(ray.train.torch.get_device(), context.get_world_rank(), context.get_world_size())
        self._board = board
        self._shown = 0.0

    def say(self, message: str) -> None:
        """Show a message of the first worker on the driver's console."""
        self.write(message)

    def show(self, progress: Progress) -> None:
        """Show progress on the driver's console, at most once a second."""
        if self.rank == 0 and time.monotonic() - self._shown >= SHOW_EVERY_S:
            self._shown = time.monotonic()
            self.write(progress)

    def finish_epoch(self, epoch: Epoch, checkpoint: str) -> None:
        """Report the epoch to Ray and to the driver's console."""
        self.write(epoch)
        metrics = epoch.model_dump(exclude={"scores"}) | epoch.scores.model_dump() | {"checkpoint": checkpoint}
        ray.train.report(metrics)

    def write(self, item: str | Started | Progress | Epoch) -> None:
        """Put something of the first worker on the driver's board."""
        if self.rank == 0:
            self._board.put.remote(pickle.dumps(item))
