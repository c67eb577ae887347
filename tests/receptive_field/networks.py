"""Networks drawn at random, of all that can be computed in windows."""

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """A block with a shortcut, as it is or strided through a 1x1 convolution."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels + 1, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels + 1)
        self.conv2 = nn.Conv2d(channels + 1, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, stride=stride), nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        shortcut = features if self.conv1.stride == (1, 1) else self.shortcut(features)
        out += shortcut
        activated: Tensor = self.relu(out)
        return activated


class Branches(nn.Module):
    """Branches of different fields side by side, and a gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.wide = nn.Conv2d(channels, 2, (1, 5), padding=(0, 4), dilation=(1, 2))
        self.gate = nn.Conv2d(channels, channels, 1)
        self.join = nn.Conv2d(channels + 2, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        joined = torch.cat([self.pool(features), functional.silu(self.wide(features))], 1)
        gated: Tensor = self.join(joined) * self.gate(features).sigmoid()
        return gated


class Resampled(nn.Module):
    """Down and up again by a transposed convolution, cropped and added, as skips of an FCN are."""

    def __init__(self, channels: int, draw: random.Random) -> None:
        super().__init__()
        stride = draw.choice([2, 3])
        kernel, self.dilation = draw.choice([1, 2, 3, 4, 5]), draw.choice([1, 2])
        padding = draw.randint(0, min(2, self.dilation * (kernel - 1)))
        self.down = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.up = nn.ConvTranspose2d(
            channels, channels, kernel, stride, padding, output_padding=stride - 1, dilation=self.dilation
        )

    def forward(self, features: Tensor) -> Tensor:
        up = functional.pad(self.up(self.down(features)), (0, 3, 0, 3))
        return functional.pad(features, (1, 0, 2, 0))[..., 2:, 1:] + up[..., : features.shape[2], : features.shape[3]]


def random_network(seed: int) -> nn.Module:
    """Return a network from images of 3 channels, 19x19 at least, to some channels; in float64, in evaluation mode."""
    draw = random.Random(seed)  # noqa: S311
    torch.manual_seed(seed)
    channels = 3
    layers: list[nn.Module] = []
    strides = iter(draw.sample([2, 2, 1, 1, 1, 1, 1, 1], 8))
    for kind in draw.choices(["conv", "conv", "depthwise", "max", "average", "residual", "branches", "resampled"], k=4):
        added = _random_layers(kind, draw, channels, next(strides))
        channels = added[0].out_channels if kind == "conv" else channels
        layers += added
    network = nn.Sequential(*layers).double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            randomise(layer)
    return network


def _random_layers(kind: str, draw: random.Random, channels: int, stride: int) -> list[Any]:
    if kind == "conv":
        after, kernel = draw.randint(2, 5), (draw.randint(1, 4), draw.randint(1, 3))
        padding, dilation = draw.randint(0, 2), draw.randint(1, 2)
        layer = nn.Conv2d(channels, after, kernel, stride, padding, dilation, bias=draw.random() < 0.5)
        norms: list[list[nn.Module]] = [[], [nn.BatchNorm2d(after)], [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]]
        tails: list[list[nn.Module]] = [[], [nn.ReLU()], [nn.PReLU(after)], [nn.Dropout()]]
        return [layer, *draw.choice(norms), *draw.choice(tails)]
    if kind == "depthwise":
        grouped = nn.Conv2d(channels, 2 * channels, 3, padding="same", groups=channels)
        return [grouped, nn.ReLU6(), nn.Conv2d(2 * channels, channels, 1, stride)]
    if kind == "max":
        return [nn.MaxPool2d(draw.randint(2, 3), stride, 1, ceil_mode=draw.random() < 0.5)]
    if kind == "average":
        return [nn.AvgPool2d(3, stride, 1, draw.random() < 0.5, draw.random() < 0.5)]
    if kind == "residual":
        return [Residual(channels, stride)]
    return [Branches(channels) if kind == "branches" else Resampled(channels, draw)]


def randomise(layer: nn.BatchNorm2d) -> None:
    """Give a BatchNorm statistics as after training."""
    for tensor in (layer.running_mean, layer.bias):
        assert tensor is not None
        nn.init.normal_(tensor, std=0.2)
    for tensor in (layer.running_var, layer.weight):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
