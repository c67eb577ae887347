"""The loop's `Runtime` without Ray: one worker, or the workers of a torch.distributed group."""

import logging

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fcn_core.checkpoint import Epoch
from fcn_core.models.batch_norm import synchronise
from fcn_core.training import Progress


class LocalRuntime:
    """One worker of its own."""

    def __init__(self, device: str | torch.device = "cpu", rank: int = 0, workers: int = 1) -> None:
        self.device = torch.device(device)
        self.rank = rank
        self.workers = workers

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network as it is."""
        return network

    def sum_over_workers(self, tensor: Tensor) -> Tensor:
        """Return the tensor as it is."""
        return tensor

    def say(self, message: str) -> None:
        """Log the message."""
        logging.getLogger(__name__).info(message)

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def begin(self, step: int) -> None:
        """Do nothing."""

    def finish_epoch(self, epoch: Epoch, checkpoint: str) -> None:
        """Do nothing: the run's folder has it all."""

    def has_notice(self) -> bool:
        """Return False: nobody gives it."""
        return False


class DistributedRuntime(LocalRuntime):
    """A worker of the default torch.distributed group."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network such that gradients are averaged and BatchNorm sees the images of all workers."""
        if self.workers == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(synchronise(network), device_ids=devices, gradient_as_bucket_view=True)

    def sum_over_workers(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all workers, in place, and return it."""
        if self.workers > 1:
            distributed.all_reduce(tensor)
        return tensor
