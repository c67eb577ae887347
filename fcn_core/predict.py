"""From an image to labels: the one way in validation, evaluation, figures and serving."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fcn_core import checkpoint
from fcn_core.compute import Numerics, decide
from fcn_core.data.transforms import resize_image
from fcn_core.models.preprocessing import preprocess
from fcn_core.settings import Classes, Compute, Model


class Predictor:
    """A network and what it expects of an image.

    One image at a time: its scores do not depend on what else would have been in a batch.

    Args:
        network: on its device; put into evaluation mode by each call.
        classes: of its scores.
        model: the network's settings, for the preprocessing.
        scale: images are resized by this before the network sees them.
        numerics: precision and layout, on the network's device.
    """

    def __init__(self, network: nn.Module, classes: Classes, model: Model, scale: float, numerics: Numerics) -> None:
        self.network = network
        self.classes = classes
        self.model = model
        self.scale = scale
        self.numerics = numerics

    @classmethod
    def load(cls, url: str, device: str | torch.device = "cpu") -> "Predictor":
        """Rebuild the predictor of a checkpoint, or of a run's best.

        Raises:
            FileNotFoundError: there is none.
            TornError: it is damaged.
        """
        network, card = checkpoint.load(url)
        numerics = decide(Compute(precision="bf16" if card.bf16 else "fp32"), torch.device(device))
        network = network.to(device).to(memory_format=numerics.memory_format)
        return cls(network, card.classes, card.model, card.scale, numerics)

    @torch.inference_mode()
    def scores(self, image: NDArray[np.uint8]) -> Tensor:
        """Map an image (H, W, 3) uint8 RGB of any size to scores (C, H, W) float32, at the image's own size."""
        self.network.eval()
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        small = resize_image(pixels, self.scale)[None].to(self.numerics.device)
        batch = preprocess(small, self.model.preprocessing).contiguous(memory_format=self.numerics.memory_format)
        with self.numerics.autocast():
            scores = self.network(batch).to(torch.float32)
        if scores.shape[-2:] != pixels.shape[-2:]:
            scores = functional.interpolate(scores, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        result: Tensor = scores[0]
        return result

    def labels(self, image: NDArray[np.uint8]) -> Tensor:
        """Map an image (H, W, 3) uint8 RGB to labels (H, W) uint8 on the network's device."""
        return self.scores(image).argmax(0).to(torch.uint8)
