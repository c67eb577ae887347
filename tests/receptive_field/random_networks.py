"""Small networks of everything that the graph knows, drawn at random."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Join(nn.Module):
    """Two paths from the same input, brought together."""

    def __init__(self, one: nn.Module, other: nn.Module, how: str) -> None:
        super().__init__()
        self.one, self.other, self.how = one, other, how

    def forward(self, features: Tensor) -> Tensor:
        one: Tensor = self.one(features)
        other: Tensor = self.other(features)
        if self.how == "cat":
            return torch.cat([one, other], dim=1)
        return one * other if self.how == "mul" else one + other


class Crop(nn.Module):
    def __init__(self, top: int, bottom: int, left: int, step: int) -> None:
        super().__init__()
        self.top, self.bottom, self.left, self.step = top, bottom, left, step

    def forward(self, features: Tensor) -> Tensor:
        return features[..., self.top : features.shape[-2] - self.bottom, self.left :: self.step]


def random_network(seed: int, size: tuple[int, int], *, holes: bool, steps: int = 5) -> nn.Sequential:
    """Return a network of images (N, 2, *size) to 3 to 60 units either way.

    Without `holes`, what a unit sees is an interval without holes, at each layer: no dilation, no kernel smaller than
    its stride other than beside one that is not, no step.
    """
    rng = random.Random(seed)  # noqa: S311
    torch.manual_seed(seed)
    network = nn.Sequential()
    shape = torch.Size((1, 2, *size))
    while len(network) < 2 * steps:
        step = nn.Sequential(rng.choice(STEPS)(rng, shape[1], holes), rng.choice((nn.ReLU(), nn.Tanh(), nn.Identity())))
        try:
            after = step.to("meta")(torch.empty(shape, device="meta")).shape
        except RuntimeError:
            continue
        if min(after[2:]) >= 3 and max(after[2:]) <= 60:
            shape = after
            network.extend(step)
    network = network.to_empty(device="cpu").double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    return network


def _convolution(rng: random.Random, channels: int, holes: bool) -> nn.Conv2d:
    kernel = rng.randint(1, 4), rng.randint(1, 4)
    stride = [rng.randint(1, 3 if holes else min(3, side)) for side in kernel]
    dilation = (rng.randint(1, 3), rng.randint(1, 2)) if holes else (1, 1)
    after = 2 * rng.randint(1, 2)
    padding: Any = (rng.randint(0, 2), rng.randint(0, 2))
    if stride == [1, 1] and kernel[0] % 2 == kernel[1] % 2 == 1:
        padding = rng.choice(["same", "valid", padding])
    groups = 2 if channels % 2 == 0 and rng.random() < 0.3 else 1
    return nn.Conv2d(
        channels, after, kernel, (stride[0], stride[1]), padding, dilation, groups, bias=rng.random() < 0.5
    )


def _batch_norm(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    convolution = _convolution(rng, channels, holes)
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


def _transposed(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    stride = rng.randint(1, 3)
    kernel = rng.randint(1 if holes else stride, 5)
    dilation = rng.randint(1, 2) if holes else 1
    extra = rng.randint(0, stride - 1)
    return nn.ConvTranspose2d(channels, 2, kernel, stride, rng.randint(0, 2), extra, dilation=dilation)


def _max_pool(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    del channels
    kernel = rng.randint(1, 4)
    stride = rng.randint(1, 3 if holes else kernel)
    dilation = rng.randint(1, 2) if holes else 1
    return nn.MaxPool2d(kernel, stride, rng.randint(0, kernel // 2), dilation, ceil_mode=rng.random() < 0.5)


def _average_pool(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    del channels
    kernel = rng.randint(1, 4), rng.randint(1, 4)
    rows, columns = (rng.randint(1, 3 if holes else side) for side in kernel)
    padding = rng.randint(0, min(kernel) // 2)
    return nn.AvgPool2d(kernel, (rows, columns), padding, rng.random() < 0.5, rng.random() < 0.5)


def _residual(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    del holes
    stride = rng.randint(1, 2)
    body = nn.Sequential(nn.Conv2d(channels, 2, 3, stride, 1), nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3, 1, 1))
    shortcut = nn.Conv2d(channels, 2, 1, stride) if stride > 1 or channels != 2 else nn.Identity()
    return Join(body, shortcut, rng.choice(["add", "mul"]))


def _concatenation(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    del holes
    other = nn.Conv2d(channels, 1, 5, padding=2) if rng.random() < 0.5 else nn.MaxPool2d(3, 1, 1)
    return Join(nn.Conv2d(channels, 1, 1), other, "cat")


def _pad(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    del channels, holes
    return nn.ZeroPad2d((rng.randint(0, 3), rng.randint(0, 3), rng.randint(-1, 2), rng.randint(-1, 2)))


def _crop(rng: random.Random, channels: int, holes: bool) -> nn.Module:
    del channels
    return Crop(rng.randint(0, 3), rng.randint(0, 3), rng.randint(0, 3), rng.randint(1, 2 if holes else 1))


STEPS: list[Callable[[random.Random, int, bool], nn.Module]] = [
    _convolution,
    _convolution,
    _batch_norm,
    _transposed,
    _max_pool,
    _average_pool,
    _residual,
    _concatenation,
    _pad,
    _crop,
]
