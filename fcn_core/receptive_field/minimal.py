"""The least of an image that keeps its class.

Segments are taken away one by one, always the one whose loss costs the class the least, until the class is lost (Zhou,
Khosla, Lapedriza, Oliva, Torralba, "Object Detectors Emerge in Deep Scene CNNs", ICLR 2015, section 3.1). The paper
takes a segment out of the gradient of the image and integrates the rest; here its pixels are filled.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from skimage import color, feature, measure, segmentation
from torch import Tensor, nn

from fcn_core.receptive_field.occlusion import Occlusion, fill_image
from fcn_core.settings import Value

Segments = NDArray[np.int64]
"""(H, W) number of the segment of each pixel, from 0."""

_BLUR_PX = 10
_LOW, _HIGH, _LINKED_PX, _THICK_PX = 0.1, 0.2, 70, 7


class Minimal(Value):
    """How an image is cut up, what is left where a segment was, and what its class is worth."""

    segments: Literal["slic", "felzenszwalb", "edges_and_regions"] = Field(
        "slic", description="superpixels by SLIC or Felzenszwalb, or linked edges and the regions between them"
    )
    num_segments: int = Field(50, ge=2, le=1000, description="of SLIC, about; time grows with the square")
    fill: Literal["mean", "grey", "blur"] = Field(
        "mean", description="what is left: the image's mean colour, the mean colour of preprocessing or a blurred image"
    )
    score: Literal["probability", "logit"] = Field("probability", description="what is to be lowered least")
    batch_size: int = Field(16, ge=1, description="candidates that go through the network at once")


class Judge(Protocol):
    """What an image is worth for a class."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map preprocessed images (N, 3, H, W) to their scores (N,) and whether they keep the class (N,) bool."""
        ...


class ImageJudge(NamedTuple):
    """The class of a classifier: kept while it has the highest of all scores, the first of equals."""

    network: nn.Module
    """Maps images (N, 3, H, W) to logits (N, C)."""
    label: int
    score: Literal["probability", "logit"] = "probability"

    @classmethod
    def of(cls, network: nn.Module, image: Tensor, score: Literal["probability", "logit"]) -> "ImageJudge":
        """Return the judge of the class that an image (1, 3, H, W) is given."""
        return cls(network, int(network(image)[0].argmax()), score)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probability or logit of the class and whether it is the highest."""
        logits = self.network(images)
        return _scored(logits, self.score)[:, self.label], logits.argmax(1) == self.label


class PixelJudge(NamedTuple):
    """A class of a segmentation, on the pixels that have it in the whole image.

    Its score is the mean over these pixels; it is kept while at least half of them have the class. Other pixels count
    for nothing: what else a removal turns into the class neither helps nor harms.
    """

    network: nn.Module
    """Maps images (N, 3, H, W) to logits (N, C, H, W)."""
    label: int
    pixels: Tensor
    """(H, W) bool."""
    score: Literal["probability", "logit"] = "probability"

    @classmethod
    def of(
        cls, network: nn.Module, image: Tensor, score: Literal["probability", "logit"], label: int | None = None
    ) -> "PixelJudge":
        """Return the judge of a class of an image (1, 3, H, W); of the one with most pixels if `label` is left out.

        Raises:
            ValueError: no pixel has the class.
        """
        labels = network(image)[0].argmax(0)
        label = int(labels.flatten().bincount().argmax()) if label is None else label
        if not (labels == label).any():
            raise ValueError("no pixel has the class")
        return cls(network, label, labels == label, score)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of probability or logit over the pixels, and whether half of them keep the class."""
        logits = self.network(images)
        score = _scored(logits, self.score)[:, self.label, self.pixels].double().mean(1)
        kept = (logits.argmax(1) == self.label)[:, self.pixels].double().mean(1) >= 0.5
        return score, kept


class MinimalImage(NamedTuple):
    """What is left of an image, and how it came to that."""

    kept: NDArray[np.bool_]
    """(H, W): the pixels of the last image that kept the class."""
    order: tuple[int, ...]
    """Segments in the order of their removal; the last cost the class, if it was lost."""
    scores: tuple[float, ...]
    """Of the whole image, and after each removal."""
    lost: bool
    """Whether the class was lost before all segments were gone."""


def segments_of(image: NDArray[np.uint8], settings: Minimal) -> Segments:
    """Cut an image (H, W, 3) uint8 RGB up, a pure function of the arguments."""
    return SEGMENTERS[settings.segments](image, settings.num_segments)


