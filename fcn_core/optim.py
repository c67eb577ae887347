"""Optimisers and learning-rate schedules."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fcn_core.settings import Optim


def build_optimizer(model: nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that learn.

    Biases and BatchNorm scales are not decayed; with SGD, biases learn at twice the rate (Long, Shelhamer, Darrell,
    CVPR 2015).
    """
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    weights = [parameter for _, parameter in learning if parameter.dim() > 1]
    biases = [parameter for name, parameter in learning if parameter.dim() == 1 and name.endswith("bias")]
    scales = [parameter for name, parameter in learning if parameter.dim() == 1 and not name.endswith("bias")]
    bias_rate = 2.0 if settings.method == "sgd" else 1.0
    groups: list[dict[str, Any]] = [
        {"params": weights, "rate": 1.0, "weight_decay": settings.weight_decay},
        {"params": biases, "rate": bias_rate, "weight_decay": 0.0},
        {"params": scales, "rate": 1.0, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused optimisers take `found_inf`, a flag on the device that holds back a step without the host's waiting for it.
    if settings.method == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: Optim, step: int, num_steps: int) -> float:
    """Set the rates of step `step` of `num_steps`, counted from 0, and return that of the weights."""
    rate = settings.learning_rate * schedule(settings, step, num_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    return rate


def schedule(settings: Optim, step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate at `step`, counted from 0: linear warm-up, then the schedule."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    match settings.schedule:
        case "poly":
            return float((1 - done) ** 0.9)
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "fixed":
            return 1.0


def mean_from_sum(learning_rate: float, labelled_pixels: float) -> float:
    """Convert a learning rate for the summed loss into the equal one for the mean over a step's labelled pixels.

    >>> f"{mean_from_sum(1e-10, 1.66e5):.2g}"
    '1.7e-05'
    """
    return learning_rate * labelled_pixels


class MovingAverage:
    """Exponential moving average of the weights; BatchNorm statistics are taken as they are.

    Args:
        model: whose state is averaged.
        decay: share of the old average that each step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = list(model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    def update(self) -> None:
        """Take in the weights after a step."""
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - self.decay)

    def swap(self) -> None:
        """Exchange the model's weights with the average; a second call changes them back."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                held = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(held)

    def load(self, average: list[Tensor]) -> None:
        """Restore the average, one tensor per parameter."""
        for ours, saved in zip(self.average, average, strict=True):
            ours.copy_(saved)
