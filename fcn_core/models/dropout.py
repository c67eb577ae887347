"""Dropout whose mask belongs to the sample, not to the machine that drops."""

import torch
from torch import Tensor, nn

_LOW_32_BITS = 0xFFFFFFFF


class SampleDropout(nn.Module):
    """Element-wise dropout that is a pure function of one seed per sample and the element's position.

    The same sample in the same epoch loses the same elements on any device, in any batch, on any number of workers, and
    after a resume: no random state needs to be kept. Elements are hashed with the 32-bit finaliser "lowbias32" of
    C. Wellons.

    Args:
        probability: share of elements set to 0; the others grow by 1 / (1 - probability).
        salt: makes the masks of several layers differ.
    """

    def __init__(self, probability: float, salt: int) -> None:
        super().__init__()
        self.probability = probability
        self.salt = salt

    def forward(self, features: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Drop elements of features (N, C, H, W) by int64 seeds (N,), which are drawn by torch if not given."""
        if not self.training or self.probability == 0:
            return features
        if seeds is None:
            seeds = torch.randint(2**62, (len(features),), device=features.device)
        return features * self._mask(features, seeds)

    def _mask(self, features: Tensor, seeds: Tensor) -> Tensor:
        _, channels, height, width = features.shape
        position = torch.arange(channels * height * width, device=features.device) + (self.salt << 32)
        noise = _mix(position & _LOW_32_BITS) ^ _mix(position >> 32)
        noise = _mix(noise ^ (seeds[:, None] & _LOW_32_BITS))
        noise = _mix(noise ^ (seeds[:, None] >> 32))
        keep = noise >= int(self.probability * 2**32)
        return keep.view(-1, channels, height, width).to(features.dtype) / (1 - self.probability)

    def extra_repr(self) -> str:
        """Describe the layer in a printed network."""
        return f"probability={self.probability}, salt={self.salt}"


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D & _LOW_32_BITS
    bits = (bits ^ (bits >> 15)) * 0x846CA68B & _LOW_32_BITS
    return bits ^ (bits >> 16)