def _slic(image: NDArray[np.uint8], count: int) -> Segments:
    found: Any = segmentation.slic(image, n_segments=count, compactness=10, start_label=0)
    return _numbered(found)


def _felzenszwalb(image: NDArray[np.uint8], _count: int) -> Segments:
    found: Any = segmentation.felzenszwalb(image, scale=200, sigma=0.8, min_size=image.shape[0] * image.shape[1] // 200)
    return _numbered(found)


def _edges_and_regions(image: NDArray[np.uint8], _count: int) -> Segments:
    """Return the authors' pieces: long linked Canny edges, thickened, and quickshift's regions without them."""
    edges: Any = feature.canny(color.rgb2gray(image), sigma=1, low_threshold=_LOW, high_threshold=_HIGH)
    linked: Any = measure.label(edges, connectivity=2)
    long = np.bincount(linked.ravel()) > _LINKED_PX
    kept = np.where(edges & long[linked], linked, 0)
    thick = ndimage.maximum_filter(kept, size=_THICK_PX)  # type: ignore[attr-defined]
    regions: Any = segmentation.quickshift(image, ratio=0.5, kernel_size=5, max_dist=60)
    return _numbered(np.where(thick > 0, regions.max() + thick, regions))


SEGMENTERS: dict[str, Callable[[NDArray[np.uint8], int], Segments]] = {
    "slic": _slic,
    "felzenszwalb": _felzenszwalb,
    "edges_and_regions": _edges_and_regions,
}


def filling(image: Tensor, settings: Minimal) -> Tensor:
    """Return what is left of an image (1, 3, H, W), preprocessed, where its segments are gone."""
    return fill_image(image, Occlusion(fill=settings.fill, size=2 * _BLUR_PX))


@torch.inference_mode()
def minimal_image(image: Tensor, segments: Segments, fill: Tensor, judge: Judge, batch_size: int = 16) -> MinimalImage:
    """Take segments away one by one until the class is lost.

    Of equal scores the segment with the lowest number goes first. All is a function of the arguments alone.

    Args:
        image: (1, 3, H, W), preprocessed.
        segments: of the image; every number from 0 is there.
        fill: (1, 3, H, W), shows where segments are gone.
        judge: of the class.
        batch_size: candidates that are judged at once.

    Raises:
        ValueError: the whole image has not the class, a score is not finite, or `segments` do not fit.
    """
    numbers = torch.from_numpy(segments).to(image.device)
    if numbers.shape != image.shape[-2:] or len(np.unique(segments)) != segments.max() + 1 or segments.min() < 0:
        raise ValueError(f"segments {segments.shape} must number the pixels of the image {tuple(image.shape)} from 0")
    (score,), (has_class,) = judge(image)
    if not has_class:
        raise ValueError("the image has not the class that is to be kept")
    remaining, order, scores, lost = list(range(int(segments.max()) + 1)), [], [float(score)], False
    current, kept = image, torch.ones_like(numbers, dtype=torch.bool)
    while remaining and not lost:
        values, keeps = _judged(current, fill, numbers, remaining, judge, batch_size)
        best = int(values.argmax())
        order.append(remaining.pop(best))
        scores.append(float(values[best]))
        lost = not keeps[best]
        if not lost:
            current = torch.where(numbers == order[-1], fill, current)
            kept &= numbers != order[-1]
    return MinimalImage(kept.cpu().numpy(), tuple(order), tuple(scores), lost)


def _judged(
    current: Tensor, fill: Tensor, numbers: Tensor, remaining: list[int], judge: Judge, batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return score and class of the image without each of the remaining segments."""
    results = []
    for chunk in torch.tensor(remaining, device=numbers.device).split(batch_size):
        gone = (numbers == chunk[:, None, None])[:, None]  # (n, 1, H, W)
        results.append(judge(torch.where(gone, fill, current)))
    scores = torch.cat([score for score, _ in results]).double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise ValueError("the network gives scores that are not finite")
    return scores, torch.cat([kept for _, kept in results]).cpu().numpy()


def _scored(logits: Tensor, score: Literal["probability", "logit"]) -> Tensor:
    # Not softmax, whose last bits depend on the number of threads.
    return logits if score == "logit" else logits.log_softmax(1).exp()


def _numbered(segments: NDArray[Any]) -> Segments:
    """Return the segments numbered from 0 without gaps."""
    numbers: Segments = np.unique(segments, return_inverse=True)[1].reshape(segments.shape).astype(np.int64)
    return numbers
