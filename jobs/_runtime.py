"""The cluster as the training loop sees it."""

import time
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fcn_core.checkpoint import Epoch
from fcn_core.loop import Progress
from fcn_core.models.batch_norm import synchronise


class RayRuntime:
    """A worker of Ray Train; call it within a training function only.

    Args:
        board: handle of the driver's `Board`, to which the first worker writes.
    """

    def __init__(self, board: Any) -> None:  # noqa: ANN401 -- Ray's actor handles have no type.
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.workers: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._board = board
        self._shown = 0.0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network such that gradients are averaged and BatchNorm sees the images of all workers."""
        if self.workers == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        # Buffers need no broadcast: BatchNorm's statistics are the same on every worker.
        return DistributedDataParallel(
            synchronise(network), device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def sum_over_workers(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all workers, in place, and return it."""
        if self.workers > 1:
            distributed.all_reduce(tensor)
        return tensor

    def say(self, message: str) -> None:
        """Show a message of the first worker on the driver's console."""
        if self.rank == 0:
            self._board.put.remote(message)

    def show(self, progress: Progress) -> None:
        """Show progress on the driver's console, at most twice a second."""
        if self.rank == 0 and time.monotonic() - self._shown >= 0.5:
            self._shown = time.monotonic()
            self._board.put.remote(progress)

    def finish_epoch(self, epoch: Epoch, checkpoint: str) -> None:
        """Report the epoch to Ray and to the driver's console."""
        if self.rank == 0:
            self._board.put.remote(epoch)
        metrics = epoch.model_dump(exclude={"scores"}) | epoch.scores.model_dump() | {"checkpoint": checkpoint}
        ray.train.report(metrics)


class Board:
    """What workers want people to see; an actor that the driver reads."""

    def __init__(self) -> None:
        self._items: list[str | Progress | Epoch] = []

    def put(self, item: str | Progress | Epoch) -> None:
        """Add something to be shown."""
        self._items.append(item)

    def take(self) -> list[str | Progress | Epoch]:
        """Return what was added since the last call."""
        items, self._items = self._items, []
        return items
