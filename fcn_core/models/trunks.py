"""Classifiers made convolutional: they map images to feature maps at strides 8, 16 and 32, keyed by stride."""

from collections import OrderedDict
from collections.abc import Iterator

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from fcn_core.models.dropout import SampleDropout
from fcn_core.models.geometry import PIXELS, Grid
from fcn_core.settings import Model

VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, convolutions) of the five stages; a 2x2 pooling ends each."""

RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class TrunkNetwork(nn.Module):
    """Base of the trunks: what a head needs to know of them."""

    channels: dict[int, int]
    """Channels of the feature map at each stride."""
    grids: dict[int, Grid]
    """Grid of the feature map at each stride."""

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> dict[int, Tensor]:
        """Map images (N, 3, H, W) to feature maps by stride; `seeds` (N,) int64 decide what dropout drops."""
        raise NotImplementedError


class VGG16(TrunkNetwork):
    """VGG16 (Simonyan and Zisserman, ICLR 2015) with fc6 and fc7 as a 7x7 and a 1x1 convolution.

    Layers bear the names of the paper: conv1_1 to conv5_3, pool1 to pool5, fc6, fc7. The maps at strides 8, 16 and 32
    are those of pool3, pool4 and fc7.
    """

    def __init__(self, settings: Model) -> None:
        super().__init__()
        reference = settings.geometry == "reference"
        before = 3
        self.stages = nn.ModuleList()
        for number, (base, count) in enumerate(VGG16_STAGES, start=1):
            channels = max(1, round(base * settings.width))
            batch_norm = settings.trunk == "vgg16_bn"
            self.stages.append(_vgg_stage(number, before, channels, count, batch_norm=batch_norm, reference=reference))
            before = channels
        fc = settings.fc_channels
        self.fc6 = nn.Conv2d(before, fc, 7, padding=0 if reference else 3)
        self.fc7 = nn.Conv2d(fc, fc, 1)
        self.relu = nn.ReLU(inplace=True)
        self.drop6, self.drop7 = SampleDropout(settings.dropout, salt=6), SampleDropout(settings.dropout, salt=7)
        pool3, pool4, pool5 = (self._grid(stages) for stages in (3, 4, 5))
        self.grids = {8: pool3, 16: pool4, 32: pool5.after([self.fc6, self.fc7])}
        self.channels = {8: _out_channels(self.stages[2]), 16: _out_channels(self.stages[3]), 32: fc}
        _initialise(self)

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> dict[int, Tensor]:
        """Map images (N, 3, H, W) to {8: pool3, 16: pool4, 32: fc7}."""
        pools = []
        features = images
        for stage in self.stages:
            features = stage(features)
            pools.append(features)
        features = self.drop6(self.relu(self.fc6(features)), seeds)
        features = self.drop7(self.relu(self.fc7(features)), seeds)
        return {8: pools[2], 16: pools[3], 32: features}

    def _grid(self, stages: int) -> Grid:
        return PIXELS.after(layer for stage in self.stages[:stages] for layer in stage.children())


class ResNet(TrunkNetwork):
    """ResNet-18, 34 or 50 (He, Zhang, Ren, Sun, CVPR 2016) without its classifier; layers 2 to 4 are the maps."""

    def __init__(self, settings: Model) -> None:
        super().__init__()
        block, counts = RESNETS[settings.trunk]
        planes = [max(1, round(base * settings.width)) for base in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(3, planes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = planes[0]
        self.layers = nn.ModuleDict()
        for number, (width, count) in enumerate(zip(planes, counts, strict=True), start=1):
            self.layers[f"layer{number}"] = _residual_stage(block, before, width, count, stride=1 if number == 1 else 2)
            before = width * block.expansion
        self.drop = SampleDropout(settings.dropout, salt=4)
        self.grids = {8: self._grid(2), 16: self._grid(3), 32: self._grid(4)}
        self.channels = {stride: planes[layer] * block.expansion for stride, layer in ((8, 1), (16, 2), (32, 3))}
        _initialise(self)

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> dict[int, Tensor]:
        """Map images (N, 3, H, W) to {8: layer2, 16: layer3, 32: layer4}."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        layer2 = self.layers["layer2"](self.layers["layer1"](stem))
        layer3 = self.layers["layer3"](layer2)
        layer4 = self.layers["layer4"](layer3)
        return {8: layer2, 16: layer3, 32: self.drop(layer4, seeds)}

    def _grid(self, stages: int) -> Grid:
        blocks = [block for number in range(1, stages + 1) for block in self.layers[f"layer{number}"].children()]
        return PIXELS.after([self.conv1, self.maxpool, *(layer for block in blocks for layer in _main_path(block))])


def build_trunk(settings: Model) -> TrunkNetwork:
    """Return the trunk that the settings name, with random weights."""
    return ResNet(settings) if settings.trunk in RESNETS else VGG16(settings)


def _vgg_stage(
    number: int, before: int, channels: int, count: int, *, batch_norm: bool, reference: bool
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(1, count + 1):
        first = number == index == 1
        layers[f"conv{number}_{index}"] = nn.Conv2d(before, channels, 3, padding=100 if first and reference else 1)
        if batch_norm:
            layers[f"bn{number}_{index}"] = nn.BatchNorm2d(channels)
        layers[f"relu{number}_{index}"] = nn.ReLU(inplace=True)
        before = channels
    layers[f"pool{number}"] = nn.MaxPool2d(2, stride=2, ceil_mode=reference)
    return nn.Sequential(layers)


def _residual_stage(
    block: type[BasicBlock] | type[Bottleneck], before: int, width: int, count: int, stride: int
) -> nn.Sequential:
    after = width * block.expansion
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    blocks = [block(before, width, stride, shortcut)]
    blocks += [block(after, width) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def _main_path(block: nn.Module) -> Iterator[nn.Module]:
    return (layer for name, layer in block.named_children() if name.startswith("conv"))


def _out_channels(stage: nn.Module) -> int:
    return [layer.out_channels for layer in stage.children() if isinstance(layer, nn.Conv2d)][-1]


def _initialise(trunk: nn.Module) -> None:
    """Kaiming initialisation (He et al., ICCV 2015) of every convolution, zero biases."""
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
