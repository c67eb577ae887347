"""Fully convolutional networks (Long, Shelhamer, Darrell, CVPR 2015; Shelhamer, Long, Darrell, PAMI 2017).

`settings.Model.stride` decides what is fused: FCN-32s is the trunk and one upsampling; FCN-16s adds a skip from pool4,
FCN-8s one more from pool3. Layers bear the names of the paper; for a ResNet trunk pool4 and pool3 stand for layer3 and
layer2.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from fcn_core.models.geometry import (
    PIXELS,
    Grid,
    Upsampling,
    aligned_upsampling,
    crop,
    crop_offset,
    unpadded_upsampling,
)
from fcn_core.models.trunks import build_trunk
from fcn_core.models.upsampling import bilinear_upsampling
from fcn_core.settings import Model

COARSEST = 32
SKIPS = {32: (), 16: (16,), 8: (16, 8)}
"""Strides of the skips of FCN-32s, 16s and 8s, in the order of fusion."""
POOLS = {16: "pool4", 8: "pool3"}
AT_ONCE_SCALES = {16: 0.01, 8: 0.0001}


class FCN(nn.Module):
    """A network from preprocessed images (N, 3, H, W) to class scores (N, classes, H, W), of any size from 1x1.

    Raises:
        ValueError: the feature maps cannot be aligned.
    """

    def __init__(self, settings: Model, num_classes: int) -> None:
        super().__init__()
        self.reference = settings.geometry == "reference"
        self.trunk = build_trunk(settings)
        self.skips = SKIPS[settings.stride]
        self.scales = {stride: AT_ONCE_SCALES[stride] if settings.at_once else 1.0 for stride in self.skips}
        self.scores = nn.ModuleDict({"score_fr": _score_layer(self.trunk.channels[COARSEST], num_classes)})
        self.upscores = nn.ModuleDict()
        self.crops: dict[int, int] = {}
        coarse = self.trunk.grids[COARSEST]
        for stride in self.skips:
            self.scores[f"score_{POOLS[stride]}"] = _score_layer(self.trunk.channels[stride], num_classes)
            shape = self._upsampling(coarse, self.trunk.grids[stride], 2)
            name = "upscore2" if stride == max(POOLS) else "upscore_pool4"
            self.upscores[name] = bilinear_upsampling(num_classes, shape, learned=settings.upsampling != "fixed")
            coarse = coarse.upsampled(shape.kernel, shape.factor, shape.padding)
            self.crops[stride] = crop_offset(self.trunk.grids[stride], coarse)
        shape = self._upsampling(coarse, PIXELS, settings.stride)
        self.upscores[f"upscore{settings.stride}"] = bilinear_upsampling(
            num_classes, shape, learned=settings.upsampling == "learned"
        )
        fine = coarse.upsampled(shape.kernel, shape.factor, shape.padding)
        self.crops[1] = crop_offset(fine, PIXELS)
        self.reach = math.ceil((fine.field - 1) / 2)
        """Pixels: a score depends on no pixel of the image farther away, along either axis."""

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map images (N, 3, H, W) to scores (N, classes, H, W); int64 `seeds` (N,) decide what dropout drops."""
        height, width = images.shape[-2:]
        features = self.trunk(self._pad(images), seeds)
        score = self.scores["score_fr"](features[COARSEST])  # (N, classes, H/32, W/32)
        *between, last = self.upscores.values()
        for stride, upsample in zip(self.skips, between, strict=True):
            upscore = upsample(score)
            skip = self.scores[f"score_{POOLS[stride]}"](features[stride] * self.scales[stride])
            score = upscore + crop(skip, self.crops[stride], *upscore.shape[-2:])  # (N, classes, H/stride, W/stride)
        return crop(last(score), self.crops[1], height, width)

    def _pad(self, images: Tensor) -> Tensor:
        """Fill up at the right and bottom to a multiple of 32 with the mean colour, which preprocessing maps to 0."""
        if self.reference:
            return images
        height, width = images.shape[-2:]
        return functional.pad(images, (0, -width % COARSEST, 0, -height % COARSEST))

    def _upsampling(self, coarse: Grid, fine: Grid, factor: int) -> Upsampling:
        return unpadded_upsampling(factor) if self.reference else aligned_upsampling(coarse, fine)


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 convolution that starts at zero, so that a new skip changes nothing at first."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
