"""From an image to labels: the one way in validation, evaluation, figures and serving."""

from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fcn_core import checkpoint
from fcn_core.compute import Numerics, decide
from fcn_core.data.transforms import resize_image
from fcn_core.models.fcn import COARSEST, FCN
from fcn_core.models.preprocessing import preprocess
from fcn_core.settings import Classes, Compute, Model, Value

TTA_ZOOMS = (0.75, 1.0, 1.25)


class Inference(Value):
    """How an image is brought through the network, beyond once and as a whole."""

    tta: bool = Field(
        False,
        description="test-time augmentation: mean of the probabilities at zoom 0.75, 1 and 1.25, each flipped too",
    )
    tile: int | None = Field(
        None,
        ge=COARSEST,
        multiple_of=COARSEST,
        description="bound the memory of large images: pixels of the side of tiles that the network sees one by one, "
        "with all around them that their scores depend on",
    )

    def describe(self) -> str:
        """Say what changes scores; tiles do not."""
        zooms = ", ".join(f"{zoom:g}" for zoom in TTA_ZOOMS)
        return f"test-time augmentation (zoom {zooms}, flipped too)" if self.tta else "no test-time augmentation"


PLAIN = Inference()


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

    def __init__(self, network: FCN, classes: Classes, model: Model, scale: float, numerics: Numerics) -> None:
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
    def scores(self, image: NDArray[np.uint8], inference: Inference = PLAIN) -> Tensor:
        """Map an image (H, W, 3) uint8 RGB of any size to scores (C, H, W) float32, at the image's own size.

        Their softmax are the probabilities; with test-time augmentation they are logarithms of probabilities.
        """
        self.network.eval()
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if not inference.tta:
            return self._view(pixels, 1.0, inference)
        views = (view for zoom in TTA_ZOOMS for view in self._both_ways(pixels, zoom, inference))
        # Not softmax, whose last bits depend on the number of threads. One view at a time: maps of scores are large.
        total = reduce(Tensor.add_, (view.log_softmax(0).exp() for view in views))
        return (total / (2 * len(TTA_ZOOMS))).clamp_min(torch.finfo(torch.float32).tiny).log()

    def labels(self, image: NDArray[np.uint8], inference: Inference = PLAIN) -> Tensor:
        """Map an image (H, W, 3) uint8 RGB to labels (H, W) uint8 on the network's device."""
        return self.scores(image, inference).argmax(0).to(torch.uint8)

    def _both_ways(self, pixels: Tensor, zoom: float, inference: Inference) -> tuple[Tensor, Tensor]:
        flipped = self._view(pixels.flip(-1).contiguous(), zoom, inference)
        return self._view(pixels, zoom, inference), flipped.flip(-1)

    def _view(self, pixels: Tensor, zoom: float, inference: Inference) -> Tensor:
        """Return scores (C, H, W) at the size of `pixels` (3, H, W), which the network sees scaled and zoomed."""
        small = resize_image(pixels, self.scale * zoom)[None].to(self.numerics.device)
        batch = preprocess(small, self.model.preprocessing).contiguous(memory_format=self.numerics.memory_format)
        with self.numerics.autocast():
            scores = self._tiled(batch, inference.tile) if inference.tile else self.network(batch)
        scores = scores.to(torch.float32)
        if scores.shape[-2:] != pixels.shape[-2:]:
            scores = functional.interpolate(scores, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        result: Tensor = scores[0]
        return result

    def _tiled(self, batch: Tensor, tile: int) -> Tensor:
        """Return what the network gives for the whole batch, from tiles.

        Each starts at a multiple of the coarsest stride, so that the units lie where they would, and comes with all
        around it that its scores depend on.
        """
        height, width = batch.shape[-2:]
        around = -(-self.network.reach // COARSEST) * COARSEST
        scores = batch.new_empty(1, len(self.classes), height, width, dtype=torch.float32)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                above, before = min(top, around), min(left, around)
                rows = slice(top - above, top + tile + around)
                columns = slice(left - before, left + tile + around)
                part = self.network(batch[..., rows, columns])[..., above : above + tile, before : before + tile]
                scores[..., top : top + tile, left : left + tile] = part
        return scores
