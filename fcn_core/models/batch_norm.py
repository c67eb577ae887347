"""BatchNorm over the images of all workers, so that its statistics do not depend on how many there are."""

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with the training statistics of all workers together; each must hold equally many pixels.

    torch.nn.SyncBatchNorm does the same faster, on CUDA only.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (N, C, H, W)."""
        if not self.training:
            return super().forward(features)
        pixels = features.numel() // features.shape[1] * distributed.get_world_size()
        # Autocast gives bf16 features; sums over pixels need the precision of the statistics.
        wide = features.to(self.weight.dtype)
        mean = _sum(wide.sum((0, 2, 3))) / pixels
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / pixels
        self._update(mean.detach(), variance.detach() * (pixels / max(pixels - 1, 1)))
        scale = (self.weight * torch.rsqrt(variance + self.eps)).view(1, -1, 1, 1)
        return (centred * scale + self.bias.view(1, -1, 1, 1)).to(features.dtype)

    def _update(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if (
            self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
            or self.momentum is None
        ):
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)


def synchronise(model: nn.Module) -> nn.Module:
    """Return the model with every BatchNorm2d replaced by one over all workers; parameters and their names stay."""
    if next(model.parameters()).is_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # The same tensors and names under another forward: the state dict is unchanged.
            module.__class__ = GlobalBatchNorm2d
    return model


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverWorkers.apply(tensor)
    return total
