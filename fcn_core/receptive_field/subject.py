"""The network that is looked into, and how it sees an image."""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2

from fcn_core.data.transforms import resize_image
from fcn_core.models.preprocessing import Preprocessing, preprocess
from fcn_core.settings import Value


class View(Value):
    """How an image is brought to size before the network sees it."""

    size: int | None = None
    """Pixels: the shorter side is resized to it and the middle square taken; None leaves images as they are."""
    scale: float = 1.0
    """Images are resized by this where `size` is None."""

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map an image (H, W, 3) uint8 RGB to what of it the network sees, (h, w, 3) uint8."""
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if self.size is None:
            pixels = resize_image(pixels, self.scale)
        else:
            pixels = v2.functional.center_crop(v2.functional.resize(pixels, [self.size], antialias=True), [self.size])
        return pixels.permute(1, 2, 0).contiguous().numpy()


class Subject(NamedTuple):
    """A network in evaluation mode, in fp32, and what it expects."""

    name: str
    """What people call it."""
    network: nn.Module
    """Maps images (N, 3, H, W) to logits (N, C), or (N, C, H, W) if `dense`."""
    preprocessing: Preprocessing
    view: View
    dense: bool
    classes: tuple[str, ...]
    """Their names; none where weights are random."""
    recipe: str = ""
    """What decides the network's numbers and is neither in the names of its layers nor in its weights."""

    def tensor(self, seen: NDArray[np.uint8], device: str | torch.device = "cpu") -> Tensor:
        """Map what the network sees (h, w, 3) uint8 RGB to its input (1, 3, h, w) float32."""
        pixels = torch.from_numpy(seen).permute(2, 0, 1)[None].to(device)
        return preprocess(pixels, self.preprocessing).contiguous()

    def class_name(self, label: int) -> str:
        """Return what people call a class."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"

    def digest(self) -> str:
        """Return the SHA-256 of the network's layers, weights and recipe."""
        found = hashlib.sha256(f"{self.network} {self.recipe}".encode())
        for name, value in self.network.state_dict().items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()
