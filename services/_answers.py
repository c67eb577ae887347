"""What a network finds in an image."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_core.data.pictures import Pixels
from services._models import Served
from services._negotiation import ARRAYS, JSON, PROBABILITIES


class Answer(NamedTuple):
    """What was found in one image."""

    labels: NDArray[np.uint8]
    """(H, W)."""
    confidence: NDArray[np.float32] | None
    """(H, W): the probability of each pixel's label, where it is wanted."""
    probabilities: NDArray[np.float16] | None
    """(C, H, W), where they are wanted."""


class DroppedError(Exception):
    """Nobody waits for the answer any more."""


def compute(served: Served, image: Pixels, wanted: str, dropped: threading.Event) -> Answer:
    """Bring one image through the network, alone: its answer does not depend on what else is asked for.

    Args:
        served: version.
        image: (H, W, 3) uint8 RGB.
        wanted: media type, which decides what is computed beside the labels.
        dropped: once it is set, the computation ends before the next tile or view.

    Raises:
        DroppedError: it was set.
    """
    with torch.inference_mode(), _stopping(served.predictor.network, dropped):
        scores = served.predictor.scores(image, served.inference(*image.shape[:2]))
        labels = scores.argmax(0).to(torch.uint8)
        confidence = _confidence(scores) if wanted in (JSON, ARRAYS, PROBABILITIES) else None
        probabilities = scores.log_softmax(0).exp().to(torch.float16) if wanted == PROBABILITIES else None
    return Answer(
        labels.cpu().numpy(),
        None if confidence is None else confidence.cpu().numpy(),
        None if probabilities is None else probabilities.cpu().numpy(),
    )


def _confidence(scores: Tensor) -> Tensor:
    # Not softmax, whose last bits depend on the number of threads, and without a second array of that size.
    return (scores.amax(0) - scores.logsumexp(0)).exp()


@contextmanager
def _stopping(network: nn.Module, dropped: threading.Event) -> Iterator[None]:
    """Make a network raise once `dropped` is set; it is asked once for each tile and view."""

    def stop(*_: object) -> None:
        if dropped.is_set():
            raise DroppedError

    hook = network.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        hook.remove()
